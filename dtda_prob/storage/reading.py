"""Reading stores: trees that are opened lazily, and a table of contents."""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dtda_prob.storage.complete import (
    check_complete,
    description,
    done_counts,
    finished,
    is_whole,
    names_of,
    seconds_of,
)
from dtda_prob.storage.documents import AGAIN, refuse, root_of
from dtda_prob.storage.errors import StoreError, printable
from dtda_prob.storage.safe import GIVE_UP, Array, Nodes, inspect, is_label

COUNTED = {
    "draws": ("draw", "run"),
    "perturbations": ("perturbation",),
    "queries": ("query",),
    "data": ("example",),
}
"""The dimensions that each column counts."""
LONGEST = 200
"""Number of characters of an untrusted text that a table shows."""


def load(path: str | Path, name: str | None = None) -> xr.DataTree:
    """Open a store lazily: what `save` wrote, or a study, finished or not.

    A store from an untrusted source can neither run code, nor reach outside its folder, nor exhaust
    memory; `xarray.open_datatree` opens it without these checks. While a study is being written, the
    tree has the draws that are finished, each with its own number.

    Args:
        path: folder of the store.
        name: a result in the store; all results if None.

    Raises:
        StoreError: if it is not a store, is not safe to open, has no such result, or lacks files.

    Warns:
        RuntimeWarning: if draws are unfinished or diverging.
    """
    root = root_of(path)
    nodes = inspect(root)
    names = names_of(nodes)
    if name is not None and name not in names:
        raise StoreError(f"name={name!r} is not a result in path={str(path)!r}, which has {names}")
    for each in names if name is None else [name]:
        check_complete(root, each, nodes)
    tree = _opened(root, name, nodes)
    if name is not None:
        return _shown(root, name, nodes, tree)
    shown = {each: _shown(root, each, nodes, child) for each, child in tree.children.items()}
    return xr.DataTree(tree.to_dataset(inherit=False), children=shown)


def contents(path: str | Path) -> pd.DataFrame:
    """List the results of a study; of its arrays only flags are read.

    Args:
        path: folder of the study, or of a store that `save` wrote.

    Returns:
        A row for each name: its `kind` ("sample set", "scores", "effects", or what `save` was given),
        the `transform` and `measure` of its draws, the number of finished `draws`, the numbers of
        `perturbations`, `queries` and `data`, the share of its blocks that is `finished` (1 for saved
        results), the number of `diverging` draws, the `seconds` that its blocks took (NaN for saved
        results), and its `bytes` on disk.

    Raises:
        StoreError: if it is not a store, or is not safe to open.
    """
    root = root_of(path)
    nodes = inspect(root, complete=False)
    rows = {name: _row(root, name, nodes) for name in names_of(nodes)}
    columns = ["kind", "transform", "measure", *COUNTED, "finished", "diverging", "seconds", "bytes"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("name")


@contextmanager
def readable(path: Path) -> Generator[None]:
    """Turn errors of reading a damaged or foreign store into one that says what to do."""
    try:
        yield
    except StoreError:
        raise
    except (AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(
            f"{str(path)!r} is damaged, or not as dtda_prob writes it ({type(error).__name__}: "
            f"{str(error)[:200]}); `dtda info --verify {path}` reads it all again"
        ) from error


def _opened(root: Path, name: str | None, nodes: Nodes) -> xr.DataTree:
    """Open a tree with xarray, which reads its labels; raise an error that names damaged labels."""
    try:
        return xr.open_datatree(root, engine="zarr", group=name or "/", chunks=None)
    except Exception as error:
        for path, array in nodes.items():
            if isinstance(array, Array) and is_label(path, array):
                for file in array.files:
                    if not is_whole((root / path / file).read_bytes()):
                        refuse(f"{path}/{file}", "does not have its checksum", GIVE_UP)
        message = f"path={str(root)!r} cannot be opened: {printable(error)}; {AGAIN}"
        raise StoreError(message) from error


def _shown(root: Path, name: str, nodes: Nodes, tree: xr.DataTree) -> xr.DataTree:
    """Leave out unfinished draws, and warn about these and about diverging ones."""
    block = description(nodes, name).get("grid")
    if block and "blocks" in tree.children:
        dim = next(iter(block))
        size = max(node.sizes.get(dim, 0) for node in tree.subtree)
        done = finished(name, done_counts(root, name, nodes), block, size)
        tree = tree.drop_nodes("blocks")
        if not done.all():
            _warn(
                f"/{name}: {done.sum()} of {done.size} along {dim!r} are finished; others are left out"
            )
            tree = tree.isel({dim: np.flatnonzero(done)}, missing_dims="ignore")
    if bad := num_diverging(root, name, nodes):
        _warn(f"/{name}: {bad} draws diverge, did not converge or are not finite: see diverging")
    return tree


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)


def num_diverging(root: Path, name: str, nodes: Nodes) -> int:
    """Count flagged draws file by file, whatever shape the arrays of flags declare."""
    return sum(
        int(np.count_nonzero(np.frombuffer((root / path / file).read_bytes()[:-4], np.uint8)))
        for path, array in nodes.items()
        if path.startswith(f"{name}/") and path.endswith("/diverging")
        if isinstance(array, Array) and array.kind == "bool"
        for file in array.files
    )


def _row(root: Path, name: str, nodes: Nodes) -> list[Any]:
    about, sizes = description(nodes, name), _sizes(name, nodes)
    block, share, seconds = about.get("grid"), 1.0, np.nan
    if block and f"{name}/blocks/done" in nodes:
        counts, dim = done_counts(root, name, nodes), next(iter(block))
        done = finished(name, counts, block, sizes.get(dim, 0))
        share = float((counts > 0).mean()) if counts.size else 1.0
        share = min(share, done.mean()) if done.size and not done.all() and share == 1 else share
        sizes[dim] = int(done.sum())
        seconds = float(np.nansum(seconds_of(root, name, nodes)))
    numbers = [max((sizes.get(dim, 0) for dim in dims), default=0) for dims in COUNTED.values()]
    numbers[0] = numbers[0] * sizes.get("chain", 1) or about.get("num_draws") or 0
    measure = (about.get("measure") or {}).get("name", "")
    texts = [about.get("kind", "tree"), about.get("transform", ""), measure]
    size = sum(file.stat().st_size for file in (root / name).rglob("*") if file.is_file())
    shown = [printable(str(text)[:LONGEST]) for text in texts]
    return [*shown, *numbers, share, num_diverging(root, name, nodes), seconds, size]


def _sizes(name: str, nodes: Nodes) -> dict[str, int]:
    """Return the extent of each dimension of a result."""
    arrays = [n for p, n in nodes.items() if p.startswith(f"{name}/") and isinstance(n, Array)]
    return {d: size for array in arrays for d, size in zip(array.dims, array.shape, strict=True)}
