"""Refuse stores that could run code, leave their folder or exhaust memory when they are opened.

Only what this library writes is allowed: zarr looks up types, codecs, grids and keys in registries to
which any installed package may add.
"""

import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtda_prob.storage.documents import (
    ATTRIBUTE,
    FORMAT,
    MAX_DEPTH,
    MAX_EXTENT,
    NODE,
    SAVE,
    integers,
    joined,
    parsed,
    read_bounded,
    refuse,
    root_of,
)

MAX_NODES, MAX_GROUPS = 10_000, 2_000
MAX_JSON, MAX_ROOT_JSON, MAX_MANIFEST = 2**24, 2**26, 2**20
MAX_CHUNKS, MAX_LABEL_CHUNKS, RECORDS = 10_000_000, 100_000, 10
"""Chunks of an array, and of all labels; ten records of blocks take as long to read as one label."""
MAX_FILL = 256
INTEGERS = tuple(f"{sign}int{8 * 2**i}" for sign in ("", "u") for i in range(4))
KINDS = ("bool", *INTEGERS, "float16", "float32", "float64", "string")
GROUP = {"zarr_format", "node_type", "attributes", "consolidated_metadata"}
FIXED = {
    "zarr_format": 3,
    "node_type": "array",
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "storage_transformers": [],
}
EMPTY = (None, {"kind": "inline", "must_understand": False, "metadata": {}})
HEX = re.compile(r"NaN|-?Infinity|0x([0-9a-fA-F]{4}|[0-9a-fA-F]{8}|[0-9a-fA-F]{16})")
ACTED = {
    *("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "_Encoding", "bounds"),
    *("units", "calendar", "dtype", "coordinates", "grid_mapping", "ancillary_variables"),
    *("cell_measures", "formula_terms", "char_dim_name"),
}
"""Attributes that xarray interprets; it passes on all others."""
DATE = r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d:\d\d(\.\d{1,9})?)?"
WRITTEN = {
    "units": re.compile(rf"(?!.*since).*|(days|hours|minutes|(milli|micro|nano)?seconds) since {DATE}"),
    "calendar": re.compile("standard|gregorian|proleptic_gregorian"),
    "dtype": re.compile(r"timedelta64\[(s|ms|us|ns)\]"),
    "coordinates": re.compile(".*"),
}
"""Values of these attributes that this library writes."""
TYPES = {
    **dict.fromkeys(("kind", "transform", "model", "plate", "removal"), str),
    **dict.fromkeys(("measure", "grid", "kernel", "rows", "data", "sites", "shapes", "versions"), dict),
    "key": list,
    "num_draws": int,
}
"""Types of the fields of our own description that are read."""
TRUST = "raise max_bytes, or open it with plain xarray, if you trust it"
GIVE_UP = "copy the file again, or discard it with dtda.repair, so that the next call computes it again"
REMOVE = "remove it"
SPLIT = "split the store up"

type Document = dict[str, Any]
type Nodes = dict[str, Array | Document]


class Array(NamedTuple):
    """The declaration of an array, and the sizes of its chunk files by their paths inside it."""

    kind: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dims: tuple[str, ...]
    document: Document
    files: dict[str, int]

    @property
    def item_bytes(self) -> int:
        """Bytes of an element in memory."""
        text = self.kind == "string"
        fill = len(self.document["fill_value"].encode(errors="replace")) if text else 0
        return 16 + fill if text else np.dtype(self.kind).itemsize

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of chunks along each axis."""
        return tuple(-(-n // size) for n, size in zip(self.shape, self.chunks, strict=True))


def inspect(
    path: str | Path, *, max_bytes: int = 2**30, complete: bool = True, chunks: bool = True
) -> Nodes:
    """Check a store by its metadata, and the names and sizes of its files.

    Afterwards xarray can open it in at most about five times `max_bytes` of memory. The check holds for
    the store as it is now: whoever can write to it while it is open can still do harm.

    Args:
        path: the folder of a store, which may be a link; nothing inside it may be one.
        max_bytes: largest size of a chunk, and of all labels together.
        complete: whether to refuse truncated files too, which cannot be read but do no harm.
        chunks: whether to check the files of chunks at all, which is needed before decoding them.

    Returns:
        The declaration of each array and the document of each group, by path.

    Raises:
        StoreError: if the store is damaged, foreign or dangerous; it names the place in the store.
        FileNotFoundError: if there is nothing at `path`.
        NotADirectoryError: if there is a file at `path`.
    """
    nodes = _walked(root_of(path), max_bytes, complete, chunks)
    for name, listed in _listed(nodes[""]).items():
        _check_listed(name, listed, nodes)
    _check_labels(nodes, max_bytes)
    return nodes


def _walked(root: Path, max_bytes: int, complete: bool, chunks: bool) -> Nodes:
    """Check all folders and files, parents first."""
    nodes: Nodes = {}
    owners: dict[str, str] = {}  # the arrays that folders belong to
    waiting, text = [""], 0
    while waiting:
        folder = waiting.pop()
        files, inner = _entries(root, folder)
        waiting += inner
        owner = owners.get(folder.rpartition("/")[0]) if folder else None
        if NODE in files:
            place = joined(folder, NODE)
            if owner is not None:
                refuse(place, f"is a node inside the array {owner!r}")
            document = read_bounded(root, place, MAX_JSON if folder else MAX_ROOT_JSON)
            nodes[folder] = _node(place, document, max_bytes)
            _check_number(nodes)
            owner = folder if isinstance(nodes[folder], Array) else None
        if owner is not None:
            owners[folder] = owner
            check = partial(_check_chunk, max_bytes=max_bytes, complete=complete) if chunks else None
            text += _check_chunks(root, folder, files, owner, nodes, check)
            if text > max_bytes:
                refuse(owner, f"is a coordinate: up to here {text} bytes of strings", TRUST)
    return nodes


def _entries(root: Path, folder: str) -> tuple[dict[str, int], list[str]]:
    """Return the files of a folder with their sizes, and its folders; some may vanish meanwhile."""
    files, inner = {}, []
    try:
        entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return files, inner
    for entry in entries:
        place = joined(folder, entry.name)
        if entry.is_symlink():
            refuse(place, f"is a symbolic link to {os.readlink(entry)!r}", "put a copy in its place")
        if entry.name in (".zarray", ".zgroup", ".zattrs", ".zmetadata"):
            refuse(place, "is of zarr format 2, which can hold pickled objects", SAVE)
        if entry.is_dir(follow_symlinks=False):
            inner.append(place)
        elif not entry.is_file(follow_symlinks=False):
            refuse(place, "is a device, a pipe or a socket, not a file", REMOVE)
        elif not entry.name.endswith(".partial"):  # of a writer
            try:
                files[entry.name] = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
    return files, inner


def _check_number(nodes: Nodes) -> None:
    """Refuse too many nodes, since zarr and xarray create objects for each."""
    if len(nodes) > MAX_GROUPS:
        groups = sum(isinstance(node, dict) for node in nodes.values())
        if groups > MAX_GROUPS or len(nodes) > MAX_NODES:
            refuse(NODE, f"holds more than {MAX_NODES} nodes or {MAX_GROUPS} groups", SPLIT)


def _check_chunks(
    root: Path,
    folder: str,
    files: dict[str, int],
    owner: str,
    nodes: Nodes,
    check: Callable[[Path, str, Array, int], None] | None,
) -> int:
    """Check the chunks in a folder of an array; return their size in bytes if they hold text labels."""
    array, total = nodes[owner], 0
    assert isinstance(array, Array)
    for name, size in files.items():
        place = joined(folder, name)
        start, *index = (inside := place.removeprefix(f"{owner}/")).split("/")
        if start == "c" and len(index) == len(array.shape) and all(map(_is_index, index)):
            if check is not None:
                check(root / place, place, array, size)
            array.files[inside] = size
            total += size
    return total if array.kind == "string" and is_label(owner, array) else 0


def _check_chunk(
    path: Path, place: str, array: Array, size: int, max_bytes: int, complete: bool
) -> None:
    count = math.prod(array.chunks)
    text = array.kind == "string"
    expected = 4 * count + 8 if text else count * array.item_bytes + 4
    if size < expected and (complete or text):
        refuse(place, f"is truncated: it has {size} bytes, not {expected}", GIVE_UP)
    if size > (max_bytes if text else expected):
        refuse(place, f"is too long: it has {size} bytes, not {expected}", GIVE_UP)
    if text:
        with path.open("rb") as chunk:  # the decoder allocates what the first bytes declare
            declared = int.from_bytes(chunk.read(4), "little")
        if declared != count:
            refuse(place, f"says that it holds {declared} strings, not {count}", GIVE_UP)


def _is_index(text: str) -> bool:
    return re.fullmatch(r"0|[1-9][0-9]*", text) is not None


def is_label(path: str, array: Array) -> bool:
    """Return whether xarray loads an array when it opens the store: its name is its only dimension."""
    return array.dims == (path.rpartition("/")[2],)


def _listed(document: Array | Document) -> Document:
    """Return the nodes that the root lists, which readers go by."""
    if not isinstance(document, dict):
        refuse(NODE, "is an array, not a group", "name the folder of the whole store")
    consolidated = document.get("consolidated_metadata")
    if not isinstance(consolidated, dict) or consolidated.get("kind") != "inline":
        refuse(NODE, "has no consolidated metadata", f"run zarr.consolidate_metadata, or {SAVE}")
    listing = consolidated.get("metadata")
    if consolidated.keys() - {"kind", "must_understand", "metadata"} or not isinstance(listing, dict):
        refuse(NODE, "has consolidated metadata without a list of nodes")
    return listing


def _check_listed(name: str, listed: Any, nodes: Nodes) -> None:
    """Check that a node is listed as it is, or with a smaller shape while it is being extended."""
    parts, place, where = name.split("/"), f"{NODE}: {name}", joined(name, NODE)
    bad = [part in ("", ".", "..", NODE) or not part.isprintable() or "\\" in part for part in parts]
    if any(bad) or len(parts) > MAX_DEPTH:
        refuse(NODE, f"lists a node {name!r}, whose name is no path inside the store")
    if not isinstance(listed, dict):
        refuse(place, f"is a {type(listed).__name__}, not a JSON object")
    if name not in nodes:
        refuse(where, f"is missing, though {NODE!r} lists it")
    node = nodes[name]
    if isinstance(node, dict):
        is_group = isinstance(_node(place, listed, 0), dict)
        same = is_group and listed.get("attributes", {}) == node.get("attributes", {})
    else:
        shape = integers(place, "shape", listed.get("shape"), 0)
        smaller = len(shape) == len(node.shape) and all(map(int.__le__, shape, node.shape))
        same = smaller and listed | {"shape": [*node.shape]} == node.document
    if not same:
        refuse(where, f"and {NODE!r}, which lists it, disagree")


def _node(place: str, document: Document, max_bytes: int) -> Array | Document:
    """Check the document of a node."""
    if document.get("zarr_format") != 3 or document.get("node_type") not in ("group", "array"):
        refuse(place, "is neither a group nor an array of zarr format 3", SAVE)
    if place != NODE and document.get("consolidated_metadata") not in EMPTY:
        refuse(place, "has consolidated metadata of its own", REMOVE)
    attributes = document.get("attributes", {})
    if not isinstance(attributes, dict):
        refuse(place, "has attributes that are no JSON object")
    if document["node_type"] == "array":
        return _array(place, document, attributes, max_bytes)
    if unknown := document.keys() - GROUP:
        refuse(place, f"has the unknown fields {sorted(unknown)}", SAVE)
    if not isinstance(attributes.get("coordinates", ""), str):
        refuse(place, "has the attribute coordinates, which is no string", REMOVE)
    if ATTRIBUTE in attributes:
        _check_manifest(f"{place}: attributes[{ATTRIBUTE!r}]", attributes[ATTRIBUTE])
    return document


def _check_manifest(place: str, manifest: Any) -> None:
    """Require that our own description is JSON of known types, of a format that this version reads."""
    if not isinstance(manifest, str) or len(manifest) > MAX_MANIFEST:
        refuse(place, f"is not a JSON text of at most {MAX_MANIFEST} characters")
    about = parsed(place, manifest.encode(errors="replace"))
    number = about.get("format", FORMAT)
    if type(number) is not int or number < FORMAT:
        refuse(place, f"has format {number!r}, not {FORMAT}", "run the study again")
    if number > FORMAT:
        refuse(place, f"has format {number}, written by a newer version", "upgrade dtda_prob")
    for field, kind in TYPES.items():
        if not isinstance(about.get(field), kind | None):
            refuse(place, f"has {field} {repr(about[field])[:60]}, not a {kind.__name__}")
    if not all(type(size) is int and size > 0 for size in (about.get("grid") or {}).values()):
        refuse(place, "has a grid whose blocks are no positive integers")


def _array(place: str, document: Document, attributes: Document, max_bytes: int) -> Array:
    """Check that an array is declared as this library declares arrays of its shape and type."""
    kind, fill = document.get("data_type"), document.get("fill_value")
    if kind not in KINDS or not _fits(kind, fill):
        refuse(place, f"has data type {repr(kind)[:60]} and fill value {repr(fill)[:60]}", SAVE)
    array = Array(str(kind), *_axes(place, document), document, {})
    _check_declaration(place, array, attributes)
    _check_attributes(place, array.kind, attributes)
    total, chunk = (math.prod(size) * array.item_bytes for size in (array.shape, array.chunks))
    if total > MAX_EXTENT or math.prod(array.counts) > MAX_CHUNKS:
        refuse(place, f"declares {total} bytes in {math.prod(array.counts)} chunks")
    if chunk > max_bytes:
        refuse(place, f"declares chunks of {chunk} bytes, more than max_bytes={max_bytes}", TRUST)
    return array


def _axes(place: str, document: Document) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """Return the shape of an array, the shape of its chunks, and the names of its dimensions."""
    shape = integers(place, "shape", document.get("shape"), 0)
    grid = document.get("chunk_grid")
    inner = grid.get("configuration") if isinstance(grid, dict) else None
    given = inner.get("chunk_shape") if isinstance(inner, dict) else None
    chunks, dims = integers(place, "chunk shape", given, 1), document.get("dimension_names") or []
    if not isinstance(dims, list) or not all(isinstance(dim, str) and dim for dim in dims):
        refuse(place, f"has dimension names {repr(dims)[:60]}, not strings", SAVE)
    if not len(shape) == len(chunks) == len(dims) == len({*dims}):
        refuse(place, f"has shape {shape}, chunks {chunks} and dimensions {dims}", SAVE)
    return shape, chunks, tuple(dims)


def _check_declaration(place: str, array: Array, attributes: Document) -> None:
    """Refuse fields of a declaration that this library would not write."""
    dims = {"dimension_names": [*array.dims]}
    expected = FIXED | dims | {
        "data_type": array.kind,
        "shape": [*array.shape],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*array.chunks]}},
        "fill_value": array.document.get("fill_value"),
        "codecs": [_serializer(array.kind), {"name": "crc32c"}],
        "attributes": attributes,
    }  # fmt: skip
    own = {"attributes": {}, "storage_transformers": []} | array.document | dims
    for field in sorted(own.keys() | expected.keys()):
        if own.get(field) != expected.get(field):
            what = f"has {field} {repr(own.get(field))[:99]}, not {expected.get(field)}"
            refuse(place, f"{what} (others may run code, or take any memory)", SAVE)


def _serializer(kind: str) -> Document:
    """Return the codec that turns elements of a data type into bytes."""
    if kind == "string":
        return {"name": "vlen-utf8", "configuration": {}}
    several = np.dtype(kind).itemsize > 1
    return {"name": "bytes"} | ({"configuration": {"endian": "little"}} if several else {})


def _fits(kind: Any, fill: Any) -> bool:
    """Return whether a fill value has a data type."""
    if kind in ("bool", "string"):
        short = len(str(fill).encode(errors="replace")) <= MAX_FILL
        return isinstance(fill, bool if kind == "bool" else str) and short
    if isinstance(fill, str | bool):
        return isinstance(fill, str) and "float" in kind and HEX.fullmatch(fill) is not None
    if "int" in kind:
        return isinstance(fill, int) and np.iinfo(kind).min <= fill <= np.iinfo(kind).max
    return isinstance(fill, int | float) and abs(fill) < 2.0**1023


def _check_attributes(place: str, kind: str, attributes: Document) -> None:
    """Refuse attributes that xarray interprets, except as this library writes them."""
    for name in sorted(attributes.keys() & ACTED):
        value, rule = attributes[name], WRITTEN.get(name)
        fits = rule is not None and isinstance(value, str) and rule.fullmatch(value)
        if not fits or (kind == "string" and name not in ("coordinates", "units")):
            refuse(place, f"has the attribute {name}={repr(value)[:60]}, on which xarray acts", REMOVE)


def _check_labels(nodes: Nodes, max_bytes: int) -> None:
    """Bound what opening a store reads: all labels, and the records of finished blocks."""
    size = chunks = 0
    arrays = [(path, node) for path, node in sorted(nodes.items()) if isinstance(node, Array)]
    for path, array in arrays:
        label = is_label(path, array)
        record = "/blocks/" in path
        if label or record:
            size += math.prod(array.shape) * max(array.item_bytes, 8)
            chunks += math.prod(array.counts) // (RECORDS if record else 1)
        if size > max_bytes or chunks > MAX_LABEL_CHUNKS:
            most = f"more than {max_bytes} or {MAX_LABEL_CHUNKS}"
            refuse(path, f"is a coordinate: up to here {size} bytes in {chunks} chunks, {most}", TRUST)
