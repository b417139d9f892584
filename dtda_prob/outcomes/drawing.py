"""Draws of one block of runs and perturbations, in compiled calls of one shape."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh
from jax.stages import Compiled
from jaxtyping import Array, Float, Key

from dtda_prob.outcomes.compiled import carry_chunk, draw_chunk, draw_runs
from dtda_prob.outcomes.devices import all_devices
from dtda_prob.outcomes.shards import Block, Grid
from dtda_prob.outcomes.source import Reader, Source, keys_of, matched, start_of, training_of
from dtda_prob.perturbations import num_removed
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, Weights


@dataclass(frozen=True, eq=False)
class Drawing:
    """Draw pairs of run and perturbation, whichever block of them is asked for.

    The draw of a pair depends on the key, the run and the perturbation alone, and is computed in
    compiled calls of one shape: to the last bit it is the same in whatever block, process or order.

    Attributes:
        source: what is drawn from.
        key: one typed key.
        old: where a push-forward starts; see `sample`.
        weights: the perturbations, `(perturbation, datum)`, or a single one, `(datum,)`.
        read: what is kept of an outcome.
        grid: runs and perturbations of a shard.
        chunk_size: pairs per compiled call at most.
        mesh: devices that share a call; all of the process that draws if None.
        first: runs to pass over.
        shared: whether all perturbations of a run have its key, or each has one of its own.
    """

    source: Source
    key: PRNGKey
    old: Any
    weights: xr.DataArray
    read: Reader
    grid: Grid
    chunk_size: int
    mesh: Mesh | None = None
    first: int = 0
    shared: bool = True
    _fittings: dict[int, Source] = field(default_factory=dict, repr=False)
    _halved: list[int] = field(default_factory=list, repr=False)

    def __call__(self, block: Block) -> Any:
        """Draw a block: the tree that `read` gives, with leading axes `(run, perturbation)`."""
        runs, several = block.pairs()
        counts = self._removed()[several]
        found = None
        for count in np.unique(counts):
            fitting = self._fitting(int(count))
            places = np.flatnonzero(counts == count)
            parts = self._carried if self._carries(fitting) else self._pushed
            for some, part in parts(fitting, runs, several, places):
                found = _allocate(part, len(runs)) if found is None else found
                _place(found, part, some)
        return jax.tree.map(lambda leaf: leaf.reshape(*block.size, *leaf.shape[1:]), found)

    @property
    def training(self) -> Training:
        """Give the training whose runs are drawn."""
        return training_of(self.source)

    @property
    def devices(self) -> Mesh | None:
        """Give the devices that share a call, if there are several."""
        return all_devices() if self.mesh is None else self.mesh

    @property
    def num_perturbations(self) -> int:
        """Count the perturbations."""
        return len(self._rows())

    def shapes(self) -> Any:
        """Give shape and type of what `read` gives of one pair.

        Raises:
            ValueError: if they are not those of all perturbations.
        """
        found = {int(count): self._shapes(int(count)) for count in np.unique(self._removed())}
        first, *others = (jax.tree.map(lambda leaf: leaf.shape, each) for each in found.values())
        if any(other != first for other in others):
            raise ValueError(
                f"perturbations drop different numbers of rows ({sorted(found)}), and what is kept of "
                "their trainings (losses) has different lengths; keep less, or sample them apart"
            )
        return next(iter(found.values()))

    def carries(self) -> bool:
        """Say whether a run is drawn once and carried to all perturbations."""
        return any(self._carries(self._fitting(int(count))) for count in np.unique(self._removed()))

    def compiled(self, size: int | None = None) -> tuple[Compiled, tuple[Any, ...]]:
        """Compile the call that pushes a chunk, or so many pairs on all devices, and do not run it.

        Where perturbations drop different numbers of rows, it is that of the most.

        Returns:
            The call, and arguments to try it with.
        """
        source, arguments = self._arguments(int(self._removed().max()), size)
        call = draw_chunk.lower(source.push, self.read, *arguments, self.devices)
        return call.compile(), arguments

    def centre(self) -> list[np.ndarray]:
        """Give the weights that the response is taken at, where these follow from the perturbations."""
        counts = self._removed()
        rows = [self._rows()[counts == count] for count in np.unique(counts)]
        moves = isinstance(self.source, PushForward) and isinstance(self.source.at, str)
        moves = moves and self.source.at == "centre"
        return [some.mean(0) for some in rows if len(some) > 1] if moves else []

    def _shapes(self, count: int) -> Any:
        """Read the shapes off the call that is made later, so that it is traced once."""
        source, arguments = self._arguments(count)
        found = draw_chunk.eval_shape(source.push, self.read, *arguments, self.devices)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), found)

    def _arguments(self, count: int, size: int | None = None) -> tuple[Source, tuple[Any, ...]]:
        """Give what pushes a chunk, or so many pairs, in which so many rows are gone, and arguments."""
        source, rows = self._fitting(count), self._rows()
        together = min(self.grid.runs * self.grid.columns, self.chunk_size)
        first = np.full(self._whole(size or together), (self._removed() == count).argmax())
        keys = self._keys(np.arange(len(first)), first)
        new = jnp.asarray(rows[first if len(rows) > 1 else 0])
        return source, (keys, self._start_of(source), new)

    def _pushed(
        self, source: Source, runs: np.ndarray, several: np.ndarray, places: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Push every pair by itself."""
        start, rows = self._start_of(source), self._rows()

        def push(some: np.ndarray) -> Any:
            new = jnp.asarray(rows[several[some] if len(rows) > 1 else 0])
            keys = self._keys(runs[some], several[some])
            return draw_chunk(source.push, self.read, keys, start, new, self.devices)

        return self._in_chunks(places, self.grid.runs * self.grid.columns, push)

    def _carried(
        self, source: Any, runs: np.ndarray, several: np.ndarray, places: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Draw the runs, and carry each to all perturbations."""
        start = self._start_of(source)
        drawn = np.unique(runs[places])
        keys = self._keys(_filled(drawn, self._whole(self.grid.runs)), None)
        outcomes = draw_runs(source.training.draw, keys, start, self.devices)

        def carry(some: np.ndarray) -> Any:
            row = np.searchsorted(drawn, runs[some])
            own = jax.tree.map(lambda leaf: leaf[row], (keys, outcomes))
            new = jnp.asarray(self._rows()[several[some]])
            return carry_chunk(source.carry, self.read, *own, start, new, self.devices)

        together = max(1, self.chunk_size // source.training.kernel.num_states)
        return self._in_chunks(places, together, carry)

    def _in_chunks(
        self, places: np.ndarray, together: int, call: Callable[[np.ndarray], Any]
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Call for some places at a time; where they do not fit into memory, for half as many."""
        size = self._whole(min(together, self.chunk_size))
        while len(places):
            now = min(size, *self._halved, size)
            some = places[:now]
            try:
                part = jax.device_get(call(_filled(some, now)))
            except jax.errors.JaxRuntimeError as error:
                self._halve(now, error)
                continue
            yield some, part
            places = places[now:]

    def _halve(self, size: int, error: jax.errors.JaxRuntimeError) -> None:
        """Make do with half of a chunk, once."""
        half = self._whole(size // 2)
        if "RESOURCE_EXHAUSTED" not in str(error) or self._halved or half >= size:
            raise error
        warnings.warn(
            f"chunk_size={size} does not fit into the memory of the device; going on with {half}",
            RuntimeWarning,
            stacklevel=2,
        )
        self._halved.append(half)

    def _whole(self, size: int) -> int:
        """Round up to a multiple of the devices."""
        devices = 1 if self.devices is None else self.devices.size
        return -(-max(1, size) // devices) * devices

    def _keys(self, runs: np.ndarray, several: np.ndarray | None) -> Key[Array, " pair"]:
        keys = keys_of(self.key, self.first + runs)
        if self.shared or several is None:
            return keys
        return jax.vmap(jax.random.fold_in)(keys, several)

    def _fitting(self, count: int) -> Source:
        """Give the source for trainings in which so many rows are gone, the same one every time."""
        if count not in self._fittings:
            rows = self._rows()[self._removed() == count]
            self._fittings[count] = matched(self.source, count, rows)
        return self._fittings[count]

    def _carries(self, fitting: Source) -> bool:
        several = self.shared and len(self._rows()) > 1
        return several and isinstance(fitting, PushForward) and fitting.carry is not None

    def _start_of(self, fitting: Source) -> Weights:
        return start_of(fitting, self.old)

    def _rows(self) -> Float[np.ndarray, "perturbation datum"]:
        return np.atleast_2d(self.weights.values)

    def _removed(self) -> np.ndarray:
        return np.atleast_1d(num_removed(self.weights))


def _filled(places: np.ndarray, size: int) -> np.ndarray:
    """Fill up by repetition, so that all calls have one shape."""
    return np.pad(places, (0, size - len(places)), mode="edge")


def _allocate(part: Any, size: int) -> Any:
    return jax.tree.map(lambda leaf: np.empty((size, *leaf.shape[1:]), leaf.dtype), part)


def _place(found: Any, part: Any, places: np.ndarray) -> None:
    for whole, some in zip(jax.tree.leaves(found), jax.tree.leaves(part), strict=True):
        whole[places] = some[: len(places)]
