"""Divergences by quantiles and by the probability of a tail."""

import numpy as np
from scipy.special import betainc

from dtda_prob.divergences.divergence import Divergence, Draws, Functional, Value, centred
from dtda_prob.divergences.transport import sorted_order, unsorted


def quantile(level: float = 0.5) -> Divergence:
    """Shift of a quantile, Q_D' - Q_D, by the estimator of Harrell and Davis (1982).

    It weighs all order statistics, which makes it smooth in the draws, so that the jackknife is valid.

    Args:
        level: between 0 and 1.

    Raises:
        ValueError: if `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1, both excluded")

    def statistic(old: Draws, new: Draws, coupled: bool) -> Value:
        return _quantile(new, level) - _quantile(old, level)

    def influences(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return -_of_quantile(old, level), _of_quantile(new, level)

    name = "median" if level == 0.5 else f"quantile({level:g})"
    return Divergence(name, Functional(statistic, signed=True, influences=influences))


def tail_probability(threshold: float | Value) -> Divergence:
    """Increase of the probability to exceed a threshold, P_D'(m > t) - P_D(m > t).

    Args:
        threshold: t, in the units of the measurement; a number, or an array that broadcasts against the
            axes after the draws.
    """

    def exceeds(draws: Draws) -> Draws:
        return np.where(np.isnan(draws), np.nan, draws > threshold)

    def statistic(old: Draws, new: Draws, coupled: bool) -> Value:
        return exceeds(new).mean(0) - exceeds(old).mean(0)

    def influences(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return -centred(exceeds(old)), centred(exceeds(new))

    name = f"tail_probability({threshold:g})" if np.ndim(threshold) == 0 else "tail_probability"
    return Divergence(name, Functional(statistic, signed=True, influences=influences))


def _weights(num_draws: int, level: float) -> np.ndarray:
    """Give the weight of each order statistic."""
    edges = np.arange(num_draws + 1) / num_draws
    return np.diff(betainc((num_draws + 1) * level, (num_draws + 1) * (1 - level), edges))


def _quantile(draws: Draws, level: float) -> Value:
    return np.tensordot(_weights(len(draws), level), np.sort(draws, axis=0), axes=1)


def _of_quantile(draws: Draws, level: float) -> Draws:
    """Leave out each draw in turn: the order statistics above it take the weight one below."""
    n, order = len(draws), sorted_order(draws)
    ranked = np.take_along_axis(draws, order, 0).astype(float)
    weights = _weights(n - 1, level).reshape(-1, *(1,) * (draws.ndim - 1))
    zero = np.zeros((1, *ranked.shape[1:]))
    below = np.concatenate([zero, np.cumsum(weights * ranked[:-1], axis=0)])
    above = np.concatenate([np.cumsum((weights * ranked[1:])[::-1], axis=0)[::-1], zero])
    return unsorted((n - 1) * -centred(below + above), order)
