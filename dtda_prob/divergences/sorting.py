"""Order statistics of sample sets, along the draws."""

import numpy as np
from jaxtyping import Float

Draws = Float[np.ndarray, "draw ..."]


def sorted_order(draws: Draws) -> np.ndarray:
    """Return the positions that sort each sample; along the contiguous axis, where sorting is fast."""
    return np.moveaxis(np.argsort(np.moveaxis(draws, 0, -1).copy(), axis=-1, kind="stable"), -1, 0)


def unsorted(values: Draws, order: np.ndarray) -> Draws:
    """Return values of sorted draws in the order of the draws."""
    order = np.broadcast_to(order, values.shape)
    placed = np.empty_like(values)
    np.put_along_axis(placed, order, values, 0)
    return placed


def ranked(draws: Draws) -> Draws:
    """Sort the draws of each sample, in double precision."""
    return np.sort(draws, axis=0).astype(float)


def facing(draws: Draws, number: int) -> Draws:
    """Return the quantiles of a sample at the levels of `number` order statistics."""
    ordered = ranked(draws)
    if len(draws) == number:
        return ordered
    place = ((np.arange(number) + 0.5) * len(draws) / number - 0.5).clip(0, len(draws) - 1)
    low = np.minimum(place.astype(int), len(draws) - 2)
    share = (place - low).reshape(-1, *(1,) * (draws.ndim - 1))
    return (1 - share) * ordered[low] + share * ordered[low + 1]


def merged_quantiles(*sizes: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the order statistics of samples that face each other, and their shares of probability."""
    common = np.lcm.reduce(sizes)
    ends = np.unique(np.concatenate([np.arange(1, n + 1) * (common // n) for n in sizes]))
    return [(ends - 1) // (common // n) for n in sizes], np.diff(ends, prepend=0) / common
