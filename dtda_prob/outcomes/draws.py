"""All draws of a sample set, in memory."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import xarray as xr
from tqdm import tqdm

from dtda_prob.engines import compute
from dtda_prob.outcomes.devices import mesh_of
from dtda_prob.outcomes.drawing import Drawing
from dtda_prob.outcomes.shards import Shard, grid_for
from dtda_prob.outcomes.source import Reader, Source
from dtda_prob.training import Training
from dtda_prob.typing import PRNGKey

CHUNK = 64
"""Trainings per compiled call."""
LOST = "were finished, and are lost: name a store to keep them"
"""What becomes of shards that nobody keeps, if they are interrupted."""


def draw_all(
    source: Source,
    key: PRNGKey,
    num_runs: int,
    weights: xr.DataArray,
    read: Reader,
    *,
    engine: Any = None,
    progress: bool = False,
    **layout: Any,
) -> Any:
    """Draw every pair of run and perturbation, and keep what `read` reads off it.

    Returns:
        What `draw_shards` gives; `layout` are further arguments of `lay_out`.
    """
    drawing = lay_out(source, key, num_runs, weights, read, engine=engine, **layout)
    return draw_shards(drawing, num_runs, engine, progress)


def lay_out(
    source: Source,
    key: PRNGKey,
    num_runs: int,
    weights: xr.DataArray,
    read: Reader,
    *,
    old: Any = None,
    chunk_size: int = CHUNK,
    engine: Any = None,
    multiple: int = 1,
    first: int = 0,
    shared: bool = True,
) -> Drawing:
    """Lay out the draws of a sample set in shards, whose runs are a multiple of some number."""
    size = num_runs, 1 if weights.ndim == 1 else len(weights)
    grid = partial(grid_for, size, chunk_size, multiple=multiple)
    drawing = Drawing(
        source, key, old, weights, read, grid(), chunk_size, mesh_of(engine), first, shared
    )
    return replace(drawing, grid=grid(all_columns=True)) if drawing.carries() else drawing


def draw_shards(drawing: Drawing, num_runs: int, engine: Any, progress: bool) -> Any:
    """Draw all shards into memory.

    Returns:
        The tree that the drawing reads, each leaf with leading axes `(draw,)` or `(draw,
        perturbation)`. All states of a run are draws; draw i is of run i modulo the number of runs.
    """
    size, found = (num_runs, drawing.num_perturbations), None

    def done(shard: Shard, part: Any) -> int:
        nonlocal found
        found = _allocate(part, size) if found is None else found
        _place(found, part, shard)
        return 0

    task, shards = partial(_draw_whole, drawing), [*drawing.grid.shards(size)]
    finish(task, shards, done, LOST, engine, progress)
    several = drawing.weights.ndim
    found = found if several == 2 else jax.tree.map(lambda leaf: leaf[:, 0], found)
    return by_draw(drawing.training, found, several)


def finish(
    task: Callable[[Shard], Any],
    shards: Sequence[Shard],
    done: Callable[[Shard, Any], int],
    so_far: str,
    engine: Any,
    progress: bool,
) -> None:
    """Have shards computed, wherever that is, and show how far it got.

    Args:
        task: what finishes a shard, and reports.
        shards: what is to be finished.
        done: takes in a report, and gives the number of diverging draws.
        so_far: what becomes of those that are finished, if this is interrupted.
        engine: see `sample`.
        progress: whether to show a bar.
    """
    if not shards:
        return
    failures = 0
    with progress_bar(sum(shard.whole.num_pairs for shard in shards), progress) as bar:

        def after(shard: Shard, report: Any) -> None:
            nonlocal failures
            failures += done(shard, report)
            bar.set_postfix({"diverging": failures}, refresh=False)
            bar.update(shard.whole.num_pairs)

        def describe(finished: int, total: int) -> str:
            return f"{finished} of {total} shards {so_far}"

        compute(
            task, shards, engine if mesh_of(engine) is None else None, done=after, describe=describe
        )


def by_draw(training: Training, found: Any, axis: int = 1) -> Any:
    """Lay the states of all runs out as draws: `(run, ..., state, ...)` to `(draw, ...)`."""
    if training.kernel.num_states == 1:
        return found

    def flat(leaf: np.ndarray) -> np.ndarray:
        moved = np.moveaxis(leaf, axis, 0)
        return moved.reshape(-1, *moved.shape[2:])

    return jax.tree.map(flat, found)


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


def _draw_whole(drawing: Drawing, shard: Shard) -> Any:
    return drawing(shard.whole)


def _allocate(part: Any, size: tuple[int, int]) -> Any:
    return jax.tree.map(lambda leaf: np.empty((*size, *leaf.shape[2:]), leaf.dtype), part)


def _place(found: Any, part: Any, shard: Shard) -> None:
    for whole, some in zip(jax.tree.leaves(found), jax.tree.leaves(part), strict=True):
        whole[shard.whole.slices()] = some
