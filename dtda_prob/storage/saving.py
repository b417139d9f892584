"""Any tree, written at once: as a store of its own, or beside what was drawn of a study."""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from zarr.codecs import Crc32cCodec

from dtda_prob.storage.arrays import chunk_shape
from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.growing import description
from dtda_prob.storage.inspection import inspect
from dtda_prob.storage.nodes import (
    ATTRIBUTE,
    nodes_under,
    published,
    read_node,
    root_node,
    write_node,
)
from dtda_prob.storage.store import UNFINISHED, check_name, list_as, names_in, writing


def save(
    tree: xr.DataTree | xr.Dataset | dict[str, xr.DataTree],
    path: str | Path,
    name: str | None = None,
    kind: str = "result",
) -> Path:
    """Write a tree, or a dict of trees as one tree of trees, to a zarr store.

    Without a `name` it becomes a store of its own, which appears when all is written. With one it is
    kept in a study beside what was drawn, in the place of what was saved under this name before.

    Args:
        tree: what to write.
        path: a folder that does not exist yet; or that of a study.
        name: of what is written, in the study.
        kind: what it is, for those who read the study: "agreement", "verdict", ...

    Raises:
        FileExistsError: without a name, if `path` exists.
        ValueError: for a bad name.
        StoreError: with a name, if `path` is no store, or is being written by another process, or if
            draws or scores have this name.
        OSError: if it cannot be written.
    """
    path, whole = Path(path), _as_tree(tree)
    if name is None:
        _save_alone(whole, path)
    else:
        _save_beside(whole, path, name, kind)
    return path


def _as_tree(tree: xr.DataTree | xr.Dataset | dict[str, xr.DataTree]) -> xr.DataTree:
    if isinstance(tree, xr.DataTree):
        return tree
    return xr.DataTree(tree) if isinstance(tree, xr.Dataset) else xr.DataTree.from_dict(_flat(tree))


def _save_alone(tree: xr.DataTree, path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"path={str(path)!r} exists; choose another or remove it")
    new = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        _write(tree, new)
        root = root_node(read_node(new)["attributes"])
        published(root).update({key: node for key, node in nodes_under(new) if key != "."})
        write_node(new, root)
        os.rename(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _save_beside(tree: xr.DataTree, path: Path, name: str, kind: str) -> None:
    """Write it apart, then let it be seen; a writer that dies in between leaves what it began."""
    check_name(name)
    if not path.exists():
        raise StoreError(f"path={str(path)!r} is not there: sample into a study first (store=...)")
    inspect(path)
    about = json.loads(tree.attrs.get(ATTRIBUTE, "{}")) | {"kind": kind}
    named = tree.copy(deep=False)
    named.attrs[ATTRIBUTE] = json.dumps({field: about[field] for field in about if field != "blocks"})
    with writing(path, {}):
        _check_saved(path, name)
        new = path / f"{UNFINISHED}{uuid.uuid4().hex}"
        _write(named, new / "new")
        list_as(path, name, {})
        if (path / name).exists():
            os.rename(path / name, new / "old")
        os.rename(new / "new", path / name)
        list_as(path, name, dict(nodes_under(path / name)))
        shutil.rmtree(new)


def _check_saved(path: Path, name: str) -> None:
    if name in names_in(path) and "blocks" in (about := description(path, name)):
        raise StoreError(
            f"name={name!r} in {str(path)!r} is that of a {about['kind']} that grows; choose another"
        )


def _write(tree: xr.DataTree, folder: Path) -> None:
    plain = tree.map_over_datasets(_with_text)
    encoding = {node.path: _encoding(node) for node in plain.subtree}
    plain.to_zarr(folder, mode="w-", consolidated=False, encoding=encoding)


def _encoding(node: xr.DataTree) -> dict[str, Any]:
    variables = node.to_dataset(inherit=False).variables
    return {
        str(name): {"compressors": [Crc32cCodec()], "filters": [], "chunks": chunk_shape(variable)}
        for name, variable in variables.items()
    }


def _with_text(dataset: xr.Dataset) -> xr.Dataset:
    """Hold text as text of any length, for which zarr has a type."""
    text = {
        name: variable.astype(np.dtypes.StringDType())
        for name, variable in dataset.variables.items()
        if variable.dtype.kind in "UO"
    }
    coords = {name: variable for name, variable in text.items() if name in dataset.coords}
    return dataset.assign({k: v for k, v in text.items() if k not in coords}).assign_coords(coords)


def _flat(trees: dict[str, xr.DataTree]) -> dict[str, xr.Dataset]:
    return {
        f"/{name}{node.path}": node.to_dataset()
        for name, tree in trees.items()
        for node in tree.subtree
    }
