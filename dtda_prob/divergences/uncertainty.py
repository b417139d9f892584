"""Divergences of class probabilities: predictive, expected and epistemic uncertainty, in nats.

An outcome is the vector of probabilities that one trained model gives to the classes, as
`measures.prediction` measures it. The entropy of their mean is the uncertainty of the prediction; the
mean of their entropies is the part that every model sees (aleatoric); the difference, the mutual
information of the label and the model, is the part that they disagree about (epistemic; Depeweg et al.,
2018).
"""

from collections.abc import Callable

import numpy as np
from scipy.special import entr, xlogy

from dtda_prob.divergences.divergence import Divergence, Draws, Functional, Value, centred
from dtda_prob.divergences.moments import variance_of

TOLERANCE = 1e-3
"""How far the sum of probabilities may be from one."""


def predictive_entropy() -> Divergence:
    """Increase of the entropy of the predictive distribution, H(E_D'[p]) - H(E_D[p]).

    The entropy of a mean is less than that of the truth by sum_c Var(p_c) / (2 n E[p_c]) to first order
    in the number n of draws, which is put back (Miller, 1955, for counts).
    """
    return _increase("predictive_entropy", _of_mean, _influence_of_mean)


def expected_entropy() -> Divergence:
    """Increase of the expected entropy of a model, E_D'[H(p)] - E_D[H(p)]: aleatoric uncertainty."""
    return _increase("expected_entropy", _mean_of, _influence_of_mean_of)


def mutual_information() -> Divergence:
    """Increase of the mutual information of label and model: epistemic uncertainty.

    It is the increase of the predictive entropy less that of the expected entropy.
    """
    return _increase(
        "mutual_information",
        lambda draws: _of_mean(draws) - _mean_of(draws),
        lambda draws: _influence_of_mean(draws) - _influence_of_mean_of(draws),
    )


def _increase(
    name: str, entropy: Callable[[Draws], Value], influence: Callable[[Draws], Draws]
) -> Divergence:
    def statistic(old: Draws, new: Draws, coupled: bool) -> Value:
        return entropy(_checked(new)) - entropy(_checked(old))

    def influences(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return -influence(_checked(old)), influence(_checked(new))

    return Divergence(name, vectors=Functional(statistic, signed=True, influences=influences))


def _of_mean(draws: Draws) -> Value:
    mean, variance = draws.mean(0), variance_of(draws)
    loss = np.divide(variance, mean, out=np.zeros_like(mean), where=mean != 0)
    return (entr(mean) + loss / (2 * len(draws))).sum(-1)


def _influence_of_mean(draws: Draws) -> Draws:
    mean = draws.mean(0)
    return -xlogy(draws - mean, mean).sum(-1)


def _mean_of(draws: Draws) -> Value:
    return entr(draws).sum(-1).mean(0)


def _influence_of_mean_of(draws: Draws) -> Draws:
    return centred(entr(draws).sum(-1))


def _checked(draws: Draws) -> Draws:
    """Refuse what is not a probability.

    Raises:
        ValueError: if any is negative, or they do not sum to one.
    """
    draws = draws.astype(float)
    least, off = np.nanmin(draws), np.nanmax(np.abs(draws.sum(-1) - 1))
    if least < 0 or off > TOLERANCE:
        raise ValueError(
            f"entropies want class probabilities along the last axis: the least is {least:.3g} and "
            f"sums are up to {off:.3g} away from one. Use measures.prediction of a categorical, and "
            "carry its outputs (direction='push'), since a linear response in probabilities can make "
            "them negative"
        )
    return draws
