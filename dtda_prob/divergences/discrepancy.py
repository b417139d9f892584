"""Kernel mean discrepancies: the maximum mean discrepancy, and the energy distance.

Both are E h(X, X') + E h(Y, Y') - 2 E h(X, Y) for a kernel h of the distance: h(d) = -d for the
energy distance (Szekely and Rizzo, 2013; Sejdinovic et al., 2013). Estimated without bias, so that they
can fall below 0: draws are not compared with themselves and, where the arms are coupled, not with their
own partners either, since draws that share a key are not independent.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float

from dtda_prob.divergences.divergence import Divergence, Draws, Functional, Value, centred
from dtda_prob.divergences.pairwise import Distances, means, over_pairs
from dtda_prob.divergences.transport import sorted_order, unsorted

Array = np.ndarray
Kernel = Callable[[Array, float | Value], Array]
"""`(distances, bandwidth) -> values`."""
STEP = 0.2
"""Of the logarithm of the bandwidth, for derivatives."""


def gaussian(distances: Array, bandwidth: float | Value) -> Array:
    """exp(-d^2 / (2 bandwidth^2))."""
    return np.exp(-0.5 * (distances / bandwidth) ** 2)


def laplacian(distances: Array, bandwidth: float | Value) -> Array:
    """exp(-d / bandwidth)."""
    return np.exp(-distances / bandwidth)


def energy() -> Divergence:
    """Energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'|, without bias.

    Of numbers by sorting, of vectors by Euclidean distances.
    """

    def negative(distances: Array, bandwidth: float | Value) -> Array:
        return -distances

    numbers = Functional(_energy_of_numbers, False, _of_energy_of_numbers, square=True)
    return Divergence("energy", numbers, _functional(negative, bandwidth=1.0, vector=True))


def mmd(kernel: Kernel = gaussian, bandwidth: float | None = None) -> Divergence:
    """Squared maximum mean discrepancy, without bias (Gretton et al., 2012).

    Args:
        kernel: `(distances, bandwidth) -> values`; `gaussian`, `laplacian` or any other.
        bandwidth: the length that distances are measured by; the median distance between old draws of
            the query if None, so that all data are compared by the same kernel.
    """
    return Divergence(
        "mmd", *(_functional(kernel, bandwidth, vector=vector) for vector in (False, True))
    )


def _functional(kernel: Kernel, bandwidth: float | None, vector: bool) -> Functional:
    def compare(function: Callable, old: Draws, new: Draws, coupled: bool) -> tuple[Array, ...]:
        found = partial(function, partial(_values, kernel, bandwidth))
        return over_pairs(found, old, new, coupled, vector)

    def statistic(old: Draws, new: Draws, coupled: bool) -> Value:
        return compare(_discrepancy, old, new, coupled)[0]

    def influences(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        by_old, by_new = compare(_of_discrepancy, old, new, coupled)
        if bandwidth is None:
            by_old = by_old + compare(_of_bandwidth, old, new, coupled)[0]
        return by_old, by_new

    return Functional(statistic, signed=False, influences=influences, square=True)


def _values(
    kernel: Kernel, bandwidth: float | None, distances: Distances, stretch: float = 1.0
) -> Distances:
    width = stretch * (_median(distances.old) if bandwidth is None else bandwidth)
    old, new, between, coupled = distances
    return Distances(*(kernel(part, width) for part in (old, new, between)), coupled)


def _median(distances: Float[Array, "pair old old"]) -> Float[Array, "pair 1 1"]:
    """Give the median distance, 1 where all draws are alike."""
    upper = distances[:, *np.triu_indices(distances.shape[1], k=1)]
    width = np.median(upper, axis=1)
    return np.where(width == 0, 1.0, width).astype(distances.dtype)[:, None, None]


def _discrepancy(values: Callable[[Distances], Distances], distances: Distances) -> tuple[Array]:
    old, new, between, coupled = values(distances)
    within = means(old, True, 2).mean(1) + means(new, True, 2).mean(1)
    return (within - 2 * means(between, coupled, 2).mean(1),)


def _of_discrepancy(
    values: Callable[[Distances], Distances], distances: Distances
) -> tuple[Float[Array, "pair old"], Float[Array, "pair new"]]:
    old, new, between, coupled = values(distances)
    by_old = 2 * (means(old, True, 2) - means(between, coupled, 2))
    by_new = 2 * (means(new, True, 2) - means(between, coupled, 1))
    return centred(by_old.T).T, centred(by_new.T).T


def _of_bandwidth(
    values: Callable[..., Distances], distances: Distances
) -> tuple[Float[Array, "pair old"]]:
    """Give the influence of each old draw on the discrepancy by way of the median distance.

    That is the slope in the logarithm of the bandwidth, times how far a draw with more or less than
    half of the others within the median moves the logarithm of the median.
    """
    ends = np.exp([-STEP, STEP])
    less, more = (_discrepancy(partial(values, stretch=end), distances)[0] for end in ends)
    few, within, many = (_share_within(distances.old, end) for end in (ends[0], 1.0, ends[1]))
    density = many.mean(1) - few.mean(1)
    slope = np.divide(more - less, density, out=np.zeros_like(more), where=density > 0)
    return (-2 * slope[:, None] * (within - within.mean(1, keepdims=True)),)


def _share_within(distances: Float[Array, "pair old old"], stretch: float) -> Float[Array, "pair old"]:
    """Give the share of other draws within the median distance, stretched."""
    return means(distances <= stretch * _median(distances), True, 2)


def _energy_of_numbers(old: Draws, new: Draws, coupled: bool) -> Value:
    old, new = old.astype(float), new.astype(float)
    n, m = len(old), len(new)
    own_old, own_new = _sum_of_gaps(old), _sum_of_gaps(new)
    between = _sum_of_gaps(_pooled(old, new)) - own_old - own_new
    cross = (between - np.abs(old - new).sum(0)) / (n * (n - 1)) if coupled else between / (n * m)
    return 2 * cross - 2 * own_old / (n * (n - 1)) - 2 * own_new / (m * (m - 1))


def _of_energy_of_numbers(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
    old, new = old.astype(float), new.astype(float)
    n, m = len(old), len(new)
    own_old, own_new = _gaps_of_each(old), _gaps_of_each(new)
    pooled, shared = _gaps_of_each(_pooled(old, new)), np.abs(old - new) if coupled else 0.0
    from_old = (pooled[:n] - own_old - shared) / (n - 1 if coupled else m)
    from_new = (pooled[n:] - own_new - shared) / (n - 1 if coupled else n)
    by_old = 2 * (from_old - own_old / (n - 1))
    by_new = 2 * (from_new - own_new / (m - 1))
    return centred(by_old), centred(by_new)


def _pooled(old: Draws, new: Draws) -> Draws:
    shape = np.broadcast_shapes(old.shape[1:], new.shape[1:])
    return np.concatenate([np.broadcast_to(arm, (len(arm), *shape)) for arm in (old, new)])


def _sum_of_gaps(draws: Draws) -> Value:
    """Sum |x_i - x_j| over unordered pairs, from the order statistics."""
    n = len(draws)
    return np.tensordot(2.0 * np.arange(n) - (n - 1), np.sort(draws, axis=0), axes=1)


def _gaps_of_each(draws: Draws) -> Draws:
    """Sum |x_i - x_j| over j, for each i, from the order statistics."""
    order = sorted_order(draws)
    ranked = np.take_along_axis(draws, order, 0)
    place = np.arange(len(draws)).reshape(-1, *(1,) * (draws.ndim - 1))
    through = np.cumsum(ranked, axis=0)
    sums = ranked * (2 * place + 2 - len(draws)) + through[-1] - 2 * through
    return unsorted(sums, order)
