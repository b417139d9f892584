"""The folder of a store and its JSON documents, whether trusted or checked."""

import json
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from dtda_prob.storage.errors import StoreError, printable

NODE = "zarr.json"
"""The file that describes a group or an array."""
ATTRIBUTE = "dtda_prob"
"""The attribute that holds our own description, as JSON."""
FORMAT = 2
"""The format of stores that this version writes and reads."""
MAX_DEPTH, MAX_CONTAINERS, MAX_EXTENT = 32, 1_000_000, 2**63 - 1
AGAIN = "copy the store again from where it came, or run the study again"
SAVE = "open it with plain xarray if you trust it, and re-save it with dtda.save"

type Document = dict[str, Any]


def refuse(place: str, what: str, then: str = AGAIN) -> NoReturn:
    """Raise a StoreError that names a place in a store, what is wrong there, and what to do."""
    raise StoreError(f"{printable(place)!r} {what}; {then}")


def joined(folder: str, name: str) -> str:
    """Return the place of a file in a folder of a store, whose root has no name."""
    return f"{folder}/{name}" if folder else name


def integers(place: str, what: str, values: Any, least: int) -> tuple[int, ...]:
    """Check that values are a list of integers, and return them as a tuple."""
    fits = isinstance(values, list) and len(values) <= MAX_DEPTH
    if not fits or not all(type(value) is int and least <= value <= MAX_EXTENT for value in values):
        refuse(place, f"has {what} {repr(values)[:60]}, no list of integers from {least} to 2**63 - 1")
    return tuple(values)


def root_of(path: str | Path) -> Path:
    """Return the absolute path of the folder that xarray would open, or raise an error."""
    if re.match(r"[a-z][a-z0-9]*(://|::)", os.fspath(path)):
        raise StoreError(f"path={str(path)!r} is not a local folder; copy the store to this machine")
    root = Path(os.path.abspath(os.path.expanduser(path)))
    if urlsplit(str(root)).path != str(root) or ";" in root.name:
        raise StoreError(
            f"path={str(root)!r} has a '#', '?' or ';' in it or starts with '//', and zarr would open "
            "another folder; rename it"
        )
    if not root.exists():
        raise FileNotFoundError(f"path={str(root)!r} does not exist")
    if not root.is_dir():
        raise NotADirectoryError(f"path={str(root)!r} is not a folder, as a store is; unpack it first")
    names = set(os.listdir(root))
    if NODE not in names:
        here = f"holds no {NODE}, but {min(names)!r}" if names else "is empty"
        here = "is of zarr format 2" if names & {".zgroup", ".zarray", ".zmetadata"} else here
        raise StoreError(f"path={str(root)!r} {here}; name a folder that dtda.save or sample wrote")
    return root


def read_bounded(root: Path, place: str, most: int) -> Document:
    """Read a JSON object of at most `most` bytes."""
    path = root / place
    if not stat.S_ISREG(os.lstat(path).st_mode):
        refuse(place, "is no regular file", "put a copy of the file in its place")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        refuse(place, f"has more than {most} bytes, too many for metadata")
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        refuse(place, f"holds more than {MAX_CONTAINERS} lists and objects")
    return parsed(place, data)


def parsed(place: str, data: bytes) -> Document:
    """Parse a JSON object; refuse deep nesting and duplicate keys."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique)
    except RecursionError:
        refuse(place, f"is nested more than {MAX_DEPTH} deep")
    except ValueError as error:
        raise StoreError(f"{place!r} is damaged, no JSON: {error}; {AGAIN}") from None
    if not isinstance(value, dict):
        refuse(place, f"holds a {type(value).__name__}, not a JSON object")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for values in inner for each in values if isinstance(each, dict | list)]
    if level:
        refuse(place, f"is nested more than {MAX_DEPTH} deep")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"the key {max(names, key=names.count)!r} is given twice")
    return dict(pairs)


def read_node(folder: Path) -> Document:
    """Read the document of a group or an array."""
    return json.loads((folder / NODE).read_bytes())


def write_node(folder: Path, metadata: Document) -> None:
    """Replace the document of a group or an array; readers see either the old or the new one."""
    partial = folder / f".{NODE}.{uuid.uuid4().hex}.partial"
    try:
        partial.write_text(json.dumps(metadata))
        os.replace(partial, folder / NODE)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def description(store: Path, name: str = "") -> dict[str, Any]:
    """Read our own description of a store, or of a result in it."""
    return about(read_node(store / name))


def nodes_under(folder: Path, path: str = ".") -> Iterator[tuple[str, Document]]:
    """Yield the relative path and the document of each group and array in a folder."""
    node = read_node(folder / path)
    yield path, node
    # The folders of an array hold its chunks, however many there are.
    if node["node_type"] == "group":
        inner = (file.parent for file in (folder / path).glob(f"*/{NODE}"))
        for child in sorted(inner):
            yield from nodes_under(folder, child.relative_to(folder).as_posix())


def published(root: Document) -> dict[str, Document]:
    """Return the documents of all groups and arrays that the root lists, which xarray goes by."""
    return root["consolidated_metadata"]["metadata"]


def root_node(attributes: dict[str, str]) -> Document:
    """Return the root document of a store without groups."""
    listed = {"kind": "inline", "must_understand": False, "metadata": {}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return group | {"consolidated_metadata": listed}


def about(metadata: Document) -> dict[str, Any]:
    """Return our own description from the document of a store or a group."""
    return json.loads(metadata["attributes"].get(ATTRIBUTE, "{}"))
