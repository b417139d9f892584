"""Optimal transport between sample sets: Wasserstein distances and sliced ones."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from dtda_prob.divergences.divergence import Divergence, Draws, Value, centred, signed_root
from dtda_prob.divergences.resampling import halves
from dtda_prob.divergences.sorting import facing, merged_quantiles, ranked, sorted_order, unsorted

Array = np.ndarray
NUM_SPLITS = 4
"""Splits of the draws into halves that a distance is averaged over."""


class wasserstein(Divergence):
    """Wasserstein distance W_p between the distributions behind the draws.

    For scalars it is the integral of |Delta|^p over quantile levels, Delta being the difference of the
    quantiles. Between the empirical distributions it is biased upwards, by what every draw (every
    pair, where coupled) adds whichever way it moves, which would hide the effect. So the two factors
    are taken from different halves of the draws: Delta_A Delta_B for p = 2, sign(Delta_A) Delta_B for
    p = 1, averaged over splits. The estimate is centred on zero when nothing moves and can fall below
    it, where the distance is minus the root of the absolute integral. For p = 1 it is too low where
    Delta is about as large as its noise, as the empirical distance is too high there: the difference
    of the two is part of the error.

    For vectors and p = 2, by optimal assignment of draws in one half to draws in the other: half of
    W(old_A, new_B) + W(new_A, old_B) - W(old_A, old_B) - W(new_A, new_B), which for scalars is the
    same. It needs as many draws in both arms; each split leaves out one of an odd number. For p = 1
    there is `sliced_wasserstein(order=1)`.

    Errors come from the contribution of each draw, its Kantorovich potential (del Barrio,
    Gonzalez-Sanz and Loubes, arXiv 2102.06379).

    Args:
        order: p, 1 or 2. Its name is "wasserstein" for 2 and "wasserstein1" for 1.

    Raises:
        ValueError: if `order` is neither.
    """

    order: int = 2

    def __check_init__(self) -> None:
        _check_order(self.order)

    @property
    def name(self) -> str:
        return "wasserstein" if self.order == 2 else "wasserstein1"

    @property
    def squared(self) -> bool:  # ty: ignore[incompatible-property-override]
        return self.order == 2

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return _split_distance(old, new, self.order)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return potential(old, new, self.order), potential(new, old, self.order)

    def bias_bound(self, old: Draws, new: Draws, coupled: bool) -> Value | float:
        if self.order == 2:
            return 0.0
        return _empirical_distance(old, new) - _split_distance(old, new, self.order)

    def report(self, value: Value) -> Value:
        return signed_root(value) if self.order == 2 else value

    def vector(self) -> Divergence:
        return _by_assignment() if self.order == 2 else super().vector()


class _by_assignment(Divergence):
    """W_2 of vectors, by optimal assignment.

    Errors are the jackknife's, which are somewhat long: who is assigned to whom changes with each draw,
    and so do the dual potentials.
    """

    squared = True

    @property
    def name(self) -> str:
        return "wasserstein"

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        shape = np.broadcast_shapes(old.shape[1:-1], new.shape[1:-1])
        old, new = (np.broadcast_to(arm, (len(arm), *shape, arm.shape[-1])) for arm in (old, new))
        each = [_assigned_distance(old[:, *i], new[:, *i]) for i in np.ndindex(shape)]
        return np.array(each).reshape(shape)

    def report(self, value: Value) -> Value:
        return signed_root(value)


class sliced_wasserstein(Divergence):
    """Sliced Wasserstein distance of vectors: W_p^p of their projections, averaged over directions.

    Directions are uniform on the sphere, the same for all pairs (Bonneel et al., 2015). Estimated as
    `wasserstein` of scalars is.

    Args:
        order: p, 1 or 2.
        num_directions: number of directions.
        seed: seed of the directions.
    """

    order: int = 2
    num_directions: int = 64
    seed: int = 0

    def __check_init__(self) -> None:
        _check_order(self.order)

    @property
    def name(self) -> str:
        return "sliced_wasserstein" if self.order == 2 else "sliced_wasserstein1"

    @property
    def squared(self) -> bool:  # ty: ignore[incompatible-property-override]
        return self.order == 2

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return self._of_slices.statistic(self._project(old), self._project(new), coupled).mean(-1)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        arms = self._project(old), self._project(new)
        by_old, by_new = self._of_slices.contributions(*arms, coupled)
        return by_old.mean(-1), by_new.mean(-1)

    def bias_bound(self, old: Draws, new: Draws, coupled: bool) -> Value | float:
        arms = self._project(old), self._project(new)
        return np.mean(self._of_slices.bias_bound(*arms, coupled), axis=-1) if self.order == 1 else 0.0

    def report(self, value: Value) -> Value:
        return self._of_slices.report(value)

    def scalar(self) -> Divergence:
        raise self.undefined("scalars", "vectors")

    def vector(self) -> Divergence:
        return self

    @property
    def _of_slices(self) -> wasserstein:
        return wasserstein(self.order)

    def _project(self, draws: Draws) -> Draws:
        shape = draws.shape[-1], self.num_directions
        directions = np.random.default_rng(self.seed).normal(size=shape)
        return draws @ (directions / np.linalg.norm(directions, axis=0)).astype(draws.dtype)


def potential(draws: Draws, others: Draws, order: int) -> Draws:
    """Return the Kantorovich potential of W_p^p at each draw, centred: the draw's contribution.

    Its slope at x is the slope of |x - T(x)|^p, T being the monotone map to the other distribution; it
    is integrated along the sorted draws by the trapezoidal rule.
    """
    order_of = sorted_order(draws)
    ordered = np.take_along_axis(draws, order_of, 0).astype(float)
    gaps = ordered - facing(others, len(draws))
    slopes = 2 * gaps if order == 2 else np.sign(gaps)
    ordered, slopes = np.broadcast_arrays(ordered, slopes)
    steps = np.diff(ordered, axis=0) * (slopes[1:] + slopes[:-1]) / 2
    values = np.concatenate([np.zeros((1, *steps.shape[1:])), np.cumsum(steps, axis=0)])
    return unsorted(centred(values), order_of)


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise ValueError(f"order={order} must be 1 or 2")


def _empirical_distance(old: Draws, new: Draws) -> Value:
    """Compute W_1 between the empirical distributions."""
    (left, right), widths = merged_quantiles(len(old), len(new))
    return np.tensordot(widths, np.abs(ranked(old)[left] - ranked(new)[right]), axes=1)


def _split_distance(old: Draws, new: Draws, order: int) -> Value:
    """Average over splits into halves."""
    sizes = [size for n in (len(old), len(new)) for size in (n // 2, n - n // 2)]
    places, widths = merged_quantiles(*sizes)
    total = np.zeros(np.broadcast_shapes(old.shape[1:], new.shape[1:]))
    for split in range(NUM_SPLITS):
        parts = [
            ranked(arm[half]) for arm in (old, new) for half in halves(len(arm), split, NUM_SPLITS)
        ]
        old_a, old_b, new_a, new_b = (part[place] for part, place in zip(parts, places, strict=True))
        total += _crossed(new_a - old_a, new_b - old_b, widths, order)
    return total / NUM_SPLITS


def _crossed(first: Draws, second: Draws, widths: Array, order: int) -> Value:
    """Integrate the product of two quantile differences, or of one and the other's sign."""

    def integrate(one: Draws, other: Draws) -> Value:
        return np.einsum("i,i...,i...->...", widths, one, other)

    if order == 2:
        return integrate(first, second)
    return (integrate(np.sign(first), second) + integrate(np.sign(second), first)) / 2


def _assigned_distance(
    old: Float[Array, "draw coordinate"], new: Float[Array, "draw coordinate"]
) -> float:
    """Average over splits; each leaves out one of an odd number of draws."""
    if len(old) != len(new):
        raise ValueError(
            f"wasserstein of vectors needs as many draws an arm, got {len(old)} and {len(new)}; "
            "use energy or sliced_wasserstein for arms of different length"
        )
    everything, n, total = np.concatenate([old, new]), len(old), 0.0
    costs = cdist(everything, everything) ** 2
    for split in range(NUM_SPLITS):
        a, b = halves(n, split, NUM_SPLITS)
        b = b[: len(a)]
        total += _assigned(costs, a, b + n) + _assigned(costs, a + n, b)
        total -= _assigned(costs, a, b) + _assigned(costs, a + n, b + n)
    return total / (2 * NUM_SPLITS)


def _assigned(costs: Float[Array, "draw draw"], first: Array, second: Array) -> float:
    """Compute the mean cost of the optimal assignment."""
    chosen = costs[np.ix_(first, second)]
    return chosen[linear_sum_assignment(chosen)].mean()
