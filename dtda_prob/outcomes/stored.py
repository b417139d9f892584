"""Sample sets in a store: drawn shard by shard, resumed and extended."""

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool

from dtda_prob.fingerprints import of_source
from dtda_prob.outcomes.drawing import Drawing
from dtda_prob.outcomes.filling import Filling, Layout
from dtda_prob.outcomes.reading import Reading
from dtda_prob.outcomes.shards import Grid
from dtda_prob.outcomes.study import Place, digest, finish_group, group_of, key_words, refuse, study
from dtda_prob.storage import Growing, description, growing


def fill(place: Place, drawing: Drawing, num_runs: int, num_chains: int) -> tuple[xr.DataTree, bool]:
    """Draw what is missing of a sample set, into a store; see `sample`.

    Returns:
        The sample set, and whether anything of it was drawn just now.
    """
    with study(place, drawing.training.program):
        filling = _open(place, drawing, num_chains)
        group, layout = filling.group, filling.layout
        wanted = layout.extents((num_runs, drawing.num_perturbations))
        target = {dim: max(size, group.shown()[dim]) for dim, size in wanted.items()}
        group.grow(target)
        shards = layout.drawing.grid.unfinished(layout.pair(target), filling.done())
        finish_group(place, filling, shards, group, target)
    tree = xr.open_datatree(place.store, group=place.name, engine="zarr")
    leading = {dim: slice(size) for dim, size in wanted.items()}
    return tree.isel(leading, missing_dims="ignore"), bool(shards)


def _open(place: Place, drawing: Drawing, num_chains: int) -> Filling:
    """Open the group of a sample set, which must be the same, or make it."""
    layout = Layout(drawing, num_chains)
    blocks = layout.extents((drawing.grid.runs, drawing.grid.columns))
    group = group_of(place, _describe(drawing, num_chains), layout.template, blocks)
    stored = description(place.store, place.name)
    refuse(place, _not_kept(stored, drawing) + _other_weights(place, drawing.weights))
    return Filling(Layout(_as_stored(drawing, stored), num_chains), group)


def _describe(drawing: Drawing, num_chains: int) -> dict[str, Any]:
    """Say what a sample set is drawn from, but for how many."""
    return of_source(drawing.source) | {
        "kind": "sample set",
        "key": key_words(drawing.key),
        "shared": drawing.shared,
        "old": digest(drawing.old),
        "centre": [digest(weights) for weights in drawing.centre()],
        "num_chains": num_chains,
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


def _other_weights(place: Place, weights: xr.DataArray) -> list[str]:
    """Say whether the perturbations are those that shards were finished for, shown or not."""
    tree = xr.open_datatree(place.store, group=place.name, engine="zarr")
    stored = tree.children["constant_data"].to_dataset()["weights"]
    if stored.ndim != weights.ndim:
        return [f"weights have dimensions {weights.dims}, stored {stored.dims}"]
    if weights.ndim == 1:
        return [] if np.array_equal(stored, weights) else ["weights are others than those stored"]
    group, labels = growing(place.store, place.name), weights["perturbation"].values
    there = group.select("constant_data/weights", {})
    names = group.select("constant_data/perturbation", {})
    both = min(len(there), len(weights))
    same = (there[:both] == weights.values[:both]).all(1)
    same &= names[:both].astype(str) == labels[:both].astype(str)
    same |= ~_begun(group)[:both]
    if same.all():
        return []
    row = int(np.argmin(same))
    return [
        f"perturbation {str(labels[row])!r} (row {row}) is not the one stored; add others behind them"
    ]


def _begun(group: Growing) -> Bool[np.ndarray, " perturbation"]:
    """Say for which perturbations any shard is finished."""
    most = group.sizes()[..., 1].astype(int).max(0, initial=0)
    return (np.arange(group.blocks["perturbation"]) < most[:, None]).ravel()


def _as_stored(drawing: Drawing, stored: dict[str, Any]) -> Drawing:
    """Draw in the shapes in which the draws that are there were drawn."""
    read = Reading(drawing.training, frozenset(stored["keep"]))
    grid = Grid(*stored["grid"])
    return replace(drawing, read=read, grid=grid, chunk_size=stored["chunk_size"])
