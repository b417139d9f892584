"""The effect of each datum on each draw, in a store: pulled in shards, resumed, and extended."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from dtda_prob.attribution.effects import Effects
from dtda_prob.fingerprints import of_source
from dtda_prob.outcomes.shards import Block, Grid, Pair, Shard
from dtda_prob.outcomes.source import keys_of
from dtda_prob.outcomes.study import Place, finish_group, group_of, key_words, study, weights_words
from dtda_prob.program import Program
from dtda_prob.storage import Growing, description

DIMS = ("run", "query")


class Keeping(NamedTuple):
    """Pull what a shard lacks, write it and record it: whoever does it again writes the same bytes.

    Attributes:
        effects: what is pulled.
        group: where it is written.
    """

    effects: Effects
    group: Growing

    def __call__(self, shard: Shard) -> int:
        """Finish a shard; give the number of its runs that are not finite."""
        start, sizes = time.monotonic(), _extents(shard.whole.size)
        if (known := self.group.num_diverging(shard.place, sizes)) is not None:
            return known  # by a worker whose report was lost
        for block in shard.missing():
            found = self.effects.of_block(block)
            self.group.write(_tree(self.effects, block, *found), _extents(block.first))
        change = self.group.read("effect", shard.place, sizes)
        diverging = int((~np.isfinite(change)).reshape(len(change), -1).any(1).sum())
        facts = {"num_diverging": diverging, "milliseconds": round(1000 * (time.monotonic() - start))}
        self.group.finish(shard.place, sizes, facts)
        return diverging


def keep_effects(
    place: Place, program: Program, effects: Effects, num_runs: int, file_columns: int
) -> Growing:
    """Pull what is missing of the effects of data on draws, into a store.

    Args:
        place: where they are kept.
        program: that of the study, with all rows.
        effects: what is pulled, a multiple of `file_columns` queries at once.
        num_runs: how many runs there are to be, at least.
        file_columns: queries of a file.

    Returns:
        The group that holds `value`, `(run, *state, query, *output)`, and `effect`, `(run, *state,
        query, datum or perturbation, *output)`.
    """
    with study(place, program):
        grid = effects.grid()
        here = _describe(effects) | {"grid": [*grid]}
        blocks = _extents(grid)
        files = blocks | {"query": file_columns}
        group = group_of(place, here, lambda: _template(effects), blocks, files)
        grid = Grid(*description(place.store, place.name)["grid"])
        wanted = max(num_runs, group.shown()["run"]), len(effects.training.measure.queries)
        group.grow(_extents(wanted))
        sizes = group.sizes().astype(int)
        shards = grid.unfinished(wanted, lambda where: tuple(sizes[where]))
        task = Keeping(effects._replace(columns=grid.columns), group)
        finish_group(place, task, shards, group, _extents(wanted))
    return group


def _describe(effects: Effects) -> dict[str, Any]:
    return of_source(effects.source) | {
        "kind": "effects",
        "key": key_words(effects.key),
        **weights_words(effects.weights),
    }


def _template(effects: Effects) -> xr.DataTree:
    """Give a run's effects on one query, all zero, for their names, sizes and types."""
    training = effects.training
    key, weights = jax.random.key(0), training.program.full_weights()
    value = jax.eval_shape(training.draw, key, weights).value
    states, output = value.shape[: effects.query_axis - 1], value.shape[effects.query_axis :]
    several = effects.weights.shape[0]
    return _tree(
        effects,
        Block((0, 0), (1, 1)),
        np.zeros((1, *states, 1, *output), value.dtype),
        np.zeros((1, *states, 1, several, *output), value.dtype),
    )


def _tree(effects: Effects, block: Block, value: np.ndarray, change: np.ndarray) -> xr.DataTree:
    runs, queries = block.ranges()
    last = str(effects.weights.dims[0])
    leading = ["run", *["state"] * (effects.query_axis - 1), "query"]
    output = ["output"] * (value.ndim - len(leading))
    key_data = np.asarray(jax.random.key_data(keys_of(effects.key, runs)))
    found = xr.Dataset(
        {
            "value": ([*leading, *output], value),
            "effect": ([*leading, last, *output], change),
            "key": (["run", "word"], key_data),
        },
        coords={
            "run": runs,
            "query": effects.training.measure.queries[queries],
            last: effects.weights[last].values,
        },
    )
    return xr.DataTree(found)


def _extents(pair: Pair) -> dict[str, int]:
    return dict(zip(DIMS, pair, strict=True))
