"""The folder of a study: written by one process at a time, and recovered after a writer died."""

import ctypes
import errno
import glob
import os
import re
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dtda_prob.storage.documents import (
    NODE,
    Document,
    nodes_under,
    published,
    read_node,
    root_node,
    write_node,
)
from dtda_prob.storage.errors import WHY, StoreError, explained

LOCK = ".lock"
SCRATCH = ".new-"
PARTIAL = ".partial"
OLD = "old"
"""Folder inside a scratch folder that holds the result being replaced."""


@contextmanager
def writing(path: Path, attributes: dict[str, str]) -> Generator[None]:
    """Lock a store for writing; create it if it does not exist.

    Args:
        path: folder of the store.
        attributes: of a new store.

    Raises:
        StoreError: if the folder is not a store, or another process writes to it.
        OSError: if it cannot be written to.
    """
    if path.exists() and not (path / NODE).is_file() and not is_blank(path):
        raise StoreError(f"store={str(path)!r} exists and is not a store; name another folder")
    try:
        if not (path / NODE).is_file():
            _create(path, attributes)
        with FileLock(path / LOCK, timeout=0):
            _recover(path)
            yield
    except Timeout:
        raise StoreError(
            f"store={str(path)!r} is being written by another process; wait for it, or name another"
        ) from None
    except StoreError as error:
        if path.exists():
            raise
        raise explained(OSError(errno.ENOENT, str(error)), path) from error
    except OSError as error:
        elsewhere = error.errno == errno.ENOENT and (path / NODE).exists()
        if error.errno not in WHY or elsewhere:
            raise
        raise explained(error, path) from error


def is_blank(path: Path) -> bool:
    """Return whether a path is an empty folder."""
    return path.is_dir() and not os.listdir(path)


def _create(path: Path, attributes: dict[str, str]) -> None:
    """Create a store atomically, and remove what writers left behind that died while creating it."""
    new = path.parent / f".{path.name}.{uuid.uuid4().hex}{PARTIAL}"
    try:
        new.mkdir(parents=True)
        write_node(new, root_node(attributes))
        os.rename(new, path)
    except OSError:
        if not (path / NODE).exists():  # another process may have created it
            raise
    finally:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def scratch(path: Path) -> Generator[Path]:
    """Create a folder inside a store that readers do not see, and remove it afterwards."""
    folder = path / f"{SCRATCH}{uuid.uuid4().hex}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def put(folder: Path, path: Path, name: str) -> None:
    """Move a finished folder to a name, in one step if the system supports it, and list it.

    If this is interrupted, the next writer finds either the old or the new result.
    """
    place = path / name
    list_as(path, name, {})
    if place.exists() and not exchange(folder, place):
        old = folder.parent / OLD
        old.mkdir()
        os.rename(place, old / name)
    if folder.exists() and not place.exists():
        os.rename(folder, place)
    list_as(path, name, dict(nodes_under(place)))


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step (Linux); return whether it succeeded."""
    with suppress(AttributeError, OSError):
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return rename(here, os.fsencode(one), here, os.fsencode(other), both) == 0
    return False


def check_name(name: str) -> None:
    """Check that a name can be a folder in a store.

    Raises:
        ValueError: if it has characters other than letters, digits, "_", "-" and ".", starts with ".",
            ends with ".partial", or is the name of metadata.
    """
    if not re.fullmatch(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*", name):
        raise ValueError(
            f"name={name!r} must consist of letters, digits, '_', '-' and '.', and not start with '.'"
        )
    if name == NODE or name.endswith(PARTIAL):
        raise ValueError(f"name={name!r} is reserved for files of a store; choose another")


def names_in(store: Path) -> list[str]:
    """Return the names of the results of a store."""
    return sorted(path for path in published(read_node(store)) if "/" not in path)


def list_as(path: Path, name: str, nodes: dict[str, Document]) -> None:
    """List these groups and arrays, and no others, under a name: readers see all of them at once."""
    root = read_node(path)
    listed = published(root)
    others = {key: node for key, node in listed.items() if key.partition("/")[0] != name}
    mine = {f"{name}/{key}".removesuffix("/."): node for key, node in nodes.items()}
    if others | mine != listed:
        root["consolidated_metadata"]["metadata"] = others | mine
        write_node(path, root)


def _recover(path: Path) -> None:
    """Finish or undo the work of a writer that died, and remove what it left behind."""
    for left in path.glob(f"{SCRATCH}*"):
        for old in left.glob(f"{OLD}/*"):
            if not (path / old.name).exists():
                os.rename(old, path / old.name)
        shutil.rmtree(left)
    for left in path.rglob(f"*{PARTIAL}"):
        left.unlink(missing_ok=True)
    there = {node.parent.name for node in path.glob(f"[!.]*/{NODE}")}
    listed = set(names_in(path))
    for name in there - listed:
        list_as(path, name, dict(nodes_under(path / name)))
    for name in listed - there:
        list_as(path, name, {})
