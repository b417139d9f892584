"""Responses of a block of queries, run after run, on one device or over a mesh of several."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.stages import Compiled
from jaxtyping import Array, Float, Int, Key

from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.pulling import of_queries
from dtda_prob.typing import PRNGKey, Pull, Queries, Weights

NUMBERS = 2**24
"""Of the responses that are pulled at once, unless those of a single query are more."""
Found = tuple[Float[Array, "run ..."], Float[Array, "run ... datum"]]


def pull_block(
    source: PushForward,
    keys: Key[Array, " run"],
    start: Weights,
    point: Weights | None,
    queries: Int[np.ndarray, " block"],
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Give the values of runs at the start, and their responses there or at another point, by queries.

    Compiled once for each source, number of runs and size of block. Runs come one after another, so
    that memory holds the work of one and the responses of the block. Where value and response train
    alike, each run trains once; it trains again for each block. Over a mesh, runs are split along its
    axis "draw" and the queries along "query", and filled up by repetition where they do not divide;
    numbers are those of one device up to rounding.

    Args:
        source: the push-forward.
        keys: one per run.
        start: the weights of the values.
        point: the weights of the responses; `start` if None.
        queries: their positions in the measure.
        mesh: devices, with an axis "draw" and perhaps one "query"; the default device if None.

    Returns:
        Values `(run, *state, block, *output)` and responses `(run, *state, block, *output, datum)`.

    Raises:
        ValueError: for no key, positions that are none of the measure's, or other axes of the mesh.
    """
    chosen = check_queries(source.training, queries)
    if len(keys) == 0:
        raise ValueError("keys must be one per run, and there is none")
    shape = _axes(mesh)
    places = _filled(len(keys), shape["draw"]), _filled(len(chosen), shape["query"])
    pulled = _pull_runs(
        source.training, source.pull, mesh, keys[places[0]], start, point, chosen[places[1]]
    )
    block = (slice(len(keys)), *[slice(None)] * _has_states(source.training), slice(len(chosen)))
    values, responses = (np.asarray(leaf)[block] for leaf in pulled)
    return values, responses


def compile_block(
    source: PushForward,
    keys: Key[Array, " run"],
    start: Weights,
    point: Weights | None,
    queries: Queries,
    mesh: Mesh | None,
) -> Compiled:
    """Compile the call that pulls a block of queries from so many runs, and do not run it."""
    return _pull_runs.lower(source.training, source.pull, mesh, keys, start, point, queries).compile()


def queries_at_once(training: Training, numbers: int) -> int:
    """Give the size of about equal blocks of queries, each of which has so many numbers per state."""
    num_queries = len(training.measure.queries)
    most = max(1, NUMBERS // (numbers * training.kernel.num_states))
    return -(-num_queries // -(-num_queries // most))


def check_queries(training: Training, queries: Int[np.ndarray, " block"]) -> Int[np.ndarray, " block"]:
    """Give positions of queries as an array.

    Raises:
        ValueError: if they are not a row of integers, or not positions in the measure.
    """
    chosen, total = np.asarray(queries), len(training.measure.queries)
    if chosen.ndim != 1 or len(chosen) == 0 or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(
            f"queries must be a row of positions, (block,) integers; got {chosen.dtype} of shape "
            f"{chosen.shape}"
        )
    if chosen.min() < 0 or chosen.max() >= total:
        raise ValueError(
            f"queries must be positions from 0 to {total - 1}, as many as the measure has; got "
            f"{chosen.min()} to {chosen.max()}"
        )
    return chosen.astype(np.int32)


def _axes(mesh: Mesh | None) -> dict[str, int]:
    """Give the number of devices along either axis, 1 where there is none."""
    shape = {} if mesh is None else dict(mesh.shape)
    if mesh is not None and ("draw" not in shape or not shape.keys() <= {"draw", "query"}):
        raise ValueError(f"mesh must have an axis 'draw' and perhaps one 'query', got {tuple(shape)}")
    return {"draw": 1, "query": 1} | shape


def _filled(length: int, parts: int) -> Int[np.ndarray, " position"]:
    """Give all positions, repeated from the first one on up to a multiple of the parts."""
    return np.arange(-(-length // parts) * parts) % length


def _has_states(training: Training) -> bool:
    return training.kernel.num_states > 1


@partial(jax.jit, static_argnames=("training", "pull", "mesh"))
def _pull_runs(
    training: Training,
    pull: Pull,
    mesh: Mesh | None,
    keys: Key[Array, " run"],
    start: Weights,
    point: Weights | None,
    queries: Queries,
) -> Found:
    """Map over runs, and split them and the queries over the mesh, if there is one."""

    def runs(
        keys: Key[Array, " run"], start: Weights, point: Weights | None, queries: Queries
    ) -> Found:
        def run(key: PRNGKey) -> tuple[Array, Array]:
            value = of_queries(training, training.draw(key, start).value, queries)
            return value, pull(key, start if point is None else point, queries)

        return jax.lax.map(run, keys)

    over = runs if mesh is None else _split(runs, mesh, _has_states(training))
    return over(keys, start, point, queries)


def _split(runs: Callable[..., Found], mesh: Mesh, has_states: bool) -> Callable[..., Found]:
    """Split runs and queries over the mesh. Devices exchange nothing, so that nothing is checked."""
    by_query = "query" if "query" in mesh.shape else None
    found = P("draw", None, by_query) if has_states else P("draw", by_query)
    given = P("draw"), P(), P(), P(by_query)
    return jax.shard_map(runs, mesh=mesh, in_specs=given, out_specs=found, check_vma=False)
