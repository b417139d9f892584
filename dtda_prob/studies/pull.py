"""Responses: runs by queries, and the change of each draw under each perturbation."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
import xarray as xr
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key

from dtda_prob.compiling import compiled, in_full_precision
from dtda_prob.program import Program
from dtda_prob.studies.devices import all_devices, dealt, num_devices, spread, whole
from dtda_prob.studies.digests import of_key
from dtda_prob.studies.identity import of_program, of_source
from dtda_prob.studies.perturbed import Perturbed
from dtda_prob.studies.source import keys_of, start_of
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.push_forward import of_queries
from dtda_prob.typing import PRNGKey, Queries, Weights

MOST_ELEMENTS = 2**24
"""Elements of the responses that are pulled at once, unless a single query has more."""
Pulled = tuple[Float[Array, "run state query *output"], Float[Array, "run state query *output example"]]


@dataclass(frozen=True, eq=False)
class Responses:
    """Pull the responses of runs and queries, and apply them to perturbations.

    Attributes:
        source: the push-forward, matched to the number of rows that the perturbations leave.
        key: one typed key.
        num_runs: number of runs.
        perturbed: the perturbed datasets.
        block: runs and queries that are pulled at once.
        whole: the program of the study, with all rows.
        mesh: devices that share a pull; all of the process that pulls if None.
        first: runs to pass over.
    """

    source: PushForward
    key: PRNGKey
    num_runs: int
    perturbed: Perturbed
    block: tuple[int, int]
    whole: Program
    mesh: Mesh | None = None
    first: int = 0

    dims = ("run", "query")

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of runs and queries."""
        return self.num_runs, len(self.training.measure.queries)

    @property
    def training(self) -> Training:
        """Return the training that is pulled back."""
        return self.source.training

    @property
    def devices(self) -> Mesh | None:
        """Return the devices that share a pull, if there are several."""
        return all_devices() if self.mesh is None else self.mesh

    @property
    def coords(self) -> xr.Dataset:
        """Return the labels of runs, queries and perturbations."""
        own = {"run": np.arange(self.num_runs), "query": self.training.measure.queries}
        return xr.Dataset(coords=own | {self.perturbed.dim: self.perturbed.labels})

    @property
    def like(self) -> xr.Dataset:
        """Return a dataset with all variables of one run and query, which are all zero."""
        function, arguments = self.call()
        value, _ = function.shapes(*arguments)
        _, num_states, _, *output = value.shape
        one = np.zeros((1, num_states, 1, *output), value.dtype)
        change = np.repeat(one[:, :, :, None], len(self.perturbed), 3)
        return self.labelled(one, change, np.arange(1), np.arange(1))

    @property
    def program(self) -> dict[str, Any]:
        """Return what identifies the program of the study."""
        return of_program(self.whole)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what identifies the responses, apart from the number of runs."""
        own = {"kind": "effects", "key": of_key(self.key)}
        return of_source(self.source) | own | self.perturbed.identity

    def in_blocks(self, block: tuple[int, ...]) -> "Responses":
        """Return the same responses in blocks of another size."""
        return replace(self, block=(block[0], block[1]))

    def __call__(self, block: tuple[slice, ...]) -> xr.Dataset:
        """Pull a block.

        Returns:
            A dataset with `value`, `(run, state, query, [output])`, measured on all data; its `change`
            on each perturbed dataset, `(run, state, query, perturbation, [output])`; and the
            `key` of each run.
        """
        runs, queries = (np.arange(part.start, part.stop) for part in block)
        keys = keys_of(self.source, self.key, self.first + self._filled(runs, 0, "draw"))
        columns = self._filled(queries, 1, "query").astype(np.int32)
        pulled = pull_runs(self.source, self.devices, keys, self.start, self.point, columns)
        value, response = (np.asarray(leaf)[: len(runs), :, : len(queries)] for leaf in pulled)
        change = np.moveaxis(self.perturbed.change(response, self.start), -1, 3)
        return self.labelled(value, change, runs, queries)

    def labelled(
        self, value: np.ndarray, change: np.ndarray, runs: np.ndarray, queries: np.ndarray
    ) -> xr.Dataset:
        """Label the arrays of some runs and queries."""
        leading, output = ["run", "state", "query"], ["output"][: value.ndim - 3]
        words = np.asarray(jax.random.key_data(keys_of(self.source, self.key, self.first + runs)))
        variables = {
            "value": ([*leading, *output], value),
            "change": ([*leading, self.perturbed.dim, *output], change),
            "key": (["run", "word"], words),
        }
        return xr.Dataset(variables, self.coords.isel(run=runs, query=queries).coords)

    def _filled(self, positions: np.ndarray, dim: int, axis: str) -> np.ndarray:
        """Repeat the last position, up to a whole block and a multiple of the devices."""
        size = whole(max(len(positions), self.block[dim]), num_devices(self.devices, axis))
        return np.pad(positions, (0, size - len(positions)), mode="edge")

    @cached_property
    def start(self) -> Weights:
        """Return the weights that draws start from."""
        return start_of(self.source)

    @cached_property
    def point(self) -> Weights | None:
        """Return where responses are taken: at the centre of the perturbations; the start if None."""
        at = self.source.at
        if not isinstance(at, str) or at == "old":
            return None
        single = len(self.perturbed) == 1
        return self.perturbed.centre(self.start) if at == "centre" or single else None

    def call(self) -> tuple[compiled, tuple[Any, ...]]:
        """Return the compiled call that pulls a block, with arguments to try it on."""
        keys = keys_of(self.source, self.key, np.arange(self.block[0]))
        queries = np.arange(self.block[1], dtype=np.int32)
        return pull_runs, (self.source, self.devices, keys, self.start, self.point, queries)


def responses(
    source: PushForward,
    key: PRNGKey,
    num_runs: int,
    perturbed: Perturbed,
    *,
    columns: int | None = None,
    mesh: Mesh | None = None,
    first: int = 0,
) -> Responses:
    """Build the task that pulls responses for some perturbed datasets, a run on each device at a time.

    `columns` queries are pulled at once, those that fit into memory if None; see `Responses`.

    Raises:
        ValueError: if the perturbations drop different numbers of rows, or for other axes of the mesh.
    """
    removed = perturbed.num_removed()
    if len(removed) > 1:
        raise ValueError(
            f"perturbations drop different numbers of rows ({removed.tolist()}), and each number is "
            "another training: attribute them separately, by removal='reweight', or with "
            "direction='push'"
        )
    program, source = source.training.program, source.matched(int(removed[0]))
    numbers = max(len(perturbed), len(source.training.program.labels))
    columns = columns or queries_at_once(source.training, numbers)
    if other := sorted({*dealt(mesh)} - {"draw", "query"}):
        raise ValueError(
            f"the mesh has axes {other}; responses are split along 'draw', 'query', 'parameter' and "
            "'example'"
        )
    runs = num_devices(all_devices() if mesh is None else mesh, "draw")
    return Responses(source, key, num_runs, perturbed, (runs, columns), program, mesh, first)


@compiled
def pull_runs(
    source: PushForward,
    mesh: Mesh | None,
    keys: Key[Array, " run"],
    start: Weights,
    point: Weights | None,
    queries: Queries,
) -> Pulled:
    """Return values of runs at the start, and their responses there or at another point, by queries.

    Runs come one after another, so that memory holds the work of one and the responses of the block.
    Where value and response train alike, each run trains once; it trains again for each block. Over a
    mesh, runs are split along its axis "draw", queries along "query", and each run by itself along
    "parameter" and "example"; one device gives the same numbers up to rounding.

    Args:
        source: the push-forward.
        mesh: devices; the default device if None.
        keys: one per run.
        start: the weights of the values.
        point: the weights of the responses; `start` if None.
        queries: their positions in the measure.

    Returns:
        Values `(run, state, block, *output)` and responses `(run, state, block, *output, example)`.
    """
    point = start if point is None else point

    def runs(
        source: PushForward, keys: Array, start: Weights, point: Weights, queries: Array
    ) -> Pulled:
        @in_full_precision
        def run(key: PRNGKey) -> tuple[Array, Array]:
            value = source.training.draw(key, start).value
            return of_queries(value, queries, 1), source.pull(key, point, queries)

        return jax.lax.map(run, keys)

    by_run, by_query = (name if name in dealt(mesh) else None for name in ("draw", "query"))
    specs = P(by_run), P(), P(), P(by_query)
    return spread(runs, mesh, source, specs, P(by_run, None, by_query))(keys, start, point, queries)


def queries_at_once(training: Training, elements: int) -> int:
    """Return the size of about equal blocks of queries whose responses fit into memory.

    Args:
        training: the training that is measured.
        elements: elements of the responses for each query and state.
    """
    num_queries = len(training.measure.queries)
    most = max(1, MOST_ELEMENTS // (elements * training.kernel.num_states))
    return -(-num_queries // -(-num_queries // most))
