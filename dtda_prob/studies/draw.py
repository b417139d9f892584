"""Draws of outcomes: runs by perturbations, in compiled calls of one shape."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from dtda_prob.compiling import compiled
from dtda_prob.perturbations import num_removed
from dtda_prob.studies.calls import carry_runs, draw_runs, push_pairs
from dtda_prob.studies.devices import all_devices, mesh_of, num_devices, whole
from dtda_prob.studies.digests import of_array, of_key, of_weights
from dtda_prob.studies.identity import of_program, of_source
from dtda_prob.studies.reading import VALUE
from dtda_prob.studies.run import HERE, Where, run
from dtda_prob.studies.source import Source, keys_of, matched, start_of, training_of
from dtda_prob.studies.tree import coordinates, in_draws, to_datatree
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey

CHUNK = 64
"""Trainings per compiled call."""
AT_ONCE = 64
"""Perturbations per compiled call that carries runs."""
MOST_NUMBERS = 2**25
"""Parameters and losses of all runs that are carried at once, unless chunks are larger."""
Arrays = dict[str, np.ndarray]


@dataclass
class Limit:
    """The chunk size that fits into memory, once a larger one did not."""

    size: int | None = None


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of the outcome: blocks of runs by perturbations.

    A draw depends on the key, the run and the perturbation alone, and is computed in compiled calls of
    one shape: to the last bit it is the same in whatever block, process or order.

    Attributes:
        source: what is drawn from.
        key: one typed key.
        num_runs: number of runs, a multiple of `num_chains`.
        weights: perturbed datasets, `(perturbation, example)`, or a single one, `(example,)`.
        block: extents of a block along `dims`.
        old: where a push-forward starts; see `sample`.
        keep: what is kept beside the value, see `reading.read`.
        num_chains: chains that runs are dealt out to, where each gives a single draw.
        chunk_size: pairs of run and perturbation per compiled call, at most.
        mesh: devices that share a call; all of the process that draws if None.
        shared: whether all perturbations of a run share its key, or each has a key of its own.
        first: runs to pass over.
    """

    source: Source
    key: PRNGKey
    num_runs: int
    weights: xr.DataArray
    block: tuple[int, ...] = (1, 1)
    old: Any = None
    keep: tuple[str, ...] = ()
    num_chains: int = 1
    chunk_size: int = CHUNK
    mesh: Mesh | None = None
    shared: bool = True
    first: int = 0
    limit: Limit = field(default_factory=Limit, repr=False, compare=False)

    @property
    def dims(self) -> tuple[str, ...]:
        """Return the dimensions of the grid: a run is a chain where the kernel keeps several states."""
        return "chain" if self.has_states else "draw", *map(str, self.weights.dims[:-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the extents of the grid."""
        return self.num_runs // self.runs_at_once, *self.weights.shape[:-1]

    @property
    def training(self) -> Training:
        """Return the training whose outcomes are drawn."""
        return training_of(self.source)

    @property
    def has_states(self) -> bool:
        """Return whether each run gives several draws."""
        return self.training.kernel.num_states > 1

    @property
    def runs_at_once(self) -> int:
        """Count the runs at each position along the first dimension: one a chain."""
        return 1 if self.has_states else self.num_chains

    @property
    def rows(self) -> Float[np.ndarray, "perturbation example"]:
        """Return the weights of all perturbations."""
        return np.atleast_2d(self.weights.values)

    @property
    def coords(self) -> xr.Dataset:
        """Return the labels of the whole grid, and the weights."""
        return coordinates(self)

    @property
    def like(self) -> xr.DataTree:
        """Return a tree with all variables of a few draws, which are all zero."""
        function, arguments = self.call()
        runs = self.runs_at(np.arange(1))
        arrays = {
            name: np.zeros((len(runs), 1, *leaf.shape[1:]), leaf.dtype)
            for name, leaf in function.shapes(*arguments).items()
        }
        return to_datatree(self, arrays, np.arange(1), np.arange(1))

    @property
    def program(self) -> dict[str, Any]:
        """Return what identifies the program of the study."""
        return of_program(self.training.program)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what identifies the draws, apart from their number."""
        return of_source(self.source) | {
            "kind": "sample set",
            "key": of_key(self.key),
            "shared": self.shared,
            "old": None if self.old is None else of_array(start_of(self.source, self.old)),
            "num_chains": "runs" if self.has_states else self.num_chains,
            "keep": [*self.keep],
            **({"first": self.first} if self.first else {}),
            **of_weights(self.weights),
        }

    def in_blocks(self, block: tuple[int, ...]) -> "Draws":
        """Return the same draws in blocks of another size, each of which is one call."""
        pairs = math.prod(block) * self.runs_at_once
        return replace(self, block=block, chunk_size=max(pairs, self.chunk_size))

    def __call__(self, block: tuple[slice, ...]) -> xr.DataTree:
        """Draw a block; see `tree.to_datatree` for its layout."""
        along, *columns = (np.arange(part.start, part.stop) for part in block)
        columns = columns[0] if columns else np.arange(1)
        return to_datatree(self, self.arrays(self.runs_at(along), columns), along, columns)

    def runs_at(self, along: np.ndarray) -> np.ndarray:
        """Return the runs at some positions along the first dimension."""
        each = self.runs_at_once
        return (along[:, None] * each + np.arange(each)).ravel()

    def arrays(self, runs: np.ndarray, columns: np.ndarray) -> Arrays:
        """Draw all pairs of some runs and perturbations: `(run, perturbation, state, ...)`, by name."""
        each, several = (grid.ravel() for grid in np.meshgrid(runs, columns, indexing="ij"))
        drawn = self.pairs(each, several)
        return {name: array.reshape(len(runs), -1, *array.shape[1:]) for name, array in drawn.items()}

    def pairs(self, each: np.ndarray, several: np.ndarray) -> Arrays:
        """Draw runs, each at a perturbation of its own: `(pair, state, ...)`, by name."""
        whole: Arrays = {}
        for count, source in self.fittings.items():
            places = np.flatnonzero(self.removed[several] == count)
            draw = self._carried if self.carries else self._pushed
            for some, part in draw(source, each, several, places):
                for name, array in part.items():
                    leading = len(each), *array.shape[1:]
                    whole.setdefault(name, np.empty(leading, array.dtype))[some] = array[: len(some)]
        return whole

    @cached_property
    def removed(self) -> np.ndarray:
        """Return the number of rows that each perturbation drops."""
        return np.atleast_1d(num_removed(self.weights))

    @cached_property
    def fittings(self) -> dict[int, Source]:
        """Return the source for each number of rows dropped."""
        counts = np.unique(self.removed).tolist()
        return {
            count: matched(self.source, count, self.rows[self.removed == count]) for count in counts
        }

    @property
    def carries(self) -> bool:
        """Return whether a run is drawn once and carried to all perturbations."""
        return self.shared and len(self.rows) > 1 and carries(self.source)

    @property
    def devices(self) -> Mesh | None:
        """Return the devices that share a call, if there are several."""
        return all_devices() if self.mesh is None else self.mesh

    @property
    def pairs_at_once(self) -> int:
        """Count the pairs of a run and a perturbation in a block."""
        return math.prod(self.block) * self.runs_at_once

    @property
    def pairs_in_call(self) -> int:
        """Count the pairs of a compiled call, on all devices."""
        return self._whole(min(self.pairs_at_once, self.chunk_size))

    def call(self, size: int | None = None) -> tuple[compiled, tuple[Any, ...]]:
        """Return the compiled call that pushes a chunk, or `size` pairs, with arguments to try it on.

        Where perturbations drop different numbers of rows, this is the call for the largest number.
        """
        count = max(self.fittings)
        source = self.fittings[count]
        first = np.full(self._whole(size or self.pairs_in_call), (self.removed == count).argmax())
        return push_pairs, self._arguments(source, np.arange(len(first)), first)

    def _arguments(self, source: Source, runs: np.ndarray, several: np.ndarray) -> tuple[Any, ...]:
        new = jnp.asarray(self.rows[several if len(self.rows) > 1 else 0])
        start = start_of(source, self.old)
        return source, self.keep, self.devices, self._keys(runs, several), start, new

    def _pushed(
        self, source: Source, runs: np.ndarray, several: np.ndarray, places: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Arrays]]:
        """Push every pair by itself."""

        def push(some: np.ndarray) -> Any:
            return push_pairs(*self._arguments(source, runs[some], several[some]))

        return self._in_chunks(places, self.pairs_at_once, push)

    def _carried(
        self, source: Any, runs: np.ndarray, several: np.ndarray, places: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Arrays]]:
        """Draw the runs, and carry each to all perturbations."""
        start, drawn = start_of(source, self.old), np.unique(runs[places])
        columns, size = np.unique(several[places]), self._whole(self.block[0] * self.runs_at_once)
        keys = keys_of(self.source, self.key, self.first + filled(drawn, size))
        outcomes = draw_runs(source.training, self.devices, keys, start)
        together = self._together(size)

        def carry(some: np.ndarray) -> Any:
            new = jnp.asarray(self.rows[columns[some]])
            return carry_runs(source, self.keep, self.devices, together, keys, outcomes, start, new)

        by_run = places.reshape(len(drawn), len(columns))
        for some, part in self._in_chunks(np.arange(len(columns)), max(together, AT_ONCE), carry):
            pairs = by_run[:, some].T
            yield (
                pairs.ravel(),
                {
                    name: array[: len(some), : len(drawn)].reshape(pairs.size, *array.shape[2:])
                    for name, array in part.items()
                },
            )

    def _together(self, num_runs: int) -> int:
        """Return the number of perturbations that so many runs are carried to at once."""
        training = self.training
        states = num_runs * training.kernel.num_states
        numbers = training.program.num_data + sum(
            leaf.size for leaf in jax.tree.leaves(training.program.shapes)
        )
        return max(1, self.chunk_size // states, min(AT_ONCE, MOST_NUMBERS // (states * numbers)))

    def _in_chunks(
        self, places: np.ndarray, together: int, call: Callable[[np.ndarray], Any]
    ) -> Iterator[tuple[np.ndarray, Arrays]]:
        size = self._whole(min(together, self.chunk_size))
        return in_chunks(call, places, size, self.limit, num_devices(self.devices))

    def _whole(self, size: int) -> int:
        return whole(size, num_devices(self.devices))

    def _keys(self, runs: np.ndarray, several: np.ndarray) -> Key[Array, " pair"]:
        keys = keys_of(self.source, self.key, self.first + runs)
        return keys if self.shared else jax.vmap(jax.random.fold_in)(keys, several)


def draws(source: Source, key: PRNGKey, num_runs: int, weights: xr.DataArray, **settings: Any) -> Draws:
    """Build the task that draws, in blocks of about `chunk_size` pairs; `settings` fill `Draws`.

    Raises:
        ValueError: if what is kept has not the same shape for all perturbations.
    """
    task = Draws(source, key, num_runs, weights, **settings)
    check_there(task)
    check_lengths(task)
    several = len(task.rows)
    columns = several if task.carries else min(several, task.chunk_size)
    runs = task.chunk_size if task.carries else task.chunk_size // columns
    along = min(max(1, runs // task.runs_at_once), task.shape[0])
    return replace(task, block=(along, columns)[: len(task.dims)])


def values(
    source: Source,
    key: PRNGKey,
    num_runs: int,
    weights: xr.DataArray,
    where: Where = HERE,
    **settings: Any,
) -> np.ndarray:
    """Draw measured values alone, `(draw, [perturbation,] query, *output)`; see `draws`."""
    task = draws(source, key, num_runs, weights, mesh=mesh_of(where.engine), **settings)
    tree = run(task, where)
    return in_draws(tree[f"{VALUE}/{task.training.measure.name}"].values)


def check_there(task: Draws) -> None:
    """Raise ValueError where draws that exist are asked for at weights that they do not belong to."""
    training = task.training
    if training.kernel.num_runs is None:
        return
    full = np.asarray(training.program.full_weights())
    trains = isinstance(task.source, Training)
    start = task.rows if trains else start_of(task.source, task.old)
    if (np.asarray(start) != full).any():
        raise ValueError(
            "pretrained draws belong to all data, and none can be made at other weights; carry them "
            "there by importance, covariance, influence or newton, or take a kernel that trains, such "
            "as kernels.nuts"
        )


def check_lengths(task: Draws) -> None:
    """Raise ValueError where the losses of all steps are kept, and trainings differ in length."""
    if "losses" not in task.keep or len(task.fittings) == 1:
        return
    weights = task.training.program.full_weights()
    lengths = {
        jax.eval_shape(training_of(source).draw, task.key, weights).losses.shape
        for source in task.fittings.values()
    }
    if len(lengths) > 1:
        raise ValueError(
            f"perturbations drop different numbers of rows ({[*task.fittings]}), so that losses have "
            "different lengths; keep less, or sample them separately"
        )


def carries(source: Source) -> bool:
    """Return whether a source carries outcomes that are there already."""
    return isinstance(source, PushForward) and source.carry is not None


def in_chunks(
    call: Callable[[np.ndarray], Any], places: np.ndarray, size: int, limit: Limit, multiple: int
) -> Iterator[tuple[np.ndarray, Any]]:
    """Call for some places at a time; where they do not fit into memory, for half as many, once."""
    while len(places):
        now = min(size, limit.size or size)
        try:
            part = jax.device_get(call(filled(places[:now], now)))
        except jax.errors.JaxRuntimeError as error:
            half = whole(now // 2, multiple)
            if "RESOURCE_EXHAUSTED" not in str(error) or limit.size or half >= now:
                raise
            warnings.warn(
                f"chunk_size={now} does not fit into the memory of the device; going on with {half}",
                RuntimeWarning,
                stacklevel=2,
            )
            limit.size = half
            continue
        yield places[:now], part
        places = places[now:]


def filled(places: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last place, so that all calls have one shape."""
    return np.pad(places, (0, size - len(places)), mode="edge")
