"""The folder of a store: where it is, and what lies in it, without following links."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from dtda_prob.storage.errors import StoreError

FORMAT_2 = frozenset({".zarray", ".zgroup", ".zattrs", ".zmetadata"})
REMOTE = re.compile(r"[a-z][a-z0-9]*(://|::)")
FILES = {
    b"PK": "a zip file; unpack it first",
    b"\x89H": "an HDF5 or netCDF 4 file; open it with xarray.open_datatree, and dtda.save it",
    b"CD": "a netCDF 3 file; open it with xarray.open_datatree, and dtda.save it",
}


class Folder(NamedTuple):
    """One folder inside a store: its path there ("" for the root), and the bytes of its files."""

    path: str
    files: dict[str, int]


def root_of(path: str | Path) -> Path:
    """Give the absolute path of the folder that xarray would open, or say why there is none."""
    if REMOTE.match(os.fspath(path)):
        raise StoreError(f"path={str(path)!r} is not a local folder; copy the store to this machine")
    root = Path(os.path.abspath(os.path.expanduser(path)))
    _refuse_url_characters(root)
    if not root.exists():
        raise FileNotFoundError(f"path={str(root)!r} does not exist")
    if not root.is_dir():
        raise NotADirectoryError(f"path={str(root)!r} is {_kind(root)}, not the folder of a store")
    _refuse_other_formats(root)
    return root


def folders(root: Path) -> Iterator[Folder]:
    """Walk a store, parents first. Links, devices, pipes and zarr format 2 are refused."""
    waiting = [""]
    while waiting:
        path = waiting.pop()
        files, inner = _entries(root, path)
        yield Folder(path, files)
        waiting += inner


def joined(path: str, name: str) -> str:
    """Append a name to a path inside a store."""
    return f"{path}/{name}" if path else name


def _refuse_url_characters(root: Path) -> None:
    """Zarr reads a path as a URL: it opens `study` where `study#1` is asked for."""
    if urlsplit(str(root)).path != str(root) or ";" in root.name:
        raise StoreError(
            f"path={str(root)!r} has a '#', '?' or ';' in it or starts with '//', and zarr would "
            "open another folder; rename it"
        )


def _kind(path: Path) -> str:
    if not path.is_file():
        return "a device or a pipe"
    with path.open("rb") as file:
        return FILES.get(file.read(2), "a file")


def _refuse_other_formats(root: Path) -> None:
    names = {entry.name for entry in os.scandir(root)}
    if "zarr.json" in names:
        return
    if names & FORMAT_2:
        raise StoreError(f"path={str(root)!r} is of zarr format 2; {RE_SAVE}")
    found = f"holds no zarr.json, but {min(names)!r}" if names else "is empty"
    raise StoreError(f"path={str(root)!r} {found}; give the folder that dtda.save or sample wrote")


RE_SAVE = "open it with plain xarray if you trust it, and re-save it with dtda.save"


def _entries(root: Path, path: str) -> tuple[dict[str, int], list[str]]:
    """List a folder; what a writer removes or renames meanwhile is not there."""
    files, inner = {}, []
    with contextlib.suppress(FileNotFoundError), os.scandir(root / path) as entries:
        for entry in entries:
            place = joined(path, entry.name)
            _refuse_entry(entry, place)
            if entry.is_dir(follow_symlinks=False):
                inner.append(place)
            elif not entry.name.endswith(".partial"):  # left by, or in use by, a writer
                with contextlib.suppress(FileNotFoundError):
                    files[entry.name] = entry.stat(follow_symlinks=False).st_size
    return files, inner


def _refuse_entry(entry: os.DirEntry, place: str) -> None:
    if entry.is_symlink():
        raise StoreError(
            f"{place!r} is a symbolic link to {os.readlink(entry)!r}, and a store may not lead "
            "out of its folder; put a copy in its place"
        )
    if entry.name in FORMAT_2:
        raise StoreError(f"{place!r} is of zarr format 2, which can hold pickled objects; {RE_SAVE}")
    if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
        raise StoreError(f"{place!r} is a device, a pipe or a socket, and no file; remove it")
