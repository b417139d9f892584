"""Read a store by plain xarray, all of it, and compare it with another, bit for bit.

Run as a script, in a process that has nothing to do with the library that wrote the store.
"""

import json
import sys
from typing import Any

import numpy as np
import xarray as xr


def compare(store: str, reference: str) -> dict[str, Any]:
    """Say what a store holds, whether that is part of the reference, and whether it is all of it."""
    with xr.open_datatree(store) as found, xr.open_datatree(reference) as whole:
        pairs = [
            (variable, _variables(whole, node.path).get(name))
            for node in found.subtree
            for name, variable in _variables(found, node.path).items()
        ]
        paths = {node.path for node in whole.subtree} - {node.path for node in found.subtree}
        part = all(_begins(ours, theirs) for ours, theirs in pairs)
        same_sizes = all(theirs is not None and a.sizes == theirs.sizes for a, theirs in pairs)
        held = {name: _sizes(found[name]) for name in found.children}
    assert "dtda_prob" not in sys.modules
    return {"holds": held, "part": part, "whole": part and same_sizes and not paths}


def _variables(tree: xr.DataTree, path: str) -> dict[Any, xr.Variable]:
    node = tree if path == "/" else tree[path] if path in {n.path for n in tree.subtree} else None
    return {} if node is None else dict(_timeless(node.to_dataset(inherit=False)).variables)


def _timeless(group: xr.Dataset) -> xr.Dataset:
    """Leave out how long each shard took."""
    return group.isel(fact=group["fact"] != "milliseconds") if "fact" in group.dims else group


def _begins(ours: xr.Variable, theirs: xr.Variable | None) -> bool:
    """Say whether a variable is the beginning of another, along all dimensions."""
    if theirs is None or ours.dims != theirs.dims or ours.attrs != theirs.attrs:
        return False
    there = theirs[tuple(slice(size) for size in ours.shape)]
    a, b = ours.values, there.values
    exact = a.dtype.kind not in "OTU"
    return a.dtype == b.dtype and (a.tobytes() == b.tobytes() if exact else np.array_equal(a, b))


def _sizes(tree: xr.DataTree) -> dict[str, int]:
    wanted = ("draw", "perturbation", "run", "query")
    return {
        str(dim): size for node in tree.subtree for dim, size in node.sizes.items() if dim in wanted
    }


if __name__ == "__main__":
    print(json.dumps(compare(*sys.argv[1:])))
