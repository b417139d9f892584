"""Whether the files of chunks have the sizes that their array declares.

Chunks are `bytes` and `crc32c`, so a file has the bytes of its chunk and four more. Chunks of strings
are of any size; they begin with their number of elements, which the decoder allocates unseen.
"""

import math
import re
from pathlib import Path

from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.inspection.metadata_rules import Declared

INDEX = re.compile(r"0|[1-9][0-9]*")
CHECKSUM_BYTES = 4
COUNT_BYTES = 4
DAMAGED = (
    "copy the file again; or, in a study, let dtda.repair give it up; or remove it, which makes its "
    "values missing"
)


def is_chunk(array: Declared, inner: str) -> bool:
    """Tell whether zarr takes a file, named by its path inside the array's folder, for a chunk."""
    start, *index = inner.split("/")
    return start == "c" and len(index) == len(array.shape) and all(map(INDEX.fullmatch, index))


def check_chunk(
    path: Path, place: str, array: Declared, size: int, max_bytes: int, whole: bool
) -> None:
    """Check the size of the file of a chunk, and the number of elements of one of strings.

    Where chunks need not be whole, truncated ones pass: reading them fails, and does no harm.
    """
    if array.kind == "string":
        _check_strings(path, place, math.prod(array.chunks), size, max_bytes)
        return
    expected = math.prod(array.chunks) * array.item_bytes + CHECKSUM_BYTES
    if size > expected or (whole and size < expected):
        what = "is truncated" if size < expected else "is too long"
        raise StoreError(f"{place!r} {what}: it has {size} bytes, not {expected}; {DAMAGED}")


def _check_strings(path: Path, place: str, count: int, size: int, max_bytes: int) -> None:
    least = COUNT_BYTES + 4 * count + CHECKSUM_BYTES
    if size < least:
        raise StoreError(f"{place!r} is truncated: it has {size} bytes, not {least} or more; {DAMAGED}")
    if size > max_bytes:
        raise StoreError(
            f"{place!r} has {size} bytes of strings, more than max_bytes={max_bytes}; "
            "raise max_bytes if you trust the store"
        )
    with path.open("rb") as file:
        found = int.from_bytes(file.read(COUNT_BYTES), "little")
    if found != count:
        raise StoreError(f"{place!r} says that it holds {found} strings, not {count}; {DAMAGED}")
