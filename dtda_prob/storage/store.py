"""One folder for a study: made at once, written by one process at a time."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr
import zarr
from filelock import FileLock, Timeout

from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.growing import Growing, growing
from dtda_prob.storage.nodes import (
    ATTRIBUTE,
    NODE,
    Metadata,
    about,
    nodes_under,
    published,
    read_node,
    root_node,
    write_node,
)

LOCK = ".lock"
UNFINISHED = ".new-"
PARTIAL = ".partial"
WHY = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; name a store elsewhere",
    errno.EACCES: "permission is denied; name a store elsewhere, or change its permissions",
    errno.EPERM: "permission is denied; name a store elsewhere, or change its permissions",
}


@contextmanager
def writing(path: Path, attributes: dict[str, str]) -> Generator[None]:
    """Hold a store for writing; make it if it does not exist.

    Args:
        path: folder of the store.
        attributes: of a new store.

    Raises:
        StoreError: if the folder is no store, or another process writes to it.
        OSError: if it cannot be written to.
    """
    if not path.exists():
        _create(path, attributes)
    if not (path / NODE).is_file():
        raise StoreError(f"store={str(path)!r} exists and is not a store; name another folder")
    try:
        with FileLock(path / LOCK, timeout=0):
            _clear(path)
            _list_added(path)
            yield
    except Timeout:
        raise StoreError(
            f"store={str(path)!r} is being written by another process; wait for it, or name another"
        ) from None
    except OSError as error:
        if error.errno not in WHY:
            raise
        raise _explained(error, path) from error


def add(
    store: Path,
    name: str,
    template: xr.DataTree,
    blocks: dict[str, int],
    about: str,
    chunks: dict[str, int] | None = None,
) -> Growing:
    """Add a group that grows, all at once, and show it empty; see `Growing.lay_out`."""
    new = store / f"{UNFINISHED}{uuid.uuid4().hex}"
    zarr.create_group(new / name, zarr_format=3)
    Growing(new, name, blocks).lay_out(template, {ATTRIBUTE: about}, chunks or blocks)
    os.rename(new / name, store / name)
    new.rmdir()
    group = Growing(store, name, blocks)
    group.publish(dict.fromkeys(blocks, 0))
    return group


def check_name(name: str) -> None:
    """Refuse a name that is no folder's, or that a file of the store has.

    Raises:
        ValueError: for anything but letters, digits, "_", "-" and ".", or a name that starts with ".",
            ends with ".partial", or is that of metadata.
    """
    if not re.fullmatch(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*", name):
        raise ValueError(
            f"name={name!r} must be made of letters, digits, '_', '-' and '.', which is not the first"
        )
    if name == NODE or name.endswith(PARTIAL):
        raise ValueError(f"name={name!r} is taken by files of a store; choose another")


def names_in(store: Path) -> list[str]:
    """Give the names of the groups of a store."""
    return sorted(path for path in published(read_node(store)) if "/" not in path)


def list_as(path: Path, name: str, nodes: dict[str, Metadata]) -> None:
    """Let readers see these groups and arrays, and no others, under a name."""
    root = read_node(path)
    others = {key: node for key, node in published(root).items() if key.partition("/")[0] != name}
    mine = {f"{name}/{key}".removesuffix("/."): node for key, node in nodes.items()}
    published(root).clear()
    published(root).update(others | mine)
    write_node(path, root)


def _create(path: Path, attributes: dict[str, str]) -> None:
    new = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        new.mkdir(parents=True)
        write_node(new, root_node(attributes))
        os.rename(new, path)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        if not path.exists():
            raise _explained(error, path) from error


def _clear(path: Path) -> None:
    """Take away what writers that died have left half written."""
    for left in path.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left)
    for left in path.rglob(f"*{PARTIAL}"):
        left.unlink(missing_ok=True)


def _list_added(path: Path) -> None:
    """Show groups that a writer added and died before it listed them: empty, where they grow."""
    listed = names_in(path)
    for node in path.glob(f"*/{NODE}"):
        name, told = node.parent.name, about(read_node(node.parent))
        if name in listed:
            continue
        if "blocks" in told:
            group = growing(path, name)
            group.publish(dict.fromkeys(group.blocks, 0))
        elif "kind" in told:
            list_as(path, name, dict(nodes_under(node.parent)))


def _explained(error: OSError, path: Path) -> OSError:
    why = WHY.get(error.errno or 0, error.strerror or str(error))
    message = f"store={str(path)!r} cannot be written: {why}. What is finished is safe: call again"
    return OSError(error.errno, message)
