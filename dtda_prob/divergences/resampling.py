"""Parts and permutations of draws: the jackknife, splits into halves, null levels and p-values."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

Array = np.ndarray
Draws = Float[Array, "draw ..."]
Value = Float[Array, "..."]
MOST_GROUPS = 32
"""Largest number of groups of draws that the jackknife leaves out in turn."""


def leave_out(statistic_of: Callable[[Array], Array], num_draws: int) -> Draws:
    """Return the jackknife's contribution of each draw to a statistic (Efron and Stein, 1981).

    Args:
        statistic_of: from the positions of the draws that are kept to the statistic.
        num_draws: number of draws; they are left out in at most `MOST_GROUPS` groups.
    """
    everything = np.arange(num_draws)
    groups = np.array_split(everything, min(num_draws, MOST_GROUPS))
    without = np.stack([statistic_of(np.setdiff1d(everything, group)) for group in groups])
    contribution = (len(groups) - 1) * (without.mean(0) - without)
    share = np.sqrt((num_draws - 1) / (len(groups) - 1))
    return np.repeat(share * contribution, [len(group) for group in groups], axis=0)


def halves(num_draws: int, split: int, num_splits: int) -> tuple[Array, Array]:
    """Return the positions of the draws in each half; the first is shorter if their number is odd.

    Draws that follow each other stay together, so that leaving one out moves few others.
    """
    rolled = np.roll(np.arange(num_draws), split * num_draws // (2 * num_splits))
    return rolled[: num_draws // 2], rolled[num_draws // 2 :]


def permutations(
    old: Draws, new: Draws, coupled: bool, number: int, num_states: int, rng: np.random.Generator
) -> Iterator[tuple[Draws, Draws]]:
    """Swap (coupled) or shuffle (independent) whole runs, `number` times."""
    old, new = np.broadcast_arrays(old, new) if coupled else _alike(old, new)
    num_old, num_new = len(old) // num_states, len(new) // num_states
    for _ in range(number):
        if coupled:
            swap = np.tile(rng.random(num_old) < 0.5, num_states)
            swap = swap.reshape(-1, *(1,) * (old.ndim - 1))
            yield np.where(swap, new, old), np.where(swap, old, new)
        else:
            order = rng.permutation(num_old + num_new)
            runs = np.concatenate([_in_runs(old, num_old), _in_runs(new, num_new)], axis=1)[:, order]
            yield _in_draws(runs[:, :num_old]), _in_draws(runs[:, num_old:])


def _in_runs(draws: Draws, num_runs: int) -> Draws:
    return draws.reshape(-1, num_runs, *draws.shape[1:])


def _in_draws(runs: Draws) -> Draws:
    return runs.reshape(-1, *runs.shape[2:])


def _alike(old: Draws, new: Draws) -> tuple[Draws, Draws]:
    shape = np.broadcast_shapes(old.shape[1:], new.shape[1:])
    return np.broadcast_to(old, (len(old), *shape)), np.broadcast_to(new, (len(new), *shape))


def upper_level(permuted: Draws, value: Value) -> Value:
    """Return the 95 % quantile over permutations; NaN without permutations."""
    return np.quantile(permuted, 0.95, axis=0) if len(permuted) else np.full(np.shape(value), np.nan)


def one_sided(value: Value, permuted: Draws) -> Value:
    """Compare each standardised value with all permutations along the last axis."""
    if not len(permuted):
        return np.full(np.shape(value), np.nan)
    everything = np.concatenate([np.asarray(value)[None], permuted])
    spread = everything.std(0)
    deviations = everything - everything.mean(0)
    standard = np.divide(deviations, spread, out=np.zeros_like(deviations), where=spread != 0)
    return _share_above(standard[0], _pooled(standard[1:]))


def _pooled(permuted: Draws) -> Draws:
    """Pool the permutations of all values along the last axis, sorted: `(..., number)`."""
    if permuted.ndim == 1:
        return np.sort(permuted)
    return np.sort(np.moveaxis(permuted, 0, -2).reshape(*permuted.shape[1:-1], -1), axis=-1)


def _share_above(observed: Value, reference: Draws) -> Value:
    """Return the share of each sorted row that is not below, of what is finite."""
    rows = reference.reshape(-1, reference.shape[-1])
    values = observed.reshape(len(rows), -1)
    known = np.isfinite(rows).sum(-1)[:, None]
    below = [np.searchsorted(row, value) for row, value in zip(rows, values, strict=True)]
    shares = (1 + known - np.stack(below)) / (1 + known)
    return np.where(np.isnan(observed), np.nan, shares.reshape(observed.shape))
