"""Any tree, written at once, in the same layout as a study."""

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from zarr.codecs import Crc32cCodec

from dtda_prob.storage.arrays import chunk_shape
from dtda_prob.storage.nodes import nodes_under, published, read_node, root_node, write_node


def save(tree: xr.DataTree | dict[str, xr.DataTree], path: str | Path) -> Path:
    """Write a tree, or a dict of trees as one tree of trees, to a zarr store.

    The folder appears when all is written.

    Args:
        tree: what to write.
        path: a folder that does not exist yet.

    Raises:
        FileExistsError: if `path` exists.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"path={str(path)!r} exists; choose another or remove it")
    whole = tree if isinstance(tree, xr.DataTree) else xr.DataTree.from_dict(_flat(tree))
    new = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        _write(whole, new)
        os.rename(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return path


def _write(tree: xr.DataTree, folder: Path) -> None:
    plain = tree.map_over_datasets(_with_text)
    encoding = {node.path: _encoding(node) for node in plain.subtree}
    plain.to_zarr(folder, mode="w-", consolidated=False, encoding=encoding)
    nodes = {key: node for key, node in nodes_under(folder) if key != "."}
    root = root_node(read_node(folder)["attributes"])
    published(root).update(nodes)
    write_node(folder, root)


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
