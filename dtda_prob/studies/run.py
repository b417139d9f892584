"""Compute a pure function over the blocks of a grid, in memory or in a store, here or on an engine."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import jax
import numpy as np
import xarray as xr
from tqdm import tqdm

from dtda_prob.engine import compute
from dtda_prob.storage import results
from dtda_prob.storage.results import Result
from dtda_prob.storage.store import check_name
from dtda_prob.studies.study import check_same, study

Block = tuple[slice, ...]
"""A part of the grid: a slice for each of its dimensions."""
Tree = xr.Dataset | xr.DataTree


class Task(Protocol):
    """A pure function of a block of a grid."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the grid. A result in a store can grow along the first one."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each dimension."""
        ...

    @property
    def block(self) -> tuple[int, ...]:
        """Size of a block along each dimension; the last blocks may be smaller."""
        ...

    @property
    def coords(self) -> xr.Dataset:
        """Labels of the whole grid, and of other dimensions; each group takes those that it has."""
        ...

    @property
    def like(self) -> Tree | None:
        """Names, dimensions, types and sizes off the grid of what a block gives, with any values.

        If None, the first block is computed in this process to see them.
        """
        return None

    @property
    def program(self) -> dict[str, Any]:
        """What identifies the program of a study, part by part; see `studies.identity`."""
        return {}

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the result in its study, part by part."""
        return {}

    def in_blocks(self, block: tuple[int, ...]) -> "Task":
        """Return the same task, cut into blocks as the result in a store is."""
        return replace(cast(Any, self), block=block)

    def __call__(self, block: Block) -> Tree:
        """Compute a block: all its variables, cut to the block along the dimensions of the grid."""
        ...


@dataclass(frozen=True)
class Where:
    """Where a computation runs, and where its result is kept.

    >>> Where("study.zarr", "without_3").name
    'without_3'

    Attributes:
        store: folder of a study; results stay in memory if None.
        name: of the result in the study; if empty, the name of what computes it ("sample", "scores").
        engine: see `engine.compute`; this process if None, or a mesh of its devices.
        progress: whether to show a bar on terminals.
        effects: of `attribute` by pull: the name under which the store also keeps the change of each
            draw under each perturbation, which scores of more draws or by other divergences take up.
            They take 4 bytes each.
    """

    store: Path | None = None
    name: str = ""
    engine: Any = None
    progress: bool = field(default=True, compare=False)
    effects: str = ""

    def __post_init__(self) -> None:
        for name in filter(None, (self.name, self.effects)):
            check_name(name)
        if self.store is not None:
            object.__setattr__(self, "store", Path(self.store).expanduser())

    def __truediv__(self, name: str) -> "Where":
        """Return where a part of this result is kept."""
        return replace(self, name=f"{self.name}.{name}" if self.name else name)

    def named(self, default: str) -> "Where":
        """Return where a result of this name is kept, unless it has a name."""
        return self if self.name else replace(self, name=default)

    def __str__(self) -> str:
        return f"name={self.name!r} in store={str(self.store)!r}"


HERE = Where()
FIRST = "  compiling and computing the first of {total} blocks"
BAR = "  {percentage:3.0f}% |{bar}| {elapsed} passed, {remaining} left"


def run(task: Task, where: Where = HERE) -> Any:
    """Compute all blocks of a task that are not done yet.

    Each block depends on the task and the block alone, so that what comes out is the same to the last
    bit wherever it is computed, and however often the computation was interrupted.

    Returns:
        The whole result, a dataset or a tree as the task gives them. From a store, arrays are read when
        they are asked for.

    Raises:
        StoreError: if the store is damaged, in use, or holds something else under this name.
        OSError: if the store cannot be written to.
        EngineError: if the engine cannot go on.
    """
    where = where.named("result")
    return _in_memory(task, where) if where.store is None else _in_store(task, where)


def blocks_of(task: Task) -> list[Block]:
    """Cut the grid into blocks, the last dimension fastest."""
    return [_block(task, place) for place in np.ndindex(*counts(task))]


def counts(task: Task) -> tuple[int, ...]:
    """Return the number of blocks along each dimension of the grid."""
    return tuple(-(-n // size) for n, size in zip(task.shape, task.block, strict=True))


def unfinished(task: Task, where: Where = HERE) -> list[Block]:
    """Return the blocks, or parts of blocks, that a run would compute."""
    where = where.named("result")
    if where.store is None or not (where.store / where.name).exists():
        return blocks_of(task)
    result = results.opened(where.store, where.name)
    if {*result.block} != {*task.dims}:
        return blocks_of(task)  # of something else, which a run refuses
    task, done = _as_stored(task, result), result.done()
    room = [(0, max(0, n - there)) for n, there in zip(counts(task), done.shape, strict=True)]
    done = np.pad(done, room)
    rests = (_rest(block, done, place) for place, block in _places(task))
    return [rest for rest in rests if rest is not None]


def check_stored(task: Task, where: Where) -> None:
    """Raise StoreError if a store holds something else under this name."""
    if where.store is not None and (where.store / where.name).exists():
        with study(where.store, task.program):
            check_same(where, results.opened(where.store, where.name), task)


def _in_memory(task: Task, where: Where) -> Tree:
    whole: dict[str, xr.Dataset] = {}
    like: Tree | None = None
    kept = "blocks were finished, and are lost: name a store to keep them"
    for block, part in _computed(task, task, blocks_of(task), where, kept):
        like = part if like is None else like
        for path, dataset in results.datasets_of(_tree(part)):
            if path not in whole:
                whole[path] = _room(task, dataset)
            _place(task, whole[path], dataset, block)
    found = xr.DataTree.from_dict({f"/{path}": dataset for path, dataset in whole.items()})
    return found.to_dataset() if isinstance(like, xr.Dataset) else found


def _room(task: Task, dataset: xr.Dataset) -> xr.Dataset:
    """Make room for all blocks of a group, and label it."""
    sizes = dict(zip(task.dims, task.shape, strict=True))
    data = {
        name: xr.Variable(
            variable.dims,
            np.empty([sizes.get(str(dim), n) for dim, n in variable.sizes.items()], variable.dtype),
            variable.attrs,
        )
        for name, variable in dataset.data_vars.items()
    }
    return xr.Dataset(data, results.labels_of(dataset, task.coords, task.dims), dataset.attrs)


def _place(task: Task, whole: xr.Dataset, part: xr.Dataset, block: Block) -> None:
    region = _region(task, block)
    for name, variable in part.data_vars.items():
        place = tuple(region.get(str(dim), slice(None)) for dim in variable.dims)
        whole[name].values[place] = variable.values


def _in_store(task: Task, where: Where) -> Tree:
    assert where.store is not None
    with study(where.store, task.program):
        task, result = _opened(task, where)
        blocks = unfinished(task, where)
        function = _Written(task, result)
        kept = f"blocks are safe as {where}; call the same again to go on"
        for _ in _computed(task, function, blocks, where, kept):
            pass
    sizes = dict(zip(task.dims, task.shape, strict=True))
    tree = results.read(where.store, where.name, sizes)
    return tree if tree.children else tree.to_dataset()


def _opened(task: Task, where: Where) -> tuple[Task, Result]:
    """Open the arrays of a result, which must be the same, or make them at full size.

    Returns:
        The task, with blocks of the size that is stored, and its result.
    """
    assert where.store is not None
    shape, block = (dict(zip(task.dims, x, strict=True)) for x in (task.shape, task.block))
    about = task.identity
    if not (where.store / where.name).exists():
        like = task.like
        like = task(blocks_of(task)[0]) if like is None else like
        tree = _tree(like)
        made = results.create(where.store, where.name, tree, task.coords, shape, block, about)
        return task, made
    result = results.opened(where.store, where.name)
    check_same(where, result, task)
    result.grow(task.shape[0], task.coords)
    return _as_stored(task, result), result


def _as_stored(task: Task, result: Result) -> Task:
    """Return a task in blocks of the size that is stored."""
    stored = tuple(result.block[dim] for dim in task.dims)
    return task if stored == task.block else task.in_blocks(stored)


@dataclass(frozen=True)
class _Written:
    """Compute a block and write it; whoever does it again writes the same bytes."""

    task: Task
    result: Result

    def __call__(self, block: Block) -> None:
        region = _region(self.task, block)
        if self.result.is_done(region):
            return  # by a worker that died before it reported
        start = time.monotonic()
        tree = _tree(self.task(block))
        self.result.write(tree, region, time.monotonic() - start)


def _computed(
    task: Task, function: Any, blocks: Sequence[Block], where: Where, kept: str
) -> Iterator[tuple[Block, Any]]:
    """Call a function on blocks wherever that is, with a bar; an interruption says what is kept."""
    engine = None if isinstance(where.engine, jax.sharding.Mesh) else where.engine
    finished = 0
    off = None if where.progress else True
    bar = tqdm(total=len(blocks), bar_format=FIRST, disable=off, leave=False)
    try:
        with bar, closing(compute(function, blocks, engine, where.store)) as parts:
            for block, part in parts:
                yield block, part
                finished += 1
                bar.bar_format = BAR
                bar.update()
    except BaseException as error:
        if not isinstance(error, GeneratorExit):
            error.add_note(f"{finished} of {len(blocks)} {kept}")
        raise


def _places(task: Task) -> Iterator[tuple[tuple[int, ...], Block]]:
    for place in np.ndindex(*counts(task)):
        yield place, _block(task, place)


def _block(task: Task, place: Sequence[int]) -> Block:
    ranges = zip(place, task.block, task.shape, strict=True)
    return tuple(slice(i * size, min((i + 1) * size, n)) for i, size, n in ranges)


def _rest(block: Block, done: np.ndarray, place: tuple[int, ...]) -> Block | None:
    """Return what a block lacks, along the first dimension."""
    first, *others = block
    start = first.start + int(done[place])
    return (slice(start, first.stop), *others) if start < first.stop else None


def _region(task: Task, block: Block) -> dict[str, slice]:
    return dict(zip(task.dims, block, strict=True))


def _tree(part: Tree) -> xr.DataTree:
    return xr.DataTree(part) if isinstance(part, xr.Dataset) else part
