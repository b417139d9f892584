"""Saving whole trees: as a new store, or in a study beside its results."""

import json
import os
import shutil
import uuid
from pathlib import Path

import xarray as xr

from dtda_prob.storage.documents import (
    ATTRIBUTE,
    description,
    nodes_under,
    read_node,
    root_node,
    write_node,
)
from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.results import write_tree
from dtda_prob.storage.safe import inspect
from dtda_prob.storage.store import PARTIAL, check_name, names_in, put, scratch, writing

Saved = xr.DataTree | xr.Dataset | dict[str, xr.DataTree]


def save(tree: Saved, path: str | Path, name: str | None = None, kind: str = "result") -> Path:
    """Write a tree, or a dict of trees as one tree of trees, to a zarr store.

    Without a `name` it becomes a new store, which appears once it is complete. With a name it is kept
    in a study beside its results, and replaces what was saved under this name before.

    Args:
        tree: the tree to write.
        path: a folder that does not exist yet, or, with a name, the folder of a study too.
        name: the name of the result in the study.
        kind: the kind of result, shown to readers of the study: "scores", "agreement", "verdict", ...

    Raises:
        FileExistsError: without a name, if `path` exists.
        ValueError: for a bad name, or values that a store cannot hold.
        StoreError: with a name, if `path` is not a store, is being written by another process, or has
            draws or scores of this name.
        OSError: if it cannot be written.
    """
    path, whole = Path(path).expanduser(), _as_tree(tree)
    if name is None:
        _save_alone(whole, path)
    else:
        _save_beside(whole, path, name, kind)
    return path


def _as_tree(tree: Saved) -> xr.DataTree:
    if isinstance(tree, dict):
        return xr.DataTree(children=tree)
    return xr.DataTree(tree) if isinstance(tree, xr.Dataset) else tree


def _save_alone(tree: xr.DataTree, path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"path={str(path)!r} exists; choose another or remove it")
    new = path.parent / f".{path.name}.{uuid.uuid4().hex}{PARTIAL}"
    try:
        write_tree(new, tree, {})
        root = root_node(read_node(new).get("attributes", {}))
        listed = {key: node for key, node in nodes_under(new) if key != "."}
        root["consolidated_metadata"]["metadata"] = listed
        write_node(new, root)
        os.rename(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _save_beside(tree: xr.DataTree, path: Path, name: str, kind: str) -> None:
    check_name(name)
    if path.exists():
        inspect(path, complete=False)
    about = json.loads(tree.attrs.get(ATTRIBUTE, "{}")) | {"kind": kind}
    about.pop("grid", None)
    with writing(path, {}):
        if name in names_in(path) and "grid" in (here := description(path, name)):
            raise StoreError(
                f"name={name!r} in {str(path)!r} is the name of a {here.get('kind')}, which later "
                "calls extend; choose another"
            )
        with scratch(path) as folder:
            write_tree(folder / name, tree, {ATTRIBUTE: json.dumps(about)})
            put(folder / name, path, name)
