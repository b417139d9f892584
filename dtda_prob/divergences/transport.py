"""Optimal transport between sample sets: Wasserstein distances and sliced ones."""

import numpy as np

from dtda_prob.divergences.assignment import squared_distance_of_vectors
from dtda_prob.divergences.divergence import (
    Divergence,
    Draws,
    Functional,
    Value,
    centred,
    halves,
    signed_root,
)

NUM_SPLITS = 4
"""Splits of the draws into halves that a distance is averaged over."""


def wasserstein(order: int = 2) -> Divergence:
    """Wasserstein distance W_p between the distributions behind the draws.

    For numbers it is the integral of |Delta|^p over quantile levels, Delta being the difference of the
    quantiles. That between the empirical distributions is biased upwards, by what every draw (every
    pair, where coupled) adds whichever way it moves, which would hide the effect. So the two factors
    are taken from different halves of the draws: Delta_A Delta_B for p = 2, sign(Delta_A) Delta_B for
    p = 1, averaged over splits. That is centred on zero when nothing moves and can fall below it, where
    the distance is given as minus the root of the absolute integral. For p = 1 it is too low where
    Delta is about as large as its noise, as the empirical distance is too high there: the difference
    of the two is part of the error.

    For vectors and p = 2, by optimal assignment of draws in one half to those in the other: half of
    W(old_A, new_B) + W(new_A, old_B) - W(old_A, old_B) - W(new_A, new_B), which for numbers is the
    same. It wants as many draws an arm; each split leaves out one of an odd number. For p = 1 there is
    `sliced_wasserstein(order=1)`.

    Errors come from the influence of each draw, its Kantorovich potential (del Barrio, Gonzalez-Sanz
    and Loubes, arXiv 2102.06379).

    Args:
        order: p, 1 or 2.

    Raises:
        ValueError: if `order` is neither.
    """
    if order not in (1, 2):
        raise ValueError(f"order={order} must be 1 or 2")

    def statistic(old: Draws, new: Draws, coupled: bool) -> Value:
        return _split_distance(old, new, order)

    def influences(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return potential(old, new, order), potential(new, old, order)

    def doubt(old: Draws, new: Draws, coupled: bool) -> Value:
        return _empirical_distance(old, new) - _split_distance(old, new, order)

    if order == 1:
        return Divergence("wasserstein1", Functional(statistic, False, influences, doubt=doubt))
    return Divergence(
        "wasserstein",
        Functional(statistic, False, influences, signed_root, square=True),
        squared_distance_of_vectors()._replace(report=signed_root),
    )


def sliced_wasserstein(order: int = 2, num_directions: int = 64, seed: int = 0) -> Divergence:
    """Sliced Wasserstein distance of vectors: W_p^p of their projections, averaged over directions.

    Directions are uniform on the sphere, the same for all pairs (Bonneel et al., 2015). Estimated as
    `wasserstein` of numbers is.

    Args:
        order: p, 1 or 2.
        num_directions: number of directions.
        seed: seed of the directions.
    """
    number = wasserstein(order).numbers
    assert number is not None
    assert number.influences is not None
    of_number = number.influences

    def projected(draws: Draws) -> Draws:
        directions = np.random.default_rng(seed).normal(size=(draws.shape[-1], num_directions))
        return draws @ (directions / np.linalg.norm(directions, axis=0)).astype(draws.dtype)

    def statistic(old: Draws, new: Draws, coupled: bool) -> Value:
        return number.statistic(projected(old), projected(new), coupled).mean(-1)

    def influences(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        by_old, by_new = of_number(projected(old), projected(new), coupled)
        return by_old.mean(-1), by_new.mean(-1)

    def doubt(old: Draws, new: Draws, coupled: bool) -> Value:
        empirical = _empirical_distance(projected(old), projected(new)).mean(-1)
        return empirical - statistic(old, new, coupled)

    return Divergence(
        "sliced_wasserstein" if order == 2 else f"sliced_wasserstein{order}",
        vectors=number._replace(
            statistic=statistic, influences=influences, doubt=doubt if order == 1 else None
        ),
    )


def potential(draws: Draws, others: Draws, order: int) -> Draws:
    """Give the Kantorovich potential of W_p^p at each draw, centred: the influence of that draw.

    Its slope at x is that of |x - T(x)|^p, T being the monotone map to the other distribution; it is
    integrated along the sorted draws by the trapezoidal rule.
    """
    order_of = sorted_order(draws)
    ranked = np.take_along_axis(draws, order_of, 0).astype(float)
    gaps = ranked - facing(others, len(draws))
    slopes = 2 * gaps if order == 2 else np.sign(gaps)
    ranked, slopes = np.broadcast_arrays(ranked, slopes)
    steps = np.diff(ranked, axis=0) * (slopes[1:] + slopes[:-1]) / 2
    values = np.concatenate([np.zeros((1, *steps.shape[1:])), np.cumsum(steps, axis=0)])
    return unsorted(centred(values), order_of)


def facing(draws: Draws, number: int) -> Draws:
    """Give the quantiles of a sample at the levels of `number` order statistics."""
    ranked = np.sort(draws, axis=0).astype(float)
    if len(draws) == number:
        return ranked
    place = ((np.arange(number) + 0.5) * len(draws) / number - 0.5).clip(0, len(draws) - 1)
    low = np.minimum(place.astype(int), len(draws) - 2)
    share = (place - low).reshape(-1, *(1,) * (draws.ndim - 1))
    return (1 - share) * ranked[low] + share * ranked[low + 1]


def sorted_order(draws: Draws) -> np.ndarray:
    """Give the positions that sort each sample; along the contiguous axis, where sorting is fast."""
    return np.moveaxis(np.argsort(np.moveaxis(draws, 0, -1).copy(), axis=-1, kind="stable"), -1, 0)


def unsorted(values: Draws, order: np.ndarray) -> Draws:
    """Put values of sorted draws back in the order of the draws."""
    order = np.broadcast_to(order, values.shape)
    found = np.empty_like(values)
    np.put_along_axis(found, order, values, 0)
    return found


def merged_quantiles(*sizes: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Give the order statistics of samples that face each other, and for what share of probability."""
    common = np.lcm.reduce(sizes)
    ends = np.unique(np.concatenate([np.arange(1, n + 1) * (common // n) for n in sizes]))
    return [(ends - 1) // (common // n) for n in sizes], np.diff(ends, prepend=0) / common


def _empirical_distance(old: Draws, new: Draws) -> Value:
    """Give W_1 between the empirical distributions."""
    (left, right), widths = merged_quantiles(len(old), len(new))
    return np.tensordot(widths, np.abs(_ranked(old)[left] - _ranked(new)[right]), axes=1)


def _split_distance(old: Draws, new: Draws, order: int) -> Value:
    """Average over splits into halves."""
    sizes = [size for n in (len(old), len(new)) for size in (n // 2, n - n // 2)]
    places, widths = merged_quantiles(*sizes)
    total = np.zeros(np.broadcast_shapes(old.shape[1:], new.shape[1:]))
    for split in range(NUM_SPLITS):
        halves = [_ranked(half) for arm in (old, new) for half in _halves(arm, split)]
        old_a, old_b, new_a, new_b = (half[place] for half, place in zip(halves, places, strict=True))
        total += _crossed(new_a - old_a, new_b - old_b, widths, order)
    return total / NUM_SPLITS


def _halves(draws: Draws, split: int) -> tuple[Draws, Draws]:
    first, second = halves(len(draws), split, NUM_SPLITS)
    return draws[first], draws[second]


def _crossed(first: Draws, second: Draws, widths: np.ndarray, order: int) -> Value:
    """Integrate the product of two quantile differences, or of one and the other's sign."""

    def integrate(one: Draws, other: Draws) -> Value:
        return np.einsum("i,i...,i...->...", widths, one, other)

    if order == 2:
        return integrate(first, second)
    return (integrate(np.sign(first), second) + integrate(np.sign(second), first)) / 2


def _ranked(draws: Draws) -> Draws:
    return np.sort(draws, axis=0).astype(float)
