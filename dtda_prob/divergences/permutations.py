"""Permutations of draws, and the null levels and p-values that they determine."""

from collections.abc import Iterator

import numpy as np

from dtda_prob.divergences.divergence import Draws, Value


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
