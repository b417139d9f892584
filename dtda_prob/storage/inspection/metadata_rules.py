"""What the metadata of a node may say, so that zarr and xarray can be let loose on it.

A list of what is allowed, not of what is known to be dangerous: zarr looks data types, codecs, grids
and keys up in registries that any installed package may add to.
"""

import math
import re
from typing import Any, NamedTuple

import numpy as np

from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.inspection.attribute_rules import check_attributes
from dtda_prob.storage.inspection.documents import COPY_AGAIN, Document
from dtda_prob.storage.inspection.folders import RE_SAVE

GROUP_FIELDS = {"zarr_format", "node_type", "attributes", "consolidated_metadata"}
ARRAY_FIELDS = {
    *("zarr_format", "node_type", "attributes", "shape", "data_type", "chunk_grid", "fill_value"),
    *("chunk_key_encoding", "codecs", "dimension_names", "storage_transformers"),
}
OPTIONAL_FIELDS = {"attributes", "storage_transformers", "dimension_names"}
KINDS = (
    "bool",
    *(f"{u}int{8 * 2**i}" for u in ("", "u") for i in range(4)),
    "float16",
    "float32",
    "float64",
)
KEYS = {"name": "default", "configuration": {"separator": "/"}}
EMPTY = (None, {"kind": "inline", "must_understand": False, "metadata": {}})
FLOAT = re.compile(r"NaN|-?Infinity|0x([0-9a-fA-F]{4}|[0-9a-fA-F]{8}|[0-9a-fA-F]{16})")
MAX_EXTENT = 2**63 - 1
MAX_DIMS = 32
MAX_FILL_BYTES = 256
STRING_BYTES = 16


class Declared(NamedTuple):
    """What an array says of itself; `item_bytes` are those of an element in memory."""

    kind: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dims: tuple[str, ...]
    fill: Any
    item_bytes: int


def check_node(place: str, document: Document, max_bytes: int) -> Declared | None:
    """Check the metadata of a node; give what an array declares, and None for a group."""
    kind = document.get("node_type")
    _require(document.get("zarr_format") == 3, place, "is not of zarr format 3", RE_SAVE)
    _require(kind in ("group", "array"), place, f"is a node of type {kind!r}", RE_SAVE)
    unknown = document.keys() - (GROUP_FIELDS if kind == "group" else ARRAY_FIELDS)
    _require(not unknown, place, f"has the unknown fields {sorted(unknown)}", RE_SAVE)
    if kind == "array":
        return _check_array(place, document, max_bytes)
    check_attributes(place, document.get("attributes", {}), None)
    return None


def refuse_inner_listing(place: str, document: Document) -> None:
    """Refuse consolidated metadata anywhere but in the root, where alone it is kept up to date."""
    inner = document.get("consolidated_metadata")
    _require(inner in EMPTY, place, "has consolidated metadata of its own", "remove the field")


def _check_array(place: str, document: Document, max_bytes: int) -> Declared:
    missing = ARRAY_FIELDS - OPTIONAL_FIELDS - document.keys()
    _require(not missing, place, f"lacks the fields {sorted(missing)}", RE_SAVE)
    transformers = document.get("storage_transformers", [])
    _require(transformers == [], place, "has storage transformers", RE_SAVE)
    keys = document["chunk_key_encoding"]
    _require(keys == KEYS, place, f"names its chunks by {keys!r}, not {KEYS!r}", RE_SAVE)
    kind = _kind(place, document["data_type"])
    check_attributes(place, document.get("attributes", {}), kind)
    _check_codecs(place, kind, document["codecs"])
    _check_fill(place, kind, document["fill_value"])
    shape = _integers(place, "shape", document["shape"], 0)
    chunks = _chunks(place, document["chunk_grid"], len(shape))
    dims = _dims(place, document.get("dimension_names"), len(shape))
    item = _item_bytes(kind, document["fill_value"])
    _check_sizes(place, shape, chunks, item, max_bytes)
    return Declared(kind, shape, chunks, dims, document["fill_value"], item)


def _require(holds: bool, place: str, what: str, then: str) -> None:
    if not holds:
        raise StoreError(f"{place!r} {what}; {then}")


def _kind(place: str, kind: object) -> str:
    if not isinstance(kind, str) or kind not in (*KINDS, "string"):
        raise StoreError(
            f"{place!r} has data type {kind!r}, not one of {(*KINDS, 'string')}; {RE_SAVE}"
        )
    return kind


def _check_codecs(place: str, kind: str, codecs: object) -> None:
    """A chunk that is compressed, or decoded by a stranger's codec, may be of any size in memory."""
    endian = {"name": "bytes", "configuration": {"endian": "little"}}
    serializers = [endian] if kind != "string" else [{"name": "vlen-utf8"}]
    if kind in ("bool", "int8", "uint8"):
        serializers.append({"name": "bytes"})
    plain = [_without_empty(codec) for codec in codecs] if isinstance(codecs, list) else codecs
    if plain not in [[serializer, {"name": "crc32c"}] for serializer in serializers]:
        what = f"has codecs {codecs!r}, not {[serializers[0], {'name': 'crc32c'}]}: {COMPRESSED}"
        _require(False, place, what, RE_SAVE)


COMPRESSED = "a compressed chunk may have any size in memory, and other codecs may run any code"


def _without_empty(codec: object) -> object:
    if isinstance(codec, dict) and codec.get("configuration") == {}:
        return {name: value for name, value in codec.items() if name != "configuration"}
    return codec


def _check_fill(place: str, kind: str, fill: object) -> None:
    if not _fits(kind, fill):
        shown = repr(fill)[:60]
        _require(False, place, f"has fill value {shown}, no {kind} (or too long)", RE_SAVE)


def _fits(kind: str, fill: object) -> bool:
    if kind == "bool":
        return isinstance(fill, bool)
    if kind == "string":
        return isinstance(fill, str) and len(fill.encode(errors="replace")) <= MAX_FILL_BYTES
    if isinstance(fill, str | bool):
        return isinstance(fill, str) and "float" in kind and FLOAT.fullmatch(fill) is not None
    if "int" in kind:
        return isinstance(fill, int) and np.iinfo(kind).min <= fill <= np.iinfo(kind).max
    return isinstance(fill, int | float) and abs(fill) < 2.0**1023


def _integers(place: str, what: str, values: object, least: int) -> tuple[int, ...]:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise StoreError(f"{place!r} has {what} {repr(values)[:60]}, no list of integers; {COPY_AGAIN}")
    if len(values) > MAX_DIMS or any(not least <= value <= MAX_EXTENT for value in values):
        limits = f"at most {MAX_DIMS} numbers within [{least}, 2**63)"
        raise StoreError(f"{place!r} has {what} {repr(values)[:60]}, not {limits}; {COPY_AGAIN}")
    return tuple(values)


def _chunks(place: str, grid: object, ndim: int) -> tuple[int, ...]:
    if not isinstance(grid, dict) or grid.get("name") != "regular" or not _shaped(grid):
        raise StoreError(f"{place!r} has chunk grid {repr(grid)[:60]}, not a regular one; {RE_SAVE}")
    chunks = _integers(place, "chunk shape", grid["configuration"]["chunk_shape"], 1)
    _require(len(chunks) == ndim, place, f"has chunks {chunks} for {ndim} dimensions", COPY_AGAIN)
    return chunks


def _shaped(grid: dict) -> bool:
    inner = grid.get("configuration")
    return (
        grid.keys() == {"name", "configuration"}
        and isinstance(inner, dict)
        and [*inner] == ["chunk_shape"]
    )


def _dims(place: str, dims: object, ndim: int) -> tuple[str, ...]:
    if dims is None and ndim == 0:
        return ()
    if not isinstance(dims, list) or not all(isinstance(dim, str) and dim for dim in dims):
        raise StoreError(f"{place!r} has dimension names {repr(dims)[:60]}, not strings; {RE_SAVE}")
    _require(len(dims) == ndim, place, f"has dimension names {dims} for {ndim} dimensions", RE_SAVE)
    _require(len({*dims}) == ndim, place, f"has a dimension twice in {dims}", RE_SAVE)
    return tuple(dims)


def _item_bytes(kind: str, fill: str) -> int:
    return (
        STRING_BYTES + len(fill.encode(errors="replace"))
        if kind == "string"
        else np.dtype(kind).itemsize
    )


def _check_sizes(place: str, shape: tuple, chunks: tuple, item: int, max_bytes: int) -> None:
    total, chunk = math.prod(shape) * item, math.prod(chunks) * item
    _require(total <= MAX_EXTENT, place, f"declares {total} bytes in all", COPY_AGAIN)
    what = f"declares chunks of {chunk} bytes, more than max_bytes={max_bytes}"
    _require(chunk <= max_bytes, place, what, "raise max_bytes if you trust the store")
