"""How far apart two sample sets are: discrepancies between distributions, with errors and nulls.

Arrays have draws first, `(draw, ...)`, and every other axis is treated alike; with `vector=True` the
last axis holds the coordinates of one outcome. Draw i of both arms shares its key where the arms are
coupled. All of it runs on the host, in NumPy.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

Draws = Float[np.ndarray, "draw ..."]
Value = Float[np.ndarray, "..."]


class Divergence(NamedTuple):
    """A discrepancy between two sample sets.

    Attributes:
        name: what it is called in results.
        statistic: `(old, new, coupled, vector) -> value`, over the leading axis.
        signed: whether it can be negative for numbers, centred on zero when nothing moves.
    """

    name: str
    statistic: Callable[[Draws, Draws, bool, bool], Value]
    signed: bool


class Estimate(NamedTuple):
    """A divergence estimated from draws.

    Attributes:
        value: the estimate.
        error: its standard error, by the jackknife over draws (pairs of them, where coupled).
        null: the level that it stays below 19 times in 20 if nothing moved, from permutations;
            NaN where the divergence is signed or no permutations were asked for.
    """

    value: Value
    error: Value
    null: Value


def estimate(
    divergence: "str | Divergence | Callable",
    old: Draws,
    new: Draws,
    *,
    coupled: bool = True,
    vector: bool = False,
    num_permutations: int = 40,
    seed: int = 0,
) -> Estimate:
    """Estimate a divergence with its standard error and its null level.

    The error is the delete-a-group jackknife's with at most 32 groups of draws. Draw i of both arms is
    left out at a time, which is right whether or not they share a key; where the arms differ in
    length, draws of one arm after the other. The null permutes: it swaps old and new inside random
    pairs where coupled, and shuffles the pooled draws where independent.

    Args:
        divergence: a name from `available`, a `Divergence`, or any function `(old, new) -> value`.
        old: draws of mu_D.
        new: draws of mu_D', with the other axes alike (or broadcastable).
        coupled: whether draw i of both arms shares its key.
        vector: whether the last axis holds the coordinates of one outcome.
        num_permutations: permutations for the null level, none where the divergence is signed.
        seed: seed of the permutations.

    Raises:
        ValueError: for unknown names, fewer than 3 draws, or coupled arms of different length.
    """
    chosen = resolve(divergence)
    if min(len(old), len(new)) < 3:
        raise ValueError(f"at least 3 draws an arm are needed, got {len(old)} and {len(new)}")
    if coupled and len(old) != len(new):
        raise ValueError(
            f"coupled arms must have as many draws, got {len(old)} and {len(new)}; "
            "pass coupled=False for independent ones"
        )
    old, new = _broadcast(np.asarray(old), np.asarray(new))

    def statistic(old: Draws, new: Draws) -> Value:
        return chosen.statistic(old, new, coupled, vector)

    value = statistic(old, new)
    error = _jackknife(statistic, old, new)
    null = np.full_like(value, np.nan)
    if num_permutations and (vector or not chosen.signed):
        arms = _permutations(old, new, coupled, num_permutations, np.random.default_rng(seed))
        null = np.quantile([statistic(*arm) for arm in arms], 0.95, axis=0)
    return Estimate(value, error, null)


def mean(old: Draws, new: Draws, coupled: bool = True, vector: bool = False) -> Value:
    """Shift of the mean, E_D[m] - E_D'[m]; its Euclidean norm for vectors."""
    shift = old.mean(0, dtype=float) - new.mean(0, dtype=float)
    return np.linalg.norm(shift, axis=-1) if vector else shift


def variance(old: Draws, new: Draws, coupled: bool = True, vector: bool = False) -> Value:
    """Increase of the variance, Var_D'[m] - Var_D[m], unbiased; the total variance for vectors."""
    increase = new.var(0, ddof=1, dtype=float) - old.var(0, ddof=1, dtype=float)
    return increase.sum(-1) if vector else increase


def wasserstein(
    old: Draws, new: Draws, coupled: bool = True, vector: bool = False, order: int = 2
) -> Value:
    """Wasserstein distance W_2 (or W_1, by `order`) between the distributions behind the draws.

    For numbers and independent arms this is the distance between the two empirical distributions,
    by sorting; it is biased upwards, so compare it with the null. For coupled arms that bias would
    hide the effect (every pair that moves at all adds to it), so the two quantile differences in the
    integral of |Delta|^p are taken from different halves of the draws: Delta_A Delta_B for p = 2,
    sign(Delta_A) Delta_B for p = 1, averaged over splits. That is centred on zero when nothing moves
    and can fall below it, where W_2 is given as minus the root of the absolute integral. For
    vectors: the empirical distance by optimal assignment, which wants as many draws an arm.
    """
    if vector:
        return _over_sets(partial(_assignment_cost, order=order), old, new)
    if coupled:
        return _split_distance(old, new, order)
    left, right, widths = _merged_quantiles(len(old), len(new))
    gaps = np.sort(old, axis=0)[left] - np.sort(new, axis=0)[right]
    return np.tensordot(widths, np.abs(gaps).astype(float) ** order, axes=1) ** (1 / order)


def energy(old: Draws, new: Draws, coupled: bool = True, vector: bool = False) -> Value:
    """Energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'|, estimated without bias (it can fall below 0).

    Pairs of draws that share a key are not independent: where the arms are coupled, they are left
    out of the cross term (Szekely and Rizzo 2013, with the diagonal removed).
    """
    if vector:
        return _over_sets(partial(_energy_of_vectors, coupled=coupled), old, new)
    old, new = old.astype(float), new.astype(float)
    n, m = len(old), len(new)
    own_old, own_new = _sum_of_gaps(old), _sum_of_gaps(new)
    cross = _sum_of_gaps(np.concatenate([old, new])) - own_old - own_new
    shared = np.abs(old - new).sum(0) if coupled else 0.0
    cross = (cross - shared) / (n * (n - 1) if coupled else n * m)
    return 2 * cross - 2 * own_old / (n * (n - 1)) - 2 * own_new / (m * (m - 1))


available = {
    divergence.name: divergence
    for divergence in (
        Divergence("mean", mean, signed=True),
        Divergence("variance", variance, signed=True),
        Divergence("wasserstein1", partial(wasserstein, order=1), signed=False),
        Divergence("wasserstein", wasserstein, signed=False),
        Divergence("energy", energy, signed=False),
    )
}
"""The divergences known by name; `wasserstein` is W_2."""


def resolve(divergence: str | Divergence | Callable) -> Divergence:
    """Give a divergence by name, or make one of a function `(old, new) -> value`.

    The function gets draws first and reduces that axis alone. Its values are taken to be
    non-negative, so that they get a null level.

    Raises:
        ValueError: for unknown names.
    """
    if isinstance(divergence, Divergence):
        return divergence
    if isinstance(divergence, str):
        if divergence not in available:
            raise ValueError(f"divergence={divergence!r} must be a function or among {[*available]}")
        return available[divergence]

    def statistic(old: Draws, new: Draws, coupled: bool, vector: bool) -> Value:
        return np.asarray(divergence(old, new))

    return Divergence(getattr(divergence, "__name__", "divergence"), statistic, signed=False)


def _broadcast(old: Draws, new: Draws) -> tuple[Draws, Draws]:
    shape = np.broadcast_shapes(old.shape[1:], new.shape[1:])
    return (
        np.broadcast_to(old, (len(old), *shape)),
        np.broadcast_to(new, (len(new), *shape)),
    )


def _jackknife(statistic: Callable, old: Draws, new: Draws) -> Value:
    if len(old) == len(new):
        return np.sqrt(_spread([statistic(old[k], new[k]) for k in _leaving_out(len(old))]))
    by_old = _spread([statistic(old[k], new) for k in _leaving_out(len(old))])
    by_new = _spread([statistic(old, new[k]) for k in _leaving_out(len(new))])
    return np.sqrt(by_old + by_new)


def _leaving_out(num_draws: int, most: int = 32) -> Iterator[np.ndarray]:
    for group in np.array_split(np.arange(num_draws), min(num_draws, most)):
        yield np.setdiff1d(np.arange(num_draws), group)


def _spread(replicates: Sequence[Value]) -> Value:
    """Give the jackknife's variance from values with one group left out each."""
    return (len(replicates) - 1) * np.var(replicates, axis=0)


def _permutations(
    old: Draws, new: Draws, coupled: bool, number: int, rng: np.random.Generator
) -> Iterator[tuple[Draws, Draws]]:
    for _ in range(number):
        if coupled:
            swap = rng.random(len(old)) < 0.5
            swap = swap.reshape(-1, *(1,) * (old.ndim - 1))
            yield np.where(swap, new, old), np.where(swap, old, new)
        else:
            order = rng.permutation(len(old) + len(new))
            pooled = np.concatenate([old, new])[order]
            yield pooled[: len(old)], pooled[len(old) :]


def _merged_quantiles(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the order statistics that face each other, and for what share of probability."""
    common = np.lcm(n, m)
    ends = np.union1d(np.arange(1, n + 1) * (common // n), np.arange(1, m + 1) * (common // m))
    widths = np.diff(ends, prepend=0) / common
    return (ends - 1) // (common // n), (ends - 1) // (common // m), widths


def _split_distance(old: Draws, new: Draws, order: int, num_splits: int = 4) -> Value:
    """Average over splits into halves, neighbours in the order of draws staying together.

    Leaving out a draw, as the jackknife does, then moves few others to the other half.
    """
    n = len(old)
    total = np.zeros(old.shape[1:])
    left, right, widths = _merged_quantiles(n // 2, n - n // 2)
    for split in range(num_splits):
        rolled = np.roll(np.arange(n), split * n // (2 * num_splits))
        first, second = (
            np.sort(new[half], axis=0) - np.sort(old[half], axis=0)
            for half in (rolled[: n // 2], rolled[n // 2 :])
        )
        total += np.tensordot(widths, _crossed(first[left], second[right], order), axes=1)
    mean = total / num_splits
    return np.sign(mean) * np.abs(mean) ** (1 / order)


def _crossed(first: Draws, second: Draws, order: int) -> Draws:
    first, second = first.astype(float), second.astype(float)
    if order == 1:
        return (np.sign(first) * second + np.sign(second) * first) / 2
    return first * second


def _sum_of_gaps(draws: Draws) -> Value:
    """Sum |x_i - x_j| over unordered pairs, from the order statistics."""
    n = len(draws)
    return np.tensordot(2.0 * np.arange(n) - (n - 1), np.sort(draws, axis=0), axes=1)


def _over_sets(statistic: Callable[[Any, Any], float], old: Draws, new: Draws) -> Value:
    """Apply a statistic of two `(draw, coordinate)` sets to every pair of sets."""
    shape = old.shape[1:-1]
    values = [statistic(old[:, *i], new[:, *i]) for i in np.ndindex(shape)]
    return np.array(values).reshape(shape)


def _assignment_cost(old: np.ndarray, new: np.ndarray, order: int) -> float:
    if len(old) != len(new):
        raise ValueError(
            f"wasserstein of vectors needs as many draws an arm, got {len(old)} and {len(new)}; "
            "use energy for arms of different length"
        )
    costs = cdist(old, new) ** order
    return costs[linear_sum_assignment(costs)].mean() ** (1 / order)


def _energy_of_vectors(old: np.ndarray, new: np.ndarray, coupled: bool) -> float:
    n, m = len(old), len(new)
    between = cdist(old, new)
    cross = between.mean()
    if coupled:
        cross = (between.sum() - np.trace(between)) / (n * (n - 1))
    within = cdist(old, old).sum() / (n * (n - 1)) + cdist(new, new).sum() / (m * (m - 1))
    return float(2 * cross - within)
