"""What a study holds, opened lazily and by kind."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from dtda_prob.storage import contents, description
from dtda_prob.storage.nodes import NODE


class Part(NamedTuple):
    """Something of a study, by name.

    Attributes:
        name: what it is called.
        kind: "sample set", "scores", "agreement", "verdict", "examples", ...
        about: what it says of itself.
        tree: what it holds, read when it is asked for.
    """

    name: str
    kind: str
    about: dict[str, Any]
    tree: xr.DataTree

    @property
    def dataset(self) -> xr.Dataset:
        """Give what it holds, where that is one dataset."""
        return self.tree.to_dataset()


class Study(NamedTuple):
    """All parts of a study.

    Attributes:
        path: its folder.
        about: what it says of itself: the program and its data.
        table: a row for each part, see `dtda.contents`.
        parts: the parts, in the order of their names.
        written: when anything of it was written last.
    """

    path: Path
    about: dict[str, Any]
    table: pd.DataFrame
    parts: list[Part]
    written: datetime

    def of_kind(self, kind: str) -> list[Part]:
        """Give the parts of a kind."""
        return [part for part in self.parts if part.kind == kind]


def open_study(path: str | Path) -> Study:
    """Open a study, after it is made sure that it is safe to open.

    Raises:
        StoreError: if it is no store, or is not safe to open.
    """
    path = Path(path)
    table = contents(path)
    tree = xr.open_datatree(path, engine="zarr")
    parts = [
        Part(str(name), str(kind), description(path, str(name)), tree.children[str(name)])
        for name, kind in table["kind"].items()
        if str(name) in tree.children
    ]
    return Study(path, description(path), table, parts, _written(path))


def _written(path: Path) -> datetime:
    nodes = [path / NODE, *path.glob(f"*/{NODE}")]
    latest = np.max([node.stat().st_mtime for node in nodes])
    return datetime.fromtimestamp(float(latest), UTC)
