"""Sample sets on disk, as zarr that plain xarray opens."""

from pathlib import Path

import xarray as xr


def save(tree: xr.DataTree | dict[str, xr.DataTree], path: str | Path) -> Path:
    """Write a tree, or a dict of trees as one tree of trees, to a zarr store.

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
    whole.to_zarr(path, mode="w-", consolidated=False)
    return path


def load(path: str | Path) -> xr.DataTree:
    """Read a store written by `save`, lazily; `xarray.open_datatree` does the same."""
    return xr.open_datatree(path, engine="zarr", consolidated=False)


def _flat(trees: dict[str, xr.DataTree]) -> dict[str, xr.Dataset]:
    return {
        f"/{name}{node.path}": node.to_dataset()
        for name, tree in trees.items()
        for node in tree.subtree
    }
