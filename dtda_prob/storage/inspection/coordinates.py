"""What opening a tree loads: its coordinates; and whether sizes agree down the tree."""

import math
from collections.abc import Iterator, Mapping

from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.inspection.documents import COPY_AGAIN
from dtda_prob.storage.inspection.metadata_rules import Declared

MAX_CHUNKS = 100_000
RAISE = "open it with plain xarray if you trust it, or raise max_bytes where that is the limit"


def check_coordinates(arrays: Mapping[str, Declared], max_bytes: int) -> None:
    """Bound the bytes and the chunks of all coordinates together, which opening loads as indexes."""
    size = chunks = 0
    for path in sorted(path for path, array in arrays.items() if is_index(path, array)):
        array = arrays[path]
        size += array.shape[0] * max(array.item_bytes, 8)
        chunks += -(-array.shape[0] // array.chunks[0])
        _bound(path, array, "bytes", size, max_bytes)
        _bound(path, array, "chunks", chunks, MAX_CHUNKS)


def check_alignment(arrays: Mapping[str, Declared]) -> None:
    """Check that a dimension has one size in a group and all above it, and no scalar has its name."""
    seen: dict[tuple[str, str], tuple[int, str]] = {}
    for path in sorted(arrays, key=lambda path: (path.count("/"), path)):
        group = path.rpartition("/")[0]
        for dim, size in zip(arrays[path].dims, arrays[path].shape, strict=True):
            for above in _upwards(group):
                _compare(path, dim, size, *seen.get((above, dim), (size, path)))
            seen.setdefault((group, dim), (size, path))
    for path in (path for path, array in arrays.items() if not array.dims):
        _refuse_scalar(path, seen)


def is_index(path: str, array: Declared) -> bool:
    """Tell whether xarray loads an array when it opens the store: it is named as its only dimension."""
    return array.dims == (path.rpartition("/")[2],) and math.prod(array.shape) > 0


def _upwards(group: str) -> Iterator[str]:
    while group:
        yield group
        group = group.rpartition("/")[0]
    yield ""


def _compare(path: str, dim: str, size: int, other: int, where: str) -> None:
    if size != other:
        raise StoreError(
            f"{path!r} has size {size} along {dim!r}, where {where!r} has {other}; {COPY_AGAIN}"
        )


def _bound(path: str, array: Declared, what: str, number: int, most: int) -> None:
    if number > most:
        raise StoreError(
            f"{path!r} is a coordinate, which opening loads, of shape {array.shape} in chunks of "
            f"{array.chunks}: with those before it {number} {what}, more than {most}; {RAISE}"
        )


def _refuse_scalar(path: str, seen: Mapping[tuple[str, str], tuple[int, str]]) -> None:
    group, _, name = path.rpartition("/")
    if (group, name) in seen:
        user = seen[group, name][1]
        raise StoreError(f"{path!r} is a scalar, but {user!r} has a dimension of its name; rename one")
