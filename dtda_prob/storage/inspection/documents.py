"""JSON as a store may hold it: small, flat, of unique keys."""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dtda_prob.storage.errors import StoreError

MAX_ROOT_BYTES = 64 * 2**20
MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32
MAX_CONTAINERS = 1_000_000
COPY_AGAIN = "copy the store again from where it came, or run the study again"

type Document = dict[str, Any]


def read_document(path: Path, place: str, max_bytes: int = MAX_BYTES) -> Document:
    """Read a JSON object, and no more than `max_bytes` of it."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise StoreError(f"{place!r} is no regular file; put a copy of the file in its place")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise StoreError(
            f"{place!r} has more than {max_bytes} bytes, too many for metadata; {COPY_AGAIN}"
        )
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        raise StoreError(f"{place!r} holds more than {MAX_CONTAINERS} lists and objects; {COPY_AGAIN}")
    return parse(data, place)


def parse(data: bytes, place: str) -> Document:
    """Parse a JSON object in UTF-8."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise StoreError(f"{place!r} is nested more than {MAX_DEPTH} deep; {COPY_AGAIN}") from None
    except ValueError as error:
        raise StoreError(f"{place!r} is damaged, no JSON: {error}; {COPY_AGAIN}") from None
    if not isinstance(value, dict):
        raise StoreError(f"{place!r} holds a {type(value).__name__}, not a JSON object; {COPY_AGAIN}")
    _refuse_depth(value, place)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return document


def _refuse_depth(value: Document, place: str) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _within(outer) if isinstance(inner, dict | list)]
    if level:
        raise StoreError(f"{place!r} is nested more than {MAX_DEPTH} deep; {COPY_AGAIN}")


def _within(container: dict | list) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
