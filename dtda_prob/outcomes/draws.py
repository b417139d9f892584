"""Draws over keys and perturbations, in compiled chunks, from device to host."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key
from tqdm import tqdm

from dtda_prob.perturbations import check_weights, num_removed
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import Draw, Outcome, PRNGKey, Pull, Push, Weights

Source = Training | PushForward
Reader = Callable[[Outcome, Weights], Any]

READ_AT_ONCE = 4
"""Outcomes read together: few, since their statistics visit all data at once."""


def draw_all(
    source: Source,
    keys: Key[Array, "draw *perturbation"],
    old: Any,
    new: xr.DataArray,
    read: Reader,
    chunk_size: int,
    progress: bool,
) -> Any:
    """Draw every pair of key and perturbation onto the host and keep what `read` reads off it.

    Keys are one per run, which all perturbations share, or one per run and perturbation. Where a
    push-forward carries outcomes that are there already, these are drawn once for all perturbations.

    Returns:
        The tree that `read` gives, each leaf with leading axes `(draw,)` or `(draw, perturbation)`. All
        states of a run are draws; draw i is of run i modulo the number of runs.
    """
    weights, removed = np.atleast_2d(new.values), np.atleast_1d(num_removed(new))
    keys = keys.reshape(len(keys), -1)
    found = None
    with progress_bar(len(keys) * len(weights), progress) as bar:
        for count in np.unique(removed):
            rows = np.flatnonzero(removed == count)
            fitting = matched(source, int(count), weights[rows])
            start = start_of(fitting, old)
            shared = keys.shape[1] == 1 and len(rows) > 1
            carried = shared and isinstance(fitting, PushForward) and fitting.carry
            chunks = _carry_pairs if carried else _push_pairs
            for part, runs, places in chunks(fitting, read, keys, start, weights, rows, chunk_size):
                found = _allocate(part, len(keys), len(weights)) if found is None else found
                _place(found, part, runs, places)
                bar.update(len(runs))
    found = found if new.ndim == 2 else jax.tree.map(lambda x: x[:, 0], found)
    return by_draw(training_of(source), found, 1 + (new.ndim == 2))


def by_draw(training: Training, found: Any, axis: int = 1) -> Any:
    """Lay the states of all runs out as draws: `(run, ..., state, ...)` to `(draw, ...)`."""
    if training.kernel.num_states == 1:
        return found

    def flat(leaf: np.ndarray) -> np.ndarray:
        moved = np.moveaxis(leaf, axis, 0)
        return moved.reshape(-1, *moved.shape[2:])

    return jax.tree.map(flat, found)


def _push_pairs(
    source: Source,
    read: Reader,
    keys: Key[Array, "run *perturbation"],
    start: Weights,
    weights: np.ndarray,
    rows: np.ndarray,
    chunk_size: int,
) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Push every pair of run and perturbation by itself, chunk by chunk."""
    for runs, several, size in _chunks(len(keys), rows, chunk_size):
        chosen = jnp.asarray(weights[several if len(rows) > 1 else rows[0]])
        part = _draw_chunk(source.push, read, keys[runs, several % keys.shape[1]], start, chosen)
        yield part, runs[:size], several[:size]


def _carry_pairs(
    source: Any,
    read: Reader,
    keys: Key[Array, "run 1"],
    start: Weights,
    weights: np.ndarray,
    rows: np.ndarray,
    chunk_size: int,
) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Draw some runs, and carry each to all perturbations, chunk by chunk."""
    together = max(1, chunk_size // source.training.kernel.num_states)
    for first in range(0, len(keys), chunk_size):
        some = keys[first : first + chunk_size, 0]
        outcomes = _draw_runs(source.training.draw, some, start)
        for runs, several, size in _chunks(len(some), rows, together):
            chosen = jax.tree.map(lambda leaf, runs=runs: leaf[runs], (some, outcomes))
            goals = jnp.asarray(weights[several])
            part = _carry_chunk(source.carry, read, *chosen, start, goals)
            yield part, first + runs[:size], several[:size]


def pull_all(
    source: PushForward,
    keys: Key[Array, " draw"],
    start: Weights,
    point: Weights | None,
    progress: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give each run's value at the start, and its response there or at another point.

    Shapes are `(*state, query, *output)` and `(*state, query, *output, datum)`.
    """
    with progress_bar(len(keys), progress) as bar:
        for draw_key in keys:
            found = _pull_one(source.training.draw, source.pull, draw_key, start, point)
            value, response = map(np.asarray, found)
            bar.update()
            yield value, response


def start_of(source: Source, old: Any) -> Weights:
    """Give the weights where a push starts: those given, or all the data that a training visits."""
    program = training_of(source).program
    return program.full_weights() if old is None else jnp.asarray(check_weights(program, old).values)


def read_value(outcome: Outcome, weights: Weights) -> Float[Array, "query *output"]:
    """Keep the measured value alone."""
    return outcome.value


def training_of(source: Source) -> Training:
    """Give the training behind a source of draws."""
    return source if isinstance(source, Training) else source.training


def matched(source: Source, removed: int, weights: np.ndarray) -> Source:
    """Give the same source for trainings in which that many rows are gone, expanded amid weights."""
    if isinstance(source, Training):
        return source.drop(removed) if removed else source
    return source.matched(removed, jnp.asarray(weights.mean(0)) if len(weights) > 1 else None)


def draw_keys(key: PRNGKey, num_runs: int, first: int = 0) -> Key[Array, " run"]:
    """Give one key per run, from run `first` on; none depends on how many there are."""
    return jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(num_runs))


def warn_not_finite(diverging: np.ndarray, consequence: str) -> None:
    """Report draws that are not finite, which are kept."""
    if diverging.any():
        warnings.warn(
            f"{diverging.sum()} of {diverging.size} draws diverge, did not converge or are not finite; "
            f"they are kept, and {consequence} (a smaller step size, more steps, or damping of the "
            "curvature, may help)",
            RuntimeWarning,
            stacklevel=3,
        )


def progress_bar(total: int, progress: bool) -> tqdm:
    """Make a bar that counts draws, shown on terminals only."""
    return tqdm(total=total, unit="draw", disable=None if progress else True, leave=False)


def _chunks(
    num_runs: int, rows: np.ndarray, chunk_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Give pairs of run and perturbation, chunk by chunk; the last one is filled by repetition."""
    pairs = np.stack([np.repeat(np.arange(num_runs), len(rows)), np.tile(rows, num_runs)])
    size = min(chunk_size, pairs.shape[1])
    for first in range(0, pairs.shape[1], size):
        chunk = pairs[:, first : first + size]
        missing = size - chunk.shape[1]
        runs, several = np.pad(chunk, ((0, 0), (0, missing)), mode="edge")
        yield runs, several, size - missing


@partial(jax.jit, static_argnames="draw")
def _draw_runs(draw: Draw, keys: Key[Array, " run"], old: Weights) -> Outcome:
    return jax.vmap(draw, (0, None))(keys, old)


@partial(jax.jit, static_argnames=("carry", "read"))
def _carry_chunk(
    carry: Callable,
    read: Reader,
    keys: Key[Array, " pair"],
    outcomes: Outcome,
    old: Weights,
    new: Float[Array, "pair datum"],
) -> Any:
    """Carry all pairs at once, and read them a few at a time."""
    carried = jax.vmap(carry, (0, 0, None, 0))(keys, outcomes, old, new)
    return jax.lax.map(lambda pair: read(*pair), (carried, new), batch_size=READ_AT_ONCE)


@partial(jax.jit, static_argnames=("push", "read"))
def _draw_chunk(
    push: Push,
    read: Reader,
    keys: Key[Array, " pair"],
    old: Weights,
    new: Float[Array, "*pair datum"],
) -> Any:
    """Draw all pairs at once, and read them a few at a time."""
    axis = None if new.ndim == 1 else 0
    outcomes = jax.vmap(push, (0, None, axis))(keys, old, new)
    if axis is None:
        return jax.lax.map(lambda outcome: read(outcome, new), outcomes, batch_size=READ_AT_ONCE)
    return jax.lax.map(lambda pair: read(*pair), (outcomes, new), batch_size=READ_AT_ONCE)


@partial(jax.jit, static_argnames=("draw", "pull"))
def _pull_one(
    draw: Draw, pull: Pull, key: PRNGKey, start: Weights, point: Weights | None
) -> tuple[Array, Array]:
    """Draw and pull in one program: where both train alike, it is compiled and run once."""
    return draw(key, start).value, pull(key, start if point is None else point)


def _allocate(part: Any, num_runs: int, num_perturbations: int) -> Any:
    def empty(x: Array) -> np.ndarray:
        return np.empty((num_runs, num_perturbations, *x.shape[1:]), x.dtype)

    return jax.tree.map(empty, part)


def _place(found: Any, part: Any, runs: np.ndarray, perturbations: np.ndarray) -> None:
    for whole, some in zip(jax.tree.leaves(found), jax.tree.leaves(part), strict=True):
        whole[runs, perturbations] = np.asarray(some)[: len(runs)]
