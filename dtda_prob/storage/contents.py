"""What a study holds, on a page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dtda_prob.storage.growing import Growing, description, growing
from dtda_prob.storage.inspection import inspect
from dtda_prob.storage.nodes import Metadata, dims_in, published, read_node
from dtda_prob.storage.store import names_in

COUNTED = {
    "draws": ("draw", "run"),
    "perturbations": ("perturbation",),
    "queries": ("query",),
    "data": ("datum",),
}
"""The dimensions that each column counts."""


def contents(path: str | Path) -> pd.DataFrame:
    """Say what a study holds, from its descriptions alone; no array is read.

    Args:
        path: folder of the study, or of a store that `save` wrote.

    Returns:
        A row for each name: its `kind` ("sample set", "scores", "effects", or what `save` was told),
        what was drawn by which `transform`, the `measure`, how many `draws`, `perturbations`, `queries`
        and `data` it has by now, the share of its shards that are `finished` (1 of what was saved
        whole), the number of draws that are `diverging`, and its `bytes` on disk.

    Raises:
        StoreError: if it is no store, or is not safe to open.
    """
    path = Path(path)
    inspect(path, whole=False)
    rows = {name: _row(path, name) for name in names_in(path)}
    columns = ["kind", "transform", "measure", *COUNTED, "finished", "diverging", "bytes"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("name")


def _row(path: Path, name: str) -> list[Any]:
    about, sizes = description(path, name), _sizes(published(read_node(path)), name)
    counts = [max((sizes.get(dim, 0) for dim in dims), default=0) for dims in COUNTED.values()]
    counts[0] = counts[0] * sizes.get("chain", 1) or about.get("num_draws") or 0
    facts = _facts(growing(path, name)) if "blocks" in about else (1.0, 0)
    measure = (about.get("measure") or {}).get("name", "")
    kind = about.get("kind", "tree")
    return [kind, about.get("transform", ""), measure, *counts, *facts, _bytes(path / name)]


def _sizes(listed: dict[str, Metadata], name: str) -> dict[str, int]:
    """Give the extent of each dimension of a group, as readers see it."""
    arrays = (node for key, node in listed.items() if key.startswith(f"{name}/"))
    found = (zip(dims_in(a), a["shape"], strict=True) for a in arrays if a["node_type"] == "array")
    return {dim: size for pairs in found for dim, size in pairs}


def _facts(group: Growing) -> tuple[float, int]:
    """Give the share of shards that are finished, and the number of diverging draws."""
    finished = group.finished()[..., 0] != 0
    share = finished.sum() / max(1, np.prod(group.num_blocks()))
    return float(share), int(group.facts("num_diverging").sum())


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
