"""Sample sets and scores read back."""

import warnings
from pathlib import Path

import xarray as xr

from dtda_prob.storage import StoreError, inspect, names_in


def load(path: str | Path, name: str | None = None) -> xr.DataTree:
    """Open a store, lazily: what `save` wrote, or a study, finished or not.

    A store from elsewhere can neither run code, nor reach outside its folder, nor declare more memory
    than there is; `xarray.open_datatree` opens the same without these checks. Of a study that is being
    written, the draws that are finished are there.

    Args:
        path: folder of the store.
        name: of one sample set or scores in it; all if None.

    Raises:
        StoreError: if it is no store, is not safe to open, or holds nothing of this name.

    Warns:
        RuntimeWarning: if it holds draws that diverge.
    """
    inspect(Path(path))
    if name is not None and name not in (names := names_in(Path(path))):
        raise StoreError(f"name={name!r} is none of those in path={str(path)!r}, which are {names}")
    tree = xr.open_datatree(path, engine="zarr", group=name or "/")
    for node in tree.subtree:
        flags = node.to_dataset().data_vars.get("diverging")
        if flags is not None and (count := int(flags.sum())):
            warnings.warn(
                f"{node.path}: {count} of {flags.size} draws diverge, did not converge or "
                "are not finite; they are flagged in diverging",
                RuntimeWarning,
                stacklevel=2,
            )
    return tree
