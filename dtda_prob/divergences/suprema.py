"""Total variation and the Kolmogorov-Smirnov distance: suprema over events, without their bias.

The largest difference of empirical probabilities is far from zero when nothing moves. Here the event is
chosen by fitted normals, without the draw that is then evaluated, so that the estimate is centred on
zero when nothing moves (and can fall below it). It is slightly low otherwise, as the event chosen is
not quite the best; an event that is chosen with the draw makes it about as much too high, so that half
of their difference is part of the error.
"""

import abc

import numpy as np
from scipy.special import ndtr

from dtda_prob.divergences.divergence import Draws, SumOfMeans, Value, VectorDivergence
from dtda_prob.divergences.moments import variance_of, variances_without
from dtda_prob.divergences.normals import log_ratios


class _Supremum(SumOfMeans):
    """The difference of the probabilities of an event that the draws choose."""

    unit = ""

    @abc.abstractmethod
    def event(self, old: Draws, new: Draws, coupled: bool, left_out: bool) -> tuple[Draws, Draws]:
        """Return which draws are in the event, new ones negative."""

    def terms(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return self.event(old, new, coupled, left_out=True)

    def bias_bound(self, old: Draws, new: Draws, coupled: bool) -> Value:
        by_old, by_new = self.event(old, new, coupled, left_out=False)
        within = by_old.mean(0) + by_new.mean(0)
        return (within - self.statistic(old, new, coupled)) / 2


class total_variation(_Supremum, VectorDivergence):
    """Total variation sup_A P_D(A) - P_D'(A), between 0 and 1.

    The event is where the likelihood ratio p/q of normals, fitted without the draw at hand (and its
    partner), is above 1: for scalars two thresholds, for vectors a quadric. It is the total variation
    of the best classifier, 2 (accuracy) - 1, where the distributions are normal, and less otherwise.
    """

    def event(self, old: Draws, new: Draws, coupled: bool, left_out: bool) -> tuple[Draws, Draws]:
        by_old, by_new = log_ratios(old, new, coupled, left_out)
        return (1 + np.sign(by_old)) / 2, -(1 + np.sign(by_new)) / 2


class kolmogorov_smirnov(_Supremum):
    """Kolmogorov-Smirnov distance sup_t |P_D(m <= t) - P_D'(m <= t)| of scalars, between 0 and 1.

    The threshold is where the distribution functions of normals, fitted without the draw at hand (and
    its partner), are farthest apart. The supremum of the empirical ones moves so much with the draws
    that no interval about it covers.
    """

    def event(self, old: Draws, new: Draws, coupled: bool, left_out: bool) -> tuple[Draws, Draws]:
        if coupled or not left_out:
            at, sign = _farthest(_moments(old, left_out), _moments(new, left_out))
            return sign * (old <= at), -sign * (new <= at)
        at_old, sign_old = _farthest(_moments(old, True), _moments(new, False))
        at_new, sign_new = _farthest(_moments(old, False), _moments(new, True))
        return sign_old * (old <= at_old), -sign_new * (new <= at_new)


def _moments(draws: Draws, left_out: bool) -> tuple[Draws, Draws]:
    """Return mean and standard deviation, without each draw in turn if it is left out."""
    draws = draws.astype(float)
    mean = draws.mean(0)
    if not left_out:
        return mean, np.sqrt(variance_of(draws))
    return mean - (draws - mean) / (len(draws) - 1), np.sqrt(variances_without(draws))


def _farthest(old: tuple[Draws, Draws], new: tuple[Draws, Draws]) -> tuple[Draws, Draws]:
    """Return where two normal distribution functions are farthest apart, and the difference's sign.

    It is where their densities cross, a t^2 + 2 b t + c = 0; nowhere (NaN, 0) if they are equal.
    """
    (one, width), (other, span) = old, new
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = width**-2.0 - span**-2.0, other / span**2 - one / width**2
        c = (one / width) ** 2 - (other / span) ** 2 + 2 * np.log(width / span)
        root = b + np.where(b < 0, -1, 1) * np.sqrt(np.maximum(b * b - a * c, 0))
        first, second = -root / a, -c / root
        gaps = [ndtr((t - one) / width) - ndtr((t - other) / span) for t in (first, second)]
    gaps = np.nan_to_num(gaps)
    chosen = np.abs(gaps[0]) > np.abs(gaps[1])
    return np.where(chosen, first, second), np.sign(np.where(chosen, *gaps))
