"""By pull: what each datum's removal, or each perturbation, does to each draw of some queries."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh
from jaxtyping import Float

from dtda_prob.outcomes.devices import all_devices
from dtda_prob.outcomes.pulling import pull_block, queries_at_once
from dtda_prob.outcomes.shards import Block, Grid, Shard
from dtda_prob.outcomes.source import keys_of, start_of
from dtda_prob.perturbations import num_removed
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, Weights


class Effects(NamedTuple):
    """Pull the responses of some runs and queries, and apply them to perturbations.

    Attributes:
        source: the push-forward, made for the number of rows that the perturbations leave.
        key: one typed key.
        start: the weights that draws start from.
        point: where responses are taken; the start if None.
        weights: the perturbations, `(perturbation, datum)`, or `(datum,)` where each datum is removed
            in turn.
        columns: queries that are pulled at once.
        first: runs to pass over.
        mesh: devices; all of the process that pulls if None.
    """

    source: PushForward
    key: PRNGKey
    start: Weights
    point: Weights | None
    weights: xr.DataArray
    columns: int
    first: int = 0
    mesh: Mesh | None = None

    def __call__(self, shard: Shard) -> tuple[np.ndarray, np.ndarray]:
        """Pull a shard of runs and queries; see `of_block`."""
        return self.of_block(shard.whole)

    def of_block(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Pull a block of runs, and of queries that are filled up to the number of columns.

        Returns:
            The measured values on all data, `(run, *state, query, *output)`, and their changes, `(run,
            *state, query, datum or perturbation, *output)`.
        """
        runs, queries = block.ranges()
        keys = keys_of(self.key, self.first + runs)
        filled = np.pad(queries, (0, self.columns - len(queries)), mode="edge")
        found = pull_block(self.source, keys, self.start, self.point, filled, self.devices())
        cut = (slice(None),) * self.query_axis + (slice(len(queries)),)
        value, response = (leaf[cut] for leaf in found)
        return value, self._change(response)

    @property
    def training(self) -> Training:
        """Give the training whose draws these are."""
        return self.source.training

    @property
    def query_axis(self) -> int:
        """Give the axis of queries in what is pulled."""
        return 1 + (self.training.kernel.num_states > 1)

    def grid(self) -> Grid:
        """Choose shards of one run per device."""
        devices = self.devices()
        return Grid(1 if devices is None else devices.shape["draw"], self.columns)

    def devices(self) -> Mesh | None:
        """Give the devices that share a pull, if there are several."""
        return all_devices() if self.mesh is None else self.mesh

    def _change(self, response: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Apply responses to each change of weights."""
        weights, start = self.weights.values, np.asarray(self.start)
        if weights.ndim == 1:
            change = -response * start
        else:
            change = response @ (weights - start).T.astype(response.dtype)
        return np.moveaxis(change, -1, self.query_axis + 1)


def longest(effects: Effects, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the perturbations that move the first run most, over all queries.

    Returns:
        Their positions, and the values that they move it to, `(*state, query, perturbation, *output)`.
    """
    axis = effects.query_axis
    shards = [*Grid(1, effects.columns).shards((1, len(effects.training.measure.queries)))]
    # A second pull of the run is cheaper than to hold the first one, unless that is all there is.
    pulled = [effects(shards[0])] if len(shards) == 1 else None
    squares = sum(
        (change**2).sum(tuple(i for i in range(change.ndim) if i != axis + 1), dtype=float)
        for _, change in pulled or map(effects, shards)
    )
    positions = np.argsort(-np.asarray(squares))[:most]
    parts = [
        np.expand_dims(value, axis + 1) + change.take(positions, axis + 1)
        for value, change in pulled or map(effects, shards)
    ]
    return positions, np.concatenate(parts, axis)[0]


def effects_of(
    source: PushForward,
    key: PRNGKey,
    weights: xr.DataArray,
    *,
    columns: int | None = None,
    first: int = 0,
    mesh: Mesh | None = None,
) -> Effects:
    """Say what is pulled for some perturbations, where, and how many queries at once.

    Raises:
        ValueError: if the perturbations drop different numbers of rows.
    """
    removed = np.unique(num_removed(weights))
    if len(removed) > 1:
        raise ValueError(
            f"perturbations drop different numbers of rows ({removed.tolist()}), and each is another "
            "training: attribute them apart, by removal='reweight', or with direction='push'"
        )
    fitting = source.matched(int(removed[0]))
    start = start_of(fitting, None)
    point = _point(source, start, weights)
    columns = columns or queries_at_once(fitting.training, weights.shape[-1])
    return Effects(fitting, key, start, point, weights, columns, first, mesh)


def _point(source: PushForward, start: Weights, weights: xr.DataArray) -> Weights | None:
    """Give the centre of the perturbations: their mean, or halfway to the only one; None: the start."""
    if weights.ndim == 1 or not isinstance(source.at, str) or source.at == "old":
        return None
    if len(weights) == 1:
        return (start + jnp.asarray(weights.values[0])) / 2
    return jnp.asarray(weights.values.mean(0)) if source.at == "centre" else None
