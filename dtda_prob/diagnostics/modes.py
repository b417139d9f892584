"""Does a measured value have one mode: Hartigan's dip test."""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import isotonic_regression

Points = Float[np.ndarray, " point"]


class Modes(NamedTuple):
    """A test of one mode against several.

    Attributes:
        dip: the largest difference between the distribution function of the draws and the nearest
            distribution function with one mode.
        p_value: share of uniform samples of the same size whose dip is as large.
    """

    dip: Float[np.ndarray, "..."]
    p_value: Float[np.ndarray, "..."]


def modes(draws: Float[np.ndarray, "draw ..."], num_null: int = 1999, seed: int = 0) -> Modes:
    """Test whether draws come from a distribution with one mode (Hartigan and Hartigan, 1985).

    The null is the uniform distribution, the least favourable one with a single mode: there the
    p-value, (1 + number of `num_null` uniform samples with as large a dip) / (1 + `num_null`), is
    exact; for a peaked distribution it is conservative. A small p-value means several modes; a large
    one means little if draws are few. NaN where a draw is not finite.

    Args:
        draws: leading axis the draws; all others are tested separately.
        num_null: uniform samples; the smallest p-value is 1 / (1 + `num_null`).
        seed: seed of the uniform samples.
    """
    flat = np.asarray(draws, float).reshape(len(draws), -1)
    dips = np.array([dip(column) for column in flat.T])
    as_large = num_null - np.searchsorted(_null(len(draws), num_null, seed), dips - 1e-12)
    p_value = np.where(np.isnan(dips), np.nan, (1 + as_large) / (1 + num_null))
    return Modes(dips.reshape(draws.shape[1:]), p_value.reshape(draws.shape[1:]))


def dip(draws: Float[np.ndarray, " draw"]) -> float:
    """Compute the dip of one set of draws: 0 is one mode, 1/4 two separate points of equal mass.

    Hartigan's algorithm (1985, AS 217): a modal interval shrinks while the greatest convex minorant of
    the distribution function and its least concave majorant on that interval are further apart than the
    distance already incurred outside. Hulls are isotonic regressions of slopes.
    """
    if not np.isfinite(draws).all():
        return np.nan
    points, counts = np.unique(draws, return_counts=True)
    above = np.cumsum(counts) / len(draws)
    below, gap = above - counts / len(draws), 1 / len(draws)
    first, last = 0, len(points) - 1
    while first < last:
        inside = slice(first, last + 1)
        convex, lower = _hull(points[inside], below[inside], increasing=True)
        concave, upper = _hull(points[inside], above[inside], increasing=False)
        apart = upper - lower
        if apart[np.union1d(convex, concave)].max() <= gap:
            break
        left, right = _modal_interval(apart, convex, concave)
        before, after = (above[inside] - lower)[:left], (upper - below[inside])[right + 1 :]
        gap = max(gap, before.max(initial=0.0), after.max(initial=0.0))
        first, last = first + left, first + right
    return gap / 2 if len(points) > 1 else 0.0


def _modal_interval(apart: Points, convex: Int[np.ndarray, " i"], concave: Int[np.ndarray, " j"]):
    """Return the ends of the interval around the corner where the hulls are furthest apart."""
    on_convex, on_concave = (corners[np.argmax(apart[corners])] for corners in (convex, concave))
    if apart[on_convex] > apart[on_concave]:
        return int(on_convex), int(concave[concave >= on_convex][0])
    return int(convex[convex <= on_concave][-1]), int(on_concave)


def _hull(x: Points, y: Points, increasing: bool) -> tuple[Int[np.ndarray, " corner"], Points]:
    """Return corners and values of the greatest convex minorant, or of the least concave majorant."""
    width = np.diff(x)
    slopes = isotonic_regression(np.diff(y) / width, weights=width, increasing=increasing)
    return slopes.blocks, np.interp(x, x[slopes.blocks], y[slopes.blocks])


@cache
def _null(num_draws: int, num_null: int, seed: int) -> Float[np.ndarray, " sample"]:
    uniform = np.random.default_rng(seed).random((num_null, num_draws))
    return np.sort([dip(draws) for draws in uniform])
