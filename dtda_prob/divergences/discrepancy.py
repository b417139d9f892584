"""Kernel mean discrepancies: the maximum mean discrepancy, and the energy distance.

Both are E h(X, X') + E h(Y, Y') - 2 E h(X, Y) for a kernel h of the distance: h(d) = -d for the
energy distance (Szekely and Rizzo, 2013; Sejdinovic et al., 2013). Estimated without bias, so that they
can fall below 0: draws are not compared with themselves and, where the arms are coupled, not with their
own partners either, since draws that share a key are not independent.
"""

import abc
from collections.abc import Callable
from functools import partial

import equinox as eqx
import numpy as np
from jaxtyping import Float

from dtda_prob.divergences.divergence import Divergence, Draws, Value, VectorDivergence, centred
from dtda_prob.divergences.pairwise import Distances, means, over_pairs
from dtda_prob.divergences.sorting import sorted_order, unsorted

Array = np.ndarray
Kernel = Callable[[Array, float | Value], Array]
"""`(distances, bandwidth) -> values`."""
STEP = 0.2
"""Step of the logarithm of the bandwidth, for derivatives."""


def gaussian(distances: Array, bandwidth: float | Value) -> Array:
    """exp(-d^2 / (2 bandwidth^2))."""
    return np.exp(-0.5 * (distances / bandwidth) ** 2)


def laplacian(distances: Array, bandwidth: float | Value) -> Array:
    """exp(-d / bandwidth)."""
    return np.exp(-distances / bandwidth)


class _KernelDiscrepancy(VectorDivergence):
    """E h(X, X') + E h(Y, Y') - 2 E h(X, Y) of a kernel h of the distance."""

    squared = True
    bandwidth: eqx.AbstractVar[float | None]

    @abc.abstractmethod
    def values(self, distances: Array, width: float | Value) -> Array:
        """Evaluate the kernel."""

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return self._over_pairs(_discrepancy, old, new, coupled)[0]

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        by_old, by_new = self._over_pairs(_contributions, old, new, coupled)
        if self.bandwidth is None:
            by_old = by_old + self._over_pairs(_by_bandwidth, old, new, coupled)[0]
        return by_old, by_new

    def _over_pairs(
        self, function: Callable, old: Draws, new: Draws, coupled: bool
    ) -> tuple[Array, ...]:
        return over_pairs(partial(function, self._of_distances), old, new, coupled)

    def _of_distances(self, distances: Distances, stretch: float = 1.0) -> Distances:
        old, new, between, coupled = distances
        width = stretch * (_median(old) if self.bandwidth is None else self.bandwidth)
        return Distances(*(self.values(part, width) for part in (old, new, between)), coupled)


class mmd(_KernelDiscrepancy):
    """Squared maximum mean discrepancy, without bias (Gretton et al., 2012).

    Args:
        kernel: `(distances, bandwidth) -> values`; `gaussian`, `laplacian` or any other.
        bandwidth: the length that distances are measured by; the median distance between old draws of
            the query if None, so that all examples are compared by the same kernel.
    """

    kernel: Kernel = eqx.field(default=gaussian)
    bandwidth: float | None = None
    unit = ""

    def values(self, distances: Array, width: float | Value) -> Array:
        return self.kernel(distances, width)


class energy(Divergence):
    """Energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'|, without bias.

    Of scalars by sorting, of vectors by Euclidean distances.
    """

    squared = True

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        old, new = old.astype(float), new.astype(float)
        n, m = len(old), len(new)
        own_old, own_new = _sum_of_gaps(old), _sum_of_gaps(new)
        between = _sum_of_gaps(_pooled(old, new)) - own_old - own_new
        cross = (between - np.abs(old - new).sum(0)) / (n * (n - 1)) if coupled else between / (n * m)
        return 2 * cross - 2 * own_old / (n * (n - 1)) - 2 * own_new / (m * (m - 1))

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        old, new = old.astype(float), new.astype(float)
        n, m = len(old), len(new)
        own_old, own_new = _gaps_of_each(old), _gaps_of_each(new)
        pooled, shared = _gaps_of_each(_pooled(old, new)), np.abs(old - new) if coupled else 0.0
        from_old = (pooled[:n] - own_old - shared) / (n - 1 if coupled else m)
        from_new = (pooled[n:] - own_new - shared) / (n - 1 if coupled else n)
        by_old = 2 * (from_old - own_old / (n - 1))
        by_new = 2 * (from_new - own_new / (m - 1))
        return centred(by_old), centred(by_new)

    def vector(self) -> Divergence:
        return _energy_of_vectors()


class _energy_of_vectors(_KernelDiscrepancy):
    bandwidth: float | None = 1.0

    @property
    def name(self) -> str:
        return "energy"

    def values(self, distances: Array, width: float | Value) -> Array:
        return -distances


def _median(distances: Float[Array, "pair old old"]) -> Float[Array, "pair 1 1"]:
    """Return the median distance, 1 where all draws are equal."""
    upper = distances[:, *np.triu_indices(distances.shape[1], k=1)]
    width = np.median(upper, axis=1)
    return np.where(width == 0, 1.0, width).astype(distances.dtype)[:, None, None]


def _discrepancy(values: Callable[[Distances], Distances], distances: Distances) -> tuple[Array]:
    old, new, between, coupled = values(distances)
    within = means(old, True, 2).mean(1) + means(new, True, 2).mean(1)
    return (within - 2 * means(between, coupled, 2).mean(1),)


def _contributions(
    values: Callable[[Distances], Distances], distances: Distances
) -> tuple[Float[Array, "pair old"], Float[Array, "pair new"]]:
    old, new, between, coupled = values(distances)
    by_old = 2 * (means(old, True, 2) - means(between, coupled, 2))
    by_new = 2 * (means(new, True, 2) - means(between, coupled, 1))
    return centred(by_old.T).T, centred(by_new.T).T


def _by_bandwidth(
    values: Callable[..., Distances], distances: Distances
) -> tuple[Float[Array, "pair old"]]:
    """Return the contribution of each old draw by way of the median distance.

    It is the slope in the logarithm of the bandwidth, times how far a draw with more or less than half
    of the others within the median moves the logarithm of the median.
    """
    ends = np.exp([-STEP, STEP])
    less, more = (_discrepancy(partial(values, stretch=end), distances)[0] for end in ends)
    few, within, many = (_share_within(distances.old, end) for end in (ends[0], 1.0, ends[1]))
    density = many.mean(1) - few.mean(1)
    slope = np.divide(more - less, density, out=np.zeros_like(more), where=density > 0)
    return (-2 * slope[:, None] * (within - within.mean(1, keepdims=True)),)


def _share_within(distances: Float[Array, "pair old old"], stretch: float) -> Float[Array, "pair old"]:
    """Return the share of other draws within the median distance, stretched."""
    return means(distances <= stretch * _median(distances), True, 2)


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
