"""Divergences of class probabilities: predictive, expected and epistemic uncertainty, in nats.

An outcome is the vector of class probabilities that one trained model predicts, as measured by
`measures.prediction`. The entropy of their mean is the uncertainty of the prediction; the mean of their
entropies is the part that every model has (aleatoric); the difference, the mutual information of the
label and the model, is the part that models disagree about (epistemic; Depeweg et al., 2018).
"""

import numpy as np
from scipy.special import entr, xlogy

from dtda_prob.divergences.divergence import Divergence, Draws, Increase, Value, centred
from dtda_prob.divergences.moments import variance_of

TOLERANCE = 1e-3
"""Largest distance of the sum of probabilities from one."""


class _Entropy(Increase):
    """Increase of a functional of class probabilities."""

    unit = "nats"

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return super().statistic(_checked(old), _checked(new), coupled)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return super().contributions(_checked(old), _checked(new), coupled)

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

    def of_arm(self, draws: Draws) -> Value:
        mean, variance = draws.mean(0), variance_of(draws)
        loss = np.divide(variance, mean, out=np.zeros_like(mean), where=mean != 0)
        return (entr(mean) + loss / (2 * len(draws))).sum(-1)

    def terms(self, draws: Draws) -> Draws:
        mean = draws.mean(0)
        return -xlogy(draws - mean, mean).sum(-1)


class expected_entropy(_Entropy):
    """Increase of the expected entropy of a model, E_D'[H(p)] - E_D[H(p)]: aleatoric uncertainty."""

    quantity = "the mean entropy of the {measure}"

    def of_arm(self, draws: Draws) -> Value:
        return entr(draws).sum(-1).mean(0)

    def terms(self, draws: Draws) -> Draws:
        return centred(entr(draws).sum(-1))


class mutual_information(_Entropy):
    """Increase of the mutual information of label and model: epistemic uncertainty.

    It is the increase of the predictive entropy less the increase of the expected entropy.
    """

    quantity = "the disagreement between models"

    def of_arm(self, draws: Draws) -> Value:
        return predictive_entropy().of_arm(draws) - expected_entropy().of_arm(draws)

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
