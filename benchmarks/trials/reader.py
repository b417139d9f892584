"""Read a store by plain xarray, all of it, and compare what is done with another, bit for bit.

Run as a script, in a process that has nothing to do with the library that wrote the store.
"""

import json
import sys
from typing import Any

import numpy as np
import xarray as xr


def compare(store: str, reference: str) -> dict[str, Any]:
    """Return what a store holds, whether that is part of the reference, and whether it is all of it."""
    with xr.open_datatree(store) as tree, xr.open_datatree(reference) as whole:
        held, part, same = {}, True, {*tree.children} == {*whole.children}
        for name, result in tree.children.items():
            dim, done = _done(result)
            variables, theirs = _variables(result, dim, done), _variables(whole[name], dim, done)
            held[name] = {dim: int(done.sum())}
            part &= variables.keys() <= theirs.keys()
            part &= all(_equal(each, theirs.get(path)) for path, each in variables.items())
            same &= bool(done.all()) and variables.keys() == theirs.keys()
            same &= result.sizes == whole[name].sizes
    assert "dtda_prob" not in sys.modules
    return {"holds": held, "part": part, "whole": part and same}


def _done(result: xr.DataTree) -> tuple[str, np.ndarray]:
    """Return the first dimension of the grid, and which of its positions are done along all others."""
    block = json.loads(result.attrs["dtda_prob"])["grid"]
    dim, step = next(iter(block.items()))
    counts = result["blocks/done"].values
    size = max(node.sizes.get(dim, 0) for node in result.subtree)
    place = np.arange(size)
    return dim, place % step < counts.reshape(len(counts), -1).min(1)[place // step]


def _variables(result: xr.DataTree, dim: str, done: np.ndarray) -> dict[str, xr.Variable]:
    """Return all variables but how long blocks took, where they are done."""
    return {
        f"{node.path.removeprefix(result.path)}/{name}": variable.isel(
            {dim: np.flatnonzero(done)} if dim in variable.dims else {}
        )
        for node in result.subtree
        if not node.path.endswith("/blocks")
        for name, variable in node.to_dataset(inherit=False).variables.items()
        if done.any() or name in variable.dims
    }


def _equal(ours: xr.Variable, theirs: xr.Variable | None) -> bool:
    if theirs is None or ours.dims != theirs.dims or ours.attrs != theirs.attrs:
        return False
    a, b = ours.values, theirs.values
    exact = a.dtype.kind not in "OTU"
    return a.dtype == b.dtype and (a.tobytes() == b.tobytes() if exact else np.array_equal(a, b))


if __name__ == "__main__":
    print(json.dumps(compare(*sys.argv[1:])))
