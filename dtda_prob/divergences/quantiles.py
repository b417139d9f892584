"""Divergences of quantiles and of the probability of a tail."""

import numpy as np
from scipy.special import betainc

from dtda_prob.divergences.divergence import Divergence, Draws, Value, centred
from dtda_prob.divergences.sorting import sorted_order, unsorted


class quantile(Divergence):
    """Shift of a quantile, Q_D' - Q_D, by the estimator of Harrell and Davis (1982).

    It averages all order statistics, which makes it smooth in the draws, so the jackknife is valid.

    Args:
        level: between 0 and 1; its name is "median" at 0.5.

    Raises:
        ValueError: if `level` is not between 0 and 1.
    """

    level: float = 0.5
    signed = True
    quantity = "the {name} of the {measure}"

    def __check_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level} must lie between 0 and 1, both excluded")

    @property
    def name(self) -> str:
        return "median" if self.level == 0.5 else f"quantile({self.level:g})"

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return _quantile(new, self.level) - _quantile(old, self.level)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return -_contributions(old, self.level), _contributions(new, self.level)


class tail_probability(Divergence):
    """Increase of the probability to exceed a threshold, P_D'(m > t) - P_D(m > t).

    Args:
        threshold: t, in the units of the measurement; a number, or an array that broadcasts against the
            axes after the draws.
    """

    threshold: float | Value
    signed = True
    quantity = "the probability that the {measure} exceeds the threshold"
    unit = ""

    @property
    def name(self) -> str:
        alone = np.ndim(self.threshold) == 0
        return f"tail_probability({self.threshold:g})" if alone else "tail_probability"

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return self._exceeds(new).mean(0) - self._exceeds(old).mean(0)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return -centred(self._exceeds(old)), centred(self._exceeds(new))

    def _exceeds(self, draws: Draws) -> Draws:
        return np.where(np.isnan(draws), np.nan, draws > self.threshold)


def _weights(num_draws: int, level: float) -> np.ndarray:
    """Return the weight of each order statistic."""
    edges = np.arange(num_draws + 1) / num_draws
    return np.diff(betainc((num_draws + 1) * level, (num_draws + 1) * (1 - level), edges))


def _quantile(draws: Draws, level: float) -> Value:
    return np.tensordot(_weights(len(draws), level), np.sort(draws, axis=0), axes=1)


def _contributions(draws: Draws, level: float) -> Draws:
    """Leave out each draw in turn: the order statistics above it take the weight one below."""
    n, order = len(draws), sorted_order(draws)
    ranked = np.take_along_axis(draws, order, 0).astype(float)
    weights = _weights(n - 1, level).reshape(-1, *(1,) * (draws.ndim - 1))
    zero = np.zeros((1, *ranked.shape[1:]))
    below = np.concatenate([zero, np.cumsum(weights * ranked[:-1], axis=0)])
    above = np.concatenate([np.cumsum((weights * ranked[1:])[::-1], axis=0)[::-1], zero])
    return unsorted((n - 1) * -centred(below + above), order)
