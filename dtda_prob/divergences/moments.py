"""Increases of moments, quantiles and probabilities: what a change does to one property of draws."""

import numpy as np
from scipy.special import betainc

from dtda_prob.divergences.divergence import (
    Divergence,
    Draws,
    Increase,
    Value,
    VectorDivergence,
    centred,
    signed_root,
)
from dtda_prob.divergences.sorting import sorted_order, unsorted


class mean(Increase):
    """Shift of the mean, E_D'[m] - E_D[m]; of vectors, its Euclidean norm.

    The norm is the root of an unbiased estimate of its square, which is negative where the shift is
    less than noise alone would give.
    """

    quantity = "the {measure}"

    def of_arm(self, draws: Draws) -> Value:
        return draws.mean(0, dtype=float)

    def terms(self, draws: Draws) -> Draws:
        return centred(draws.astype(float))

    def vector(self) -> Divergence:
        return _norm_of_shift()


class _norm_of_shift(Divergence):
    squared = True

    @property
    def name(self) -> str:
        return "mean"

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        noise = variance_of(old - new) if coupled else variance_of(old)
        floor = noise / len(old) if coupled else noise / len(old) + variance_of(new) / len(new)
        return (mean().statistic(old, new, coupled) ** 2 - floor).sum(-1)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        along = 2 * mean().statistic(old, new, coupled)
        by_old, by_new = mean().contributions(old, new, coupled)
        return (along * by_old).sum(-1), (along * by_new).sum(-1)

    def report(self, value: Value) -> Value:
        return signed_root(value)


class variance(Increase, VectorDivergence):
    """Increase of the variance, Var_D'[m] - Var_D[m], unbiased; of the total variance for vectors."""

    verbs = ("widens", "narrows")
    quantity = "the distribution of the {measure}"
    unit = "{unit}²"

    def of_arm(self, draws: Draws) -> Value:
        return variance_of(draws).sum(-1)

    def terms(self, draws: Draws) -> Draws:
        return _left_out(variances_without(draws)).sum(-1)


class log_sd_ratio(Increase, VectorDivergence):
    """Logarithm of the ratio of standard deviations, log(sd_D'[m] / sd_D[m]).

    For vectors, of the roots of the total variances. Not finite where an arm does not vary.
    """

    verbs = ("widens", "narrows")
    quantity = "the distribution of the {measure}"
    unit = ""

    def of_arm(self, draws: Draws) -> Value:
        return _half_log(variance_of(draws).sum(-1))

    def terms(self, draws: Draws) -> Draws:
        return _left_out(_half_log(variances_without(draws).sum(-1)))


class quantile(Increase):
    """Shift of a quantile, Q_D' - Q_D, by the estimator of Harrell and Davis (1982).

    It averages all order statistics, which makes it smooth in the draws, so the jackknife is valid.

    Args:
        level: between 0 and 1; its name is "median" at 0.5.

    Raises:
        ValueError: if `level` is not between 0 and 1.
    """

    level: float = 0.5

    def __check_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level} must lie between 0 and 1, both excluded")

    @property
    def name(self) -> str:
        return "median" if self.level == 0.5 else f"quantile({self.level:g})"

    def of_arm(self, draws: Draws) -> Value:
        return np.tensordot(self._weights(len(draws)), np.sort(draws, axis=0), axes=1)

    def terms(self, draws: Draws) -> Draws:
        """Leave out each draw in turn: the order statistics above it take the weight one below."""
        n, order = len(draws), sorted_order(draws)
        ranked = np.take_along_axis(draws, order, 0).astype(float)
        weights = self._weights(n - 1).reshape(-1, *(1,) * (draws.ndim - 1))
        zero = np.zeros((1, *ranked.shape[1:]))
        below = np.concatenate([zero, np.cumsum(weights * ranked[:-1], axis=0)])
        above = np.concatenate([np.cumsum((weights * ranked[1:])[::-1], axis=0)[::-1], zero])
        return unsorted((n - 1) * -centred(below + above), order)

    def _weights(self, num_draws: int) -> np.ndarray:
        """Return the weight of each order statistic."""
        edges, n = np.arange(num_draws + 1) / num_draws, num_draws + 1
        return np.diff(betainc(n * self.level, n * (1 - self.level), edges))


class tail_probability(Increase):
    """Increase of the probability to exceed a threshold, P_D'(m > t) - P_D(m > t).

    Args:
        threshold: t, in the units of the measurement; a number, or an array that broadcasts against the
            axes after the draws.
    """

    threshold: float | Value
    quantity = "the probability that the {measure} exceeds the threshold"
    unit = ""

    @property
    def name(self) -> str:
        alone = np.ndim(self.threshold) == 0
        return f"tail_probability({self.threshold:g})" if alone else "tail_probability"

    def of_arm(self, draws: Draws) -> Value:
        return self._exceeds(draws).mean(0)

    def terms(self, draws: Draws) -> Draws:
        return centred(self._exceeds(draws))

    def _exceeds(self, draws: Draws) -> Draws:
        return np.where(np.isnan(draws), np.nan, draws > self.threshold)


def variance_of(draws: Draws) -> Value:
    """Estimate the variance without bias."""
    return draws.var(0, ddof=1, dtype=float)


def variances_without(draws: Draws) -> Draws:
    """Estimate the variance with each draw left out in turn."""
    n, squares = len(draws), centred(draws.astype(float)) ** 2
    return (squares.sum(0) - n / (n - 1) * squares) / (n - 2)


def _left_out(without: Draws) -> Draws:
    """Return the jackknife's contribution of each draw from the values without it."""
    return -(len(without) - 1) * centred(without)


def _half_log(variance: Value) -> Value:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(variance) / 2
