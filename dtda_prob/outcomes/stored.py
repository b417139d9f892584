"""Sample sets in a store: drawn shard by shard, resumed and extended."""

import json
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from dtda_prob.fingerprints import differences, of_source
from dtda_prob.outcomes.drawing import Drawing
from dtda_prob.outcomes.draws import finish
from dtda_prob.outcomes.filling import Filling, Layout
from dtda_prob.outcomes.reading import Reading
from dtda_prob.outcomes.shards import Block, Grid, Shard
from dtda_prob.outcomes.study import study
from dtda_prob.storage import ATTRIBUTE, StoreError, add, check_name, description, growing, names_in


class Place(NamedTuple):
    """Where a sample set is kept, and where it is computed.

    Attributes:
        store: folder of the store.
        name: name of the sample set.
        engine: see `sample`.
        progress: whether to show a bar.
    """

    store: Path
    name: str
    engine: Any
    progress: bool

    def __str__(self) -> str:
        return f"name={self.name!r} in store={str(self.store)!r}"


def fill(place: Place, drawing: Drawing, num_runs: int, num_chains: int) -> tuple[xr.DataTree, bool]:
    """Draw what is missing of a sample set, into a store; see `sample`.

    Returns:
        The sample set, and whether anything of it was drawn just now.
    """
    check_name(place.name)
    with study(place.store, drawing.training.program):
        filling = _open(place, drawing, num_chains)
        group, layout = filling.group, filling.layout
        wanted = layout.extents((num_runs, drawing.num_perturbations))
        target = {dim: max(size, group.shown()[dim]) for dim, size in wanted.items()}
        group.grow(target)
        shards = _unfinished(filling, target)
        group.publish(group.ready(target))

        def done(shard: Shard, num_diverging: int) -> int:
            group.publish(group.ready(target))
            return num_diverging

        so_far = f"are safe as {place}; call the same again to go on"
        finish(filling, shards, done, so_far, place.engine, place.progress)
    tree = xr.open_datatree(place.store, group=place.name, engine="zarr")
    leading = {dim: slice(size) for dim, size in wanted.items()}
    return tree.isel(leading, missing_dims="ignore"), bool(shards)


def _open(place: Place, drawing: Drawing, num_chains: int) -> Filling:
    """Open the group of a sample set, which must be the same, or make it."""
    here = _describe(drawing, num_chains)
    if place.name not in names_in(place.store):
        layout = Layout(drawing, num_chains)
        blocks = layout.extents((drawing.grid.runs, drawing.grid.columns))
        template = layout.template()
        about = json.loads(template.attrs[ATTRIBUTE]) | here | {"blocks": blocks}
        return Filling(layout, add(place.store, place.name, template, blocks, json.dumps(about)))
    stored = description(place.store, place.name)
    _refuse(place, _others(stored, here))
    _refuse(place, _other_weights(place, drawing.weights))
    layout = Layout(_as_stored(drawing, stored), num_chains)
    return Filling(layout, growing(place.store, place.name))


def _describe(drawing: Drawing, num_chains: int) -> dict[str, Any]:
    """Say what a sample set is drawn from, but for how many."""
    old = None if drawing.old is None else _digest(np.asarray(drawing.old))
    read = drawing.read
    assert isinstance(read, Reading)
    return {
        "kind": "sample",
        "source": of_source(drawing.source),
        "key": np.asarray(jax.random.key_data(drawing.key)).tolist(),
        "old": old,
        "centre": [_digest(weights) for weights in drawing.centre()],
        "num_chains": num_chains,
        "keep": sorted(read.keep),
        "grid": [*drawing.grid],
        "chunk_size": drawing.chunk_size,
    }


def _others(stored: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Name what differs, in words."""
    if stored.get("kind") != here["kind"]:
        return [f"it is no sample set but {stored.get('kind')}"]
    found = differences(stored["source"], here["source"])
    for field in ("key", "num_chains"):
        if stored[field] != here[field]:
            found.append(f"{field} is {here[field]}, stored {stored[field]}")
    if stored["old"] != here["old"]:
        found.append("old: the push starts at other weights")
    if stored["centre"] != here["centre"]:
        found.append(
            "the response is taken at the centre of the perturbations, which others move (expand it at "
            "weights of your own, at=..., to add perturbations later)"
        )
    if lacking := set(here["keep"]) - set(stored["keep"]):
        found.append(f"keep: {sorted(lacking)} were not kept")
    return found


def _other_weights(place: Place, weights: xr.DataArray) -> list[str]:
    """Say whether the perturbations begin with those that are there."""
    tree = xr.open_datatree(place.store, group=place.name, engine="zarr")
    stored = tree.children["constant_data"].to_dataset()["weights"]
    if stored.ndim != weights.ndim:
        return [f"weights have dimensions {weights.dims}, stored {stored.dims}"]
    if weights.ndim == 1:
        return [] if np.array_equal(stored, weights) else ["weights are others than those stored"]
    both = min(len(stored), len(weights))
    there, here = stored[:both], weights[:both]
    labels = here["perturbation"].values
    same = (there.values == here.values).all(1)
    same &= there["perturbation"].values.astype(str) == labels.astype(str)
    if same.all():
        return []
    row = int(np.argmin(same))
    return [
        f"perturbation {str(labels[row])!r} (row {row}) is not the one stored; add others behind them"
    ]


def _refuse(place: Place, found: list[str]) -> None:
    if found:
        raise StoreError(f"{place}: {'; '.join(found)}. Choose another name, or ask for the same")


def _as_stored(drawing: Drawing, stored: dict[str, Any]) -> Drawing:
    """Draw in the shapes in which the draws that are there were drawn."""
    read = Reading(drawing.training, frozenset(stored["keep"]))
    grid = Grid(*stored["grid"])
    return replace(drawing, read=read, grid=grid, chunk_size=stored["chunk_size"])


def _unfinished(filling: Filling, target: dict[str, int]) -> list[Shard]:
    """Give the shards that lack anything."""
    layout, group = filling.layout, filling.group
    sizes = group.sizes().astype(int)
    found = []
    for shard in layout.drawing.grid.shards(layout.pair(target)):
        row = sizes[shard.place[: len(group.blocks)]]
        done = layout.pair(dict(zip(group.blocks, map(int, row), strict=True)))
        done = done if all(row) else (0, 0)
        runs, perturbations = map(max, shard.whole.size, done)
        shard = shard._replace(whole=Block(shard.whole.first, (runs, perturbations)), done=done)
        if shard.missing():
            found.append(shard)
    return found


def _leading(tree: xr.DataTree, wanted: dict[str, int]) -> xr.DataTree:
    """Give the draws and perturbations that were asked for, of more that there may be."""
    return tree.isel({dim: slice(n) for dim, n in wanted.items()}, missing_dims="ignore")


def _digest(array: np.ndarray) -> str:
    return blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()
