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

    Keys are one per draw, which all perturbations share, or one per draw and perturbation.

    Returns:
        The tree that `read` gives, each leaf with leading axes `(draw,)` or `(draw, perturbation)`.
    """
    weights, removed = np.atleast_2d(new.values), np.atleast_1d(num_removed(new))
    num_draws, keys = len(keys), keys.reshape(len(keys), -1)
    found = None
    with progress_bar(num_draws * len(weights), progress) as bar:
        for count in np.unique(removed):
            rows = np.flatnonzero(removed == count)
            fitting = matched(source, int(count), weights[rows])
            push, start = fitting.push, start_of(fitting, old)
            for draws, several, size in _chunks(num_draws, rows, chunk_size):
                chosen = jnp.asarray(weights[several if len(rows) > 1 else rows[0]])
                part = _draw_chunk(push, read, keys[draws, several % keys.shape[1]], start, chosen)
                found = _allocate(part, num_draws, len(weights)) if found is None else found
                _place(found, part, draws[:size], several[:size])
                bar.update(size)
    return found if new.ndim == 2 else jax.tree.map(lambda x: x[:, 0], found)


def pull_all(
    source: PushForward,
    keys: Key[Array, " draw"],
    start: Weights,
    point: Weights | None,
    progress: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give each draw's value at the start, and its response there or at another point.

    Shapes are `(query, *output)` and `(query, *output, datum)`.
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


def draw_keys(key: PRNGKey, num_draws: int, first: int = 0) -> Key[Array, " draw"]:
    """Give one key per draw, from draw `first` on; none depends on how many there are."""
    return jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(num_draws))


def warn_not_finite(diverging: np.ndarray, consequence: str) -> None:
    """Report draws that are not finite, which are kept."""
    if diverging.any():
        warnings.warn(
            f"{diverging.sum()} of {diverging.size} draws are not finite; they are kept, and "
            f"{consequence} (a smaller learning rate, or damping of the curvature, may help)",
            RuntimeWarning,
            stacklevel=3,
        )


def progress_bar(total: int, progress: bool) -> tqdm:
    """Make a bar that counts draws, shown on terminals only."""
    return tqdm(total=total, unit="draw", disable=None if progress else True, leave=False)


def _chunks(
    num_draws: int, rows: np.ndarray, chunk_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Give pairs of draw and perturbation, chunk by chunk; the last one is filled by repetition."""
    pairs = np.stack([np.repeat(np.arange(num_draws), len(rows)), np.tile(rows, num_draws)])
    size = min(chunk_size, pairs.shape[1])
    for first in range(0, pairs.shape[1], size):
        chunk = pairs[:, first : first + size]
        missing = size - chunk.shape[1]
        draws, several = np.pad(chunk, ((0, 0), (0, missing)), mode="edge")
        yield draws, several, size - missing


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


def _allocate(part: Any, num_draws: int, num_perturbations: int) -> Any:
    def empty(x: Array) -> np.ndarray:
        return np.empty((num_draws, num_perturbations, *x.shape[1:]), x.dtype)

    return jax.tree.map(empty, part)


def _place(found: Any, part: Any, draws: np.ndarray, perturbations: np.ndarray) -> None:
    for whole, some in zip(jax.tree.leaves(found), jax.tree.leaves(part), strict=True):
        whole[draws, perturbations] = np.asarray(some)[: len(draws)]
