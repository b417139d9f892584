"""The task of a stored sample set: draw what a shard lacks, write it, record it."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from dtda_prob.outcomes.drawing import Drawing
from dtda_prob.outcomes.draws import by_draw
from dtda_prob.outcomes.shards import Block, Pair, Shard
from dtda_prob.outcomes.source import keys_of
from dtda_prob.outcomes.tree import to_datatree
from dtda_prob.storage import Growing


class Layout(NamedTuple):
    """How runs and perturbations lie in a sample set.

    Attributes:
        drawing: what is drawn.
        num_chains: chains that runs are dealt out to, where each gives a single state.
    """

    drawing: Drawing
    num_chains: int

    def extents(self, pair: Pair) -> dict[str, int]:
        """Give numbers of runs and perturbations as extents of the dimensions that grow."""
        several = self._runs_are_chains()
        runs = {"chain": pair[0]} if several else {"draw": pair[0] // self.num_chains}
        return runs | {str(dim): pair[1] for dim in self.drawing.weights.dims[:-1]}

    def pair(self, extents: dict[str, int]) -> Pair:
        """Give extents as numbers of runs and perturbations."""
        runs, *others = extents.values()
        return runs * (1 if self._runs_are_chains() else self.num_chains), (others or [1])[0]

    def tree(self, block: Block, drawn: Any) -> xr.DataTree:
        """Lay a block out as a sample set, its coordinates being those of the whole."""
        drawing, (runs, perturbations) = self.drawing, block.ranges()
        weights = drawing.weights
        if weights.ndim == 2:
            weights = weights.isel({str(weights.dims[0]): perturbations})
        else:
            drawn = jax.tree.map(lambda leaf: leaf[:, 0], drawn)
        flat = by_draw(drawing.training, drawn, weights.ndim)
        chains = len(runs) if self._runs_are_chains() else self.num_chains
        keys = keys_of(drawing.key, runs)
        tree = to_datatree(drawing.source, drawing.training, flat, keys, weights, chains)
        return _moved(tree, self.extents(block.first))

    def template(self) -> xr.DataTree:
        """Give a tree with all variables, of a few draws that are all zero."""
        size = 1 if self._runs_are_chains() else self.num_chains, 1

        def zeros(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
            return np.zeros((*size, *leaf.shape), leaf.dtype)

        return self.tree(Block((0, 0), size), jax.tree.map(zeros, self.drawing.shapes()))

    def _runs_are_chains(self) -> bool:
        return self.drawing.training.kernel.num_states > 1


class Filling(NamedTuple):
    """Finish shards: whoever does one again writes the same bytes.

    Attributes:
        layout: what is drawn, and how it lies.
        group: where it is written.
    """

    layout: Layout
    group: Growing

    def __call__(self, shard: Shard) -> int:
        """Draw what a shard lacks, write and record it; give the number of its diverging draws."""
        start, place = time.monotonic(), shard.place[: len(self.group.blocks)]
        sizes = self.layout.extents(shard.whole.size)
        if (found := self.group.num_diverging(place, sizes)) is not None:
            return found  # by a worker whose report was lost
        for block in shard.missing():
            tree = self.layout.tree(block, self.layout.drawing(block))
            self.group.write(tree, self.layout.extents(block.first))
        flags = self.group.read("sample_stats/diverging", place, sizes)
        diverging, milliseconds = int(flags.sum()), round(1000 * (time.monotonic() - start))
        self.group.finish(place, sizes, {"num_diverging": diverging, "milliseconds": milliseconds})
        return diverging

    def done(self) -> Callable[[Pair], Pair]:
        """Give how many runs and perturbations of each shard are finished, by its place."""
        sizes, dims = self.group.sizes().astype(int), [*self.group.blocks]

        def of_shard(place: Pair) -> Pair:
            extents = zip(dims, sizes[place[: len(dims)]].tolist(), strict=True)
            return self.layout.pair(dict(extents))

        return of_shard


def _moved(tree: xr.DataTree, first: dict[str, int]) -> xr.DataTree:
    """Count chains and draws from where a block starts."""

    def moved(group: xr.Dataset) -> xr.Dataset:
        counted = {
            dim: group[dim] + start
            for dim, start in first.items()
            if dim in ("chain", "draw") and dim in group.coords
        }
        return group.assign_coords(counted)

    return tree.map_over_datasets(moved)
