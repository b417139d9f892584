"""Divergences of class probabilities: predictive, expected and epistemic uncertainty, in nats.

An outcome is the vector of class probabilities that one trained model predicts, as measured by
`measures.prediction`. The entropy of their mean is the uncertainty of the prediction; the mean of their
entropies is the part that every model has (aleatoric); the difference, the mutual information of the
label and the model, is the part that models disagree about (epistemic; Depeweg et al., 2018).
"""

import abc

import numpy as np
from scipy.special import entr, xlogy

from dtda_prob.divergences.divergence import Divergence, Draws, Value, centred
from dtda_prob.divergences.moments import variance_of

TOLERANCE = 1e-3
"""Largest distance of the sum of probabilities from one."""


class _Entropy(Divergence):
    """Increase of a functional of class probabilities."""

    signed = True
    unit = "nats"

    @abc.abstractmethod
    def entropy(self, draws: Draws) -> Value:
        """Compute the functional of one arm."""

    @abc.abstractmethod
    def terms(self, draws: Draws) -> Draws:
        """Compute the contribution of each draw to it."""

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return self.entropy(_checked(new)) - self.entropy(_checked(old))

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return -self.terms(_checked(old)), self.terms(_checked(new))

    def scalar(self) -> Divergence:
        raise self.undefined("scalars", "vectors")

    def vector(self) -> Divergence:
        return self


class predictive_entropy(_Entropy):
    """Increase of the entropy of the predictive distribution, H(E_D'[p]) - H(E_D[p]).

    The entropy of a mean is less than the entropy of the true mean by sum_c Var(p_c) / (2 n E[p_c]) to
    first order in the number n of draws, which is added back (Miller, 1955, for counts).
    """

    quantity = "the entropy of the mean {measure}"

    def entropy(self, draws: Draws) -> Value:
        mean, variance = draws.mean(0), variance_of(draws)
        loss = np.divide(variance, mean, out=np.zeros_like(mean), where=mean != 0)
        return (entr(mean) + loss / (2 * len(draws))).sum(-1)

    def terms(self, draws: Draws) -> Draws:
        mean = draws.mean(0)
        return -xlogy(draws - mean, mean).sum(-1)


class expected_entropy(_Entropy):
    """Increase of the expected entropy of a model, E_D'[H(p)] - E_D[H(p)]: aleatoric uncertainty."""

    quantity = "the mean entropy of the {measure}"

    def entropy(self, draws: Draws) -> Value:
        return entr(draws).sum(-1).mean(0)

    def terms(self, draws: Draws) -> Draws:
        return centred(entr(draws).sum(-1))


class mutual_information(_Entropy):
    """Increase of the mutual information of label and model: epistemic uncertainty.

    It is the increase of the predictive entropy less the increase of the expected entropy.
    """

    quantity = "the disagreement between models"

    def entropy(self, draws: Draws) -> Value:
        return predictive_entropy().entropy(draws) - expected_entropy().entropy(draws)

    def terms(self, draws: Draws) -> Draws:
        return predictive_entropy().terms(draws) - expected_entropy().terms(draws)


def _checked(draws: Draws) -> Draws:
    """Check that draws are class probabilities.

    Raises:
        ValueError: if any is negative, or they do not sum to one.
    """
    draws = draws.astype(float)
    least, off = np.nanmin(draws), np.nanmax(np.abs(draws.sum(-1) - 1))
    if least < 0 or off > TOLERANCE:
        raise ValueError(
            f"entropies need class probabilities along the last axis: the least is {least:.3g} and "
            f"sums are up to {off:.3g} away from one. Use measures.prediction of a categorical, and "
            "carry its outputs (direction='push'), since a linear response in probabilities can make "
            "them negative"
        )
    return draws
