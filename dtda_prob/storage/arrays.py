"""Labelled arrays on disk: growing in blocks along some dimensions, whole along the others."""

import itertools
import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.metadata import ArrayV3Metadata

from dtda_prob.storage.errors import StoreError

Sizes = Mapping[str, int]
"""By dimension: extents, sizes of blocks, or where a block starts."""


NO_BLOCKS: Sizes = {}
MOST_BYTES = 2**28
"""Of a chunk, where it can be made smaller."""


class Named(NamedTuple):
    """A variable and where it is, relative to the group of its tree."""

    path: str
    variable: xr.Variable


def variables_of(tree: xr.DataTree) -> Iterator[Named]:
    """Give all variables of a tree, coordinates included, by path."""
    for node in tree.subtree:
        for name, variable in node.to_dataset(inherit=False).variables.items():
            yield Named(f"{node.path}/{name}".lstrip("/"), variable)


def create_array(group: zarr.Group, path: str, variable: xr.Variable, blocks: Sizes) -> None:
    """Make an array like a variable, of no extent along the dimensions that grow."""
    dims = [str(dim) for dim in variable.dims]
    sizes = dict(zip(dims, variable.shape, strict=True))
    text = variable.dtype.kind in "UTO"
    dtype = "str" if text else variable.dtype
    group.create_array(
        path,
        shape=tuple(0 if dim in blocks else sizes[dim] for dim in dims),
        chunks=chunk_shape(variable, blocks),
        dtype=dtype,
        compressors=[Crc32cCodec()],
        fill_value="" if text else _fill(variable.dtype),
        dimension_names=dims,
    )


def chunk_shape(variable: xr.Variable, blocks: Sizes = NO_BLOCKS) -> tuple[int, ...]:
    """Give the shape of chunks: blocks where it grows, all of it elsewhere, halved if that is large."""
    named = zip(map(str, variable.dims), variable.shape, strict=True)
    shape = [max(1, blocks.get(dim, size)) for dim, size in named]
    fixed = [axis for axis, dim in enumerate(variable.dims) if dim not in blocks]
    while variable.dtype.itemsize * math.prod(shape) > MOST_BYTES and fixed:
        largest = max(fixed, key=lambda axis: shape[axis])
        if shape[largest] == 1:
            break
        shape[largest] = -(-shape[largest] // 2)
    return tuple(shape)


def grow_arrays(group: zarr.Group, extents: Sizes) -> None:
    """Make all arrays of a group as large as that, and none smaller."""
    for _, array in group.members(max_depth=None):
        if isinstance(array, zarr.Array):
            named = zip(dims_of(array), array.shape, strict=True)
            shape = tuple(max(size, extents.get(dim, 0)) for dim, size in named)
            if shape != array.shape:
                array.resize(shape)


def write_arrays(group: zarr.Group, tree: xr.DataTree, blocks: Sizes, first: Sizes) -> None:
    """Write a block of a tree, which starts there along the dimensions that grow."""
    for path, variable in variables_of(tree):
        if set(variable.dims) & set(blocks):
            starts = [first.get(str(dim), 0) for dim in variable.dims]
            write_array(group, path, variable, starts)


def write_array(group: zarr.Group, path: str, variable: xr.Variable, starts: list[int]) -> None:
    """Write some of an array."""
    values = np.asarray(variable.values)
    values = values.astype(object) if values.dtype.kind in "UT" else values
    region = tuple(slice(start, start + n) for start, n in zip(starts, values.shape, strict=True))
    array = _array(group, path)
    with _readable(array):
        array[region] = values


def checksum(group: zarr.Group, blocks: Sizes, first: Sizes, sizes: Sizes) -> int:
    """Read a block of all arrays that grow, and sum it up in 64 bits."""
    digest = blake2b(digest_size=8)
    for path, array in sorted(group.members(max_depth=None)):
        if isinstance(array, zarr.Array) and set(dims_of(array)) & set(blocks):
            digest.update(path.encode())
            digest.update(_bytes_of(array, first, sizes))
    return int.from_bytes(digest.digest())


def drop_unreadable(group: zarr.Group, folder: Path, blocks: Sizes, first: Sizes, sizes: Sizes) -> None:
    """Remove the files of a block that cannot be read, so that their values are missing."""
    for path, array in group.members(max_depth=None):
        if isinstance(array, zarr.Array) and set(dims_of(array)) & set(blocks):
            try:
                _block_of(array, first, sizes)
            except (ValueError, OSError, RuntimeError):
                for file in _files_of(array, folder / path / "c", first, sizes):
                    file.unlink(missing_ok=True)


def read_block(group: zarr.Group, path: str, first: Sizes, sizes: Sizes) -> np.ndarray:
    """Read a block of an array, all of it along the dimensions that do not grow."""
    return _block_of(_array(group, path), first, sizes)


def select(group: zarr.Group, path: str, where: Mapping[str, slice]) -> np.ndarray:
    """Read some of an array, all of it along the dimensions that are not named."""
    array = _array(group, path)
    with _readable(array):
        return np.asarray(array[tuple(where.get(dim, slice(None)) for dim in dims_of(array))])


def extents_of(group: zarr.Group) -> dict[str, int]:
    """Give the extent of each dimension of a group's arrays."""
    arrays = [array for _, array in group.members(max_depth=None) if isinstance(array, zarr.Array)]
    return {dim: size for a in arrays for dim, size in zip(dims_of(a), a.shape, strict=True)}


def dims_of(array: zarr.Array) -> list[str]:
    """Give the names of an array's dimensions."""
    assert isinstance(array.metadata, ArrayV3Metadata)
    return [str(dim) for dim in array.metadata.dimension_names or ()]


def open_group(folder: Path, path: str = "") -> zarr.Group:
    """Open a group to read and write it, by its own description and not by what is published."""
    return zarr.open_group(folder / path, mode="r+", use_consolidated=False)


def _bytes_of(array: zarr.Array, first: Sizes, sizes: Sizes) -> bytes:
    values = _block_of(array, first, sizes)
    if values.dtype.kind in "OT":
        return "\0".join(map(str, values.ravel())).encode()
    return np.ascontiguousarray(values).tobytes()


def _block_of(array: zarr.Array, first: Sizes, sizes: Sizes) -> np.ndarray:
    named = zip(dims_of(array), array.shape, strict=True)
    starts = [(first.get(dim, 0), sizes.get(dim, extent)) for dim, extent in named]
    with _readable(array):
        return np.asarray(array[tuple(slice(start, start + size) for start, size in starts)])


def _files_of(array: zarr.Array, folder: Path, first: Sizes, sizes: Sizes) -> Iterator[Path]:
    """Give the files that hold a block."""
    ranges = []
    for dim, extent, chunk in zip(dims_of(array), array.shape, array.chunks, strict=True):
        start, size = first.get(dim, 0), sizes.get(dim, extent)
        ranges.append(range(start // chunk, -(-(start + size) // chunk)))
    return (folder.joinpath(*map(str, index)) for index in itertools.product(*ranges))


@contextmanager
def _readable(array: zarr.Array) -> Generator[None]:
    """Say of what is there, and does not have its checksum or its size, that it is damaged."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise StoreError(
            f"a file of {str(array.store_path).removeprefix('file://')!r} is damaged: {error} "
            "dtda.verify names the shards that it is of; dtda.repair gives them up, to be done again"
        ) from error


def _array(group: zarr.Group, path: str) -> zarr.Array:
    found = group[path]
    assert isinstance(found, zarr.Array)
    return found


def _fill(dtype: np.dtype) -> float | int | bool:
    return {"f": float("nan"), "b": False}.get(dtype.kind, 0)
