"""Sample sets in a store: drawn shard by shard, resumed and extended."""

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from dtda_prob.fingerprints import of_source
from dtda_prob.outcomes.drawing import Drawing
from dtda_prob.outcomes.filling import Filling, Layout
from dtda_prob.outcomes.reading import Reading
from dtda_prob.outcomes.shards import Grid
from dtda_prob.outcomes.study import (
    Place,
    digest,
    finish_group,
    group_of,
    key_words,
    refuse,
    removal_of,
    study,
)
from dtda_prob.perturbations import check_weights
from dtda_prob.storage import Growing, description

WEIGHTS = "constant_data/weights"


def fill(place: Place, drawing: Drawing, num_runs: int, num_chains: int) -> tuple[xr.DataTree, bool]:
    """Draw what is missing of a sample set, into a store; see `sample`.

    Returns:
        The sample set, and whether anything of it was drawn just now.
    """
    with study(place, drawing.training.program):
        filling = _open(place, drawing, num_chains)
        group, layout = filling.group, filling.layout
        wanted = layout.extents((num_runs, drawing.num_perturbations))
        target = _with_shown(wanted, group.shown())
        group.grow(target)
        shards = layout.drawing.grid.unfinished(layout.pair(target), filling.done())
        filling = filling._replace(layout=_of_all(layout, group, layout.pair(target)[1]))
        finish_group(place, filling, shards, group, target)
    tree = xr.open_datatree(place.store, group=place.name, engine="zarr")
    leading = {dim: slice(size) for dim, size in wanted.items()}
    return tree.isel(leading, missing_dims="ignore"), bool(shards)


def _with_shown(wanted: dict[str, int], shown: dict[str, int]) -> dict[str, int]:
    """Give what there is to be: what is wanted, and of that too what readers see draws of."""
    if not min(shown.values()):
        return wanted
    return {dim: max(size, shown[dim]) for dim, size in wanted.items()}


def _of_all(layout: Layout, group: Growing, several: int) -> Layout:
    """Lay out draws of perturbations that are there, too, where more draws are asked for of fewer."""
    weights = layout.drawing.weights
    if layout.drawing.num_perturbations >= several:
        return layout
    dim = str(weights.dims[0])
    there = {dim: slice(several)}
    coords = {name: each for name, each in weights.coords.items() if dim not in each.dims}
    coords[dim] = group.select(f"constant_data/{dim}", there)
    stored = group.select(WEIGHTS, there)
    whole = xr.DataArray(stored, coords, weights.dims, "weights", weights.attrs)
    return layout._replace(drawing=replace(layout.drawing, weights=whole, _fittings={}))


def _open(place: Place, drawing: Drawing, num_chains: int) -> Filling:
    """Open the group of a sample set, which must be the same, or make it."""
    layout = Layout(drawing, num_chains)
    blocks = layout.extents((drawing.grid.runs, drawing.grid.columns))
    group = group_of(place, _describe(drawing, num_chains), layout.template, blocks)
    stored = description(place.store, place.name)
    refuse(place, _not_kept(stored, drawing) + _other_weights(group, drawing.weights))
    return Filling(Layout(_as_stored(drawing, stored), num_chains), group)


def _describe(drawing: Drawing, num_chains: int) -> dict[str, Any]:
    """Say what a sample set is drawn from, but for how many."""
    return of_source(drawing.source) | {
        "kind": "sample set",
        "key": key_words(drawing.key),
        "shared": drawing.shared,
        "old": _start(drawing),
        "removal": removal_of(drawing.weights),
        "centre": [digest(weights) for weights in drawing.centre()],
        "num_chains": num_chains if drawing.training.kernel.num_states == 1 else "runs",
        "keep": _kept(drawing),
        "grid": [*drawing.grid],
        "chunk_size": drawing.chunk_size,
    }


def _kept(drawing: Drawing) -> list[str]:
    assert isinstance(drawing.read, Reading)
    return sorted(drawing.read.keep)


def _not_kept(stored: dict[str, Any], drawing: Drawing) -> list[str]:
    lacking = set(_kept(drawing)) - set(stored["keep"])
    return [f"keep: {sorted(lacking)} were not kept"] if lacking else []


def _start(drawing: Drawing) -> str | None:
    if drawing.old is None:
        return None
    return digest(check_weights(drawing.training.program, drawing.old).values)


def _other_weights(group: Growing, weights: xr.DataArray) -> list[str]:
    """Say whether the perturbations are those that draws are there of, seen by readers or not."""
    stored, dims = group.select(WEIGHTS, {}), [*group.blocks][1:]
    if dims != [*weights.dims][:-1]:
        return [f"weights have dimensions {weights.dims}, stored {(*dims, 'datum')}"]
    if weights.ndim == 1:
        return [] if np.array_equal(stored, weights) else ["weights are others than those stored"]
    labels, names = group.select(f"constant_data/{dims[0]}", {}), weights[dims[0]].values
    if _kind(labels) != _kind(names):
        return [f"perturbations are labelled by {_kind(names)}, stored {_kind(labels)}"]
    rows = _drawn_columns(group)
    rows = rows[rows < len(weights)]
    same = (stored[rows] == weights.values[rows]).all(1)
    same &= labels[rows].astype(object) == names[rows].astype(object)
    return [
        f"perturbation {str(names[row])!r} (row {row}) is not the one stored; add others behind them"
        for row in rows[~same][:1]
    ]


def _kind(labels: np.ndarray) -> str:
    return "text" if labels.dtype.kind in "UTO" else str(labels.dtype)


def _drawn_columns(group: Growing) -> np.ndarray:
    """Give the positions of the perturbations that any draw is there of."""
    widths = group.sizes()[..., 1].astype(int).max(0, initial=0)
    starts = [*group.blocks.values()][1] * np.arange(len(widths))
    parts = [start + np.arange(width) for start, width in zip(starts, widths, strict=True)]
    return np.concatenate(parts) if parts else np.arange(0)


def _as_stored(drawing: Drawing, stored: dict[str, Any]) -> Drawing:
    """Draw in the shapes in which the draws that are there were drawn."""
    read = Reading(drawing.training, frozenset(stored["keep"]))
    grid = Grid(*stored["grid"])
    return replace(drawing, read=read, grid=grid, chunk_size=stored["chunk_size"])
