"""Results on a grid of blocks: arrays at full size, and a record of how much of each block is done."""

import json
from collections.abc import Collection, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr
from xarray.conventions import decode_cf_variable, encode_cf_variable
from zarr.codecs import Crc32cCodec

from dtda_prob.storage.documents import ATTRIBUTE, about, nodes_under, read_node
from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.store import list_as, put, scratch

DONE, SECONDS = "blocks/done", "blocks/seconds"
MOST_BYTES = 2**28
"""Largest size of a chunk that can be split."""
KINDS = "biuf"
"""NumPy kinds that are written unchanged: booleans, integers and floats."""

Region = Mapping[str, slice]
"""Position of a block, by dimension."""


class Result(NamedTuple):
    """A named result of a store: a tree of arrays, written block by block.

    Blocks are cut along the dimensions of a grid, the first of which can grow. A writer completes all
    files of a block before its record: how many positions of the first dimension are done.

    Attributes:
        store: folder of the store.
        name: of the result.
        block: size of a block along each dimension of the grid.
    """

    store: Path
    name: str
    block: dict[str, int]

    @property
    def folder(self) -> Path:
        return self.store / self.name

    def place(self, region: Region) -> tuple[int, ...]:
        """Return the index of the block that contains a region."""
        return tuple(region[dim].start // size for dim, size in self.block.items())

    def done(self) -> np.ndarray:
        """Return how many positions of the first dimension are done in each block."""
        return np.asarray(_open(self.folder / DONE)[...])

    def is_done(self, region: Region) -> bool:
        """Return whether all of a region, which lies within one block, is done."""
        place, dim = self.place(region), next(iter(self.block))
        count = int(np.asarray(_open(self.folder / DONE)[place]))
        return place[0] * self.block[dim] + count >= region[dim].stop

    def shape(self) -> dict[str, int]:
        """Return the extent of each dimension of the grid."""
        extents: dict[str, int] = {}
        for _, node in _arrays(self.folder):
            extents |= dict(zip(node["dimension_names"], node["shape"], strict=True))
        return {dim: extents[dim] for dim in self.block}

    def write(self, tree: xr.DataTree, region: Region, seconds: float) -> None:
        """Write a block, and then record that it is done."""
        for path, dataset in datasets_of(tree):
            for name, variable in dataset.data_vars.items():
                written = encoded(str(name), variable.variable)
                _write(self.folder / path / str(name), written, region)
        place = self.place(region)
        dim = next(iter(self.block))
        count = region[dim].stop - place[0] * self.block[dim]
        _open(self.folder / SECONDS)[place] = np.float32(seconds)
        _open(self.folder / DONE)[place] = count

    def grow(self, size: int, coords: xr.Dataset) -> None:
        """Extend the first dimension to `size` positions, and write their labels."""
        dim, step = next(iter(self.block.items()))
        for path, node in _arrays(self.folder):
            names, shape = node["dimension_names"], node["shape"]
            wanted = {dim: size, f"{dim}_block": -(-size // step)}
            larger = [max(n, wanted.get(name, 0)) for name, n in zip(names, shape, strict=True)]
            if larger != shape:
                _open(self.folder / path).resize(tuple(larger))
            name = path.rpartition("/")[2]
            # Labels are written even at the same size: a writer may have died after resizing them.
            if dim in names and name in coords.coords and larger[names.index(dim)] == size:
                _write(self.folder / path, encoded(name, coords[name].variable), {})
        self.publish()

    def publish(self) -> None:
        """Make the current state of all arrays visible to readers."""
        list_as(self.store, self.name, dict(nodes_under(self.folder)))

    def about(self) -> dict[str, Any]:
        """Return the description that identifies the result."""
        return about(read_node(self.folder))

    def labels(self) -> Iterator[tuple[str, str]]:
        """Yield paths and names of all arrays that are labels of a dimension."""
        for path, node in _arrays(self.folder):
            name = path.rpartition("/")[2]
            if node["dimension_names"] == [name]:
                yield path, name

    def label(self, path: str, here: xr.Variable) -> np.ndarray:
        """Return stored labels; if their files are incomplete, write the labels `here` again first."""
        array = _open(self.folder / path)
        chunks = [self.folder / path / "c" / str(i) for i in range(array.cdata_shape[0])]
        if array.shape == here.shape and not all(chunk.exists() for chunk in chunks):
            _write(self.folder / path, here, {})
        try:
            return np.asarray(array[...])
        except (ValueError, RuntimeError) as error:
            place = f"{self.name}/{path}"
            raise StoreError(f"{place!r} is damaged: {error} dtda.repair discards it") from error


def create(
    store: Path,
    name: str,
    tree: xr.DataTree,
    coords: xr.Dataset,
    shape: Mapping[str, int],
    block: Mapping[str, int],
    identity: dict[str, Any],
) -> Result:
    """Create the arrays of a result at full size with their labels, visible to readers all at once.

    Args:
        store: folder of the store, locked for writing.
        name: of the result.
        tree: a block, which gives names, types and the sizes of dimensions without blocks.
        coords: labels of the whole grid; see `labels_of`.
        shape: extents of the grid.
        block: extents of a block, and of a file.
        identity: what the result is computed from, as values for JSON.
    """
    with scratch(store) as folder:
        about = json.loads(tree.attrs.get(ATTRIBUTE, "{}")) | identity | {"grid": dict(block)}
        root = _groups(folder / name, tree, {ATTRIBUTE: json.dumps(about)})
        for path, dataset in datasets_of(tree):
            for key, variable in dataset.data_vars.items():
                _create(root, _joined(path, key), encoded(str(key), variable.variable), shape, block)
            for key, variable in labels_of(dataset, coords, block).items():
                written = encoded(str(key), variable)
                _create(root, _joined(path, key), written, {}, block)
                _write(folder / name / path / str(key), written, {})
        counts = [-(-shape[dim] // size) for dim, size in block.items()]
        dims = [f"{dim}_block" for dim in block]
        for path, dtype in ((DONE, np.uint32), (SECONDS, np.float32)):
            empty = xr.Variable(dims, np.zeros(counts, dtype))
            _create(root, path, empty, {}, dict.fromkeys(dims, 1))
        put(folder / name, store, name)
    return Result(store, name, dict(block))


def write_tree(folder: Path, tree: xr.DataTree, attributes: Mapping[str, Any]) -> None:
    """Write a whole tree into a new folder."""
    root = _groups(folder, tree, attributes)
    for path, dataset in datasets_of(tree):
        for key, variable in dataset.variables.items():
            written = encoded(str(key), variable)
            _create(root, _joined(path, key), written, {}, {})
            _write(folder / path / str(key), written, {})


def opened(store: Path, name: str) -> Result:
    """Open a result that `create` made."""
    return Result(store, name, about(read_node(store / name))["grid"])


def read(store: Path, name: str, sizes: Mapping[str, int]) -> xr.DataTree:
    """Open the tree of a result lazily, cut to these sizes."""
    tree = xr.open_datatree(store, engine="zarr", group=name, chunks=None)
    leading = {dim: slice(size) for dim, size in sizes.items()}
    return tree.drop_nodes("blocks").isel(leading, missing_dims="ignore")


def datasets_of(tree: xr.DataTree) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield the path of each group relative to a tree, and its dataset."""
    for node in tree.subtree:
        inside = node.path.removeprefix(tree.path).strip("/")
        yield inside, node.to_dataset(inherit=node is tree)


def labels_of(
    dataset: xr.Dataset, coords: xr.Dataset, grid: Collection[str]
) -> dict[Hashable, xr.Variable]:
    """Return the labels of a group: its own, and labels from `coords` for dimensions that it has.

    Its own labels along dimensions of the grid belong to a block, and are left out.
    """
    dims = set(dataset.dims) | {dim for dim in coords.dims if dim in dataset.coords}
    own = {
        name: coord.variable
        for name, coord in dataset.coords.items()
        if not set(coord.dims) & set(grid)
    }
    given = {name: coord.variable for name, coord in coords.coords.items() if dims >= {*coord.dims}}
    return own | {name: label for name, label in given.items() if label.dims or name in own}


def encoded(name: str, variable: xr.Variable) -> xr.Variable:
    """Return a variable as it is written: dates as integers, text with variable length.

    Raises:
        ValueError: for values that a store cannot hold.
    """
    values = np.asarray(variable.values)
    if values.dtype.kind == "O" and not all(isinstance(value, str) for value in values.ravel()):
        kinds = sorted({type(value).__name__ for value in values.ravel()})
        raise ValueError(
            f"{name!r} holds objects ({', '.join(kinds)}), which stores do not support; {USE}"
        )
    if values.dtype.kind in "UOT":
        return xr.Variable(variable.dims, values.astype(np.dtypes.StringDType()), variable.attrs)
    if values.dtype.kind in "mM":
        return _dates(name, variable)
    if values.dtype.kind not in KINDS or values.dtype.itemsize > 8:
        raise ValueError(f"{name!r} is {values.dtype}, which stores do not support; {USE}")
    return xr.Variable(variable.dims, values, variable.attrs)


def _dates(name: str, variable: xr.Variable) -> xr.Variable:
    """Return dates as integers; refuse dates that xarray would not read back."""
    written = encode_cf_variable(variable.copy(deep=False), name=name)
    try:
        same = np.array_equal(decode_cf_variable(name, written).values, variable.values, equal_nan=True)
    except (ValueError, TypeError):
        same = False
    if not same:
        raise ValueError(
            f"{name!r} holds {variable.dtype} that xarray would not read back, such as years before "
            "1678 or after 2261; write them as text"
        )
    return written


USE = "use text, numbers or dates"


def chunk_shape(variable: xr.Variable, blocks: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """Return the shape of chunks: blocks on the grid, else whole axes, halved while too large."""
    blocks = blocks or {}
    sizes = zip(map(str, variable.dims), variable.shape, strict=True)
    shape = [max(1, blocks.get(dim, size)) for dim, size in sizes]
    free = [axis for axis, dim in enumerate(variable.dims) if dim not in blocks]
    while variable.dtype.itemsize * np.prod(shape, dtype=float) > MOST_BYTES and free:
        largest = max(free, key=lambda axis: shape[axis])
        if shape[largest] == 1:
            break
        shape[largest] = -(-shape[largest] // 2)
    return tuple(shape)


def _create(
    group: zarr.Group,
    path: str,
    variable: xr.Variable,
    shape: Mapping[str, int],
    block: Mapping[str, int],
) -> None:
    """Create an array like a variable, as large as the grid."""
    dims = [str(dim) for dim in variable.dims]
    text = variable.dtype.kind == "T"
    group.create_array(
        path,
        shape=[shape.get(dim, size) for dim, size in zip(dims, variable.shape, strict=True)],
        chunks=chunk_shape(variable, block),
        dtype="str" if text else variable.dtype,
        compressors=[Crc32cCodec()],
        fill_value="" if text else {"f": float("nan"), "b": False}.get(variable.dtype.kind, 0),
        dimension_names=dims,
        attributes=_attributes(variable.attrs),
    )


def _groups(folder: Path, tree: xr.DataTree, attributes: Mapping[str, Any]) -> zarr.Group:
    """Create the groups of a tree, with their attributes."""
    root = zarr.create_group(
        folder, zarr_format=3, attributes=_attributes({**tree.attrs, **attributes})
    )
    for path, dataset in datasets_of(tree):
        if path:
            root.require_group(path).attrs.update(_attributes(dataset.attrs))
    return root


def _joined(path: str, name: Hashable) -> str:
    return f"{path}/{name}".lstrip("/")


def _attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as values for JSON."""

    def plain(value: Any) -> Any:
        return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

    return {str(name): plain(value) for name, value in attrs.items()}


def _write(folder: Path, variable: xr.Variable, region: Region) -> None:
    values = variable.values
    values = values.astype(object) if values.dtype.kind == "T" else values
    _open(folder)[tuple(region.get(str(dim), slice(None)) for dim in variable.dims)] = values


def _open(folder: Path) -> zarr.Array:
    if not (folder / "zarr.json").is_file():
        raise StoreError(
            f"{str(folder)!r} is gone: if the store was moved, pass its new path; finished "
            "results are safe"
        )
    return zarr.open_array(folder, mode="r+", config={"write_empty_chunks": True})


def _arrays(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    nodes = nodes_under(folder)
    return [(path, node) for path, node in nodes if node["node_type"] == "array"]
