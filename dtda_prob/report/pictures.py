"""Thumbnails, rows and targets of data and queries, by their labels."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from dtda_prob.report.words import brief


class Looks(NamedTuple):
    """What there is to look at of data, or of queries; see `examples`.

    Attributes:
        places: the position of each label.
        thumbnails: pixels `(label, row, column, channel)`.
        rows: features `(label, column)`, as numbers or as text.
        columns: names of the features.
        targets: what is observed, `(label,)` as text or `(label, site)` as numbers.
        sites: where it is observed.
    """

    places: dict[str, int]
    thumbnails: np.ndarray | None = None
    rows: np.ndarray | None = None
    columns: Sequence[str] = ()
    targets: np.ndarray | None = None
    sites: Sequence[str] = ()

    def picture(self, label: str) -> str | None:
        """Give the thumbnail as an address that holds it."""
        if self.thumbnails is None or label not in self.places:
            return None
        return _address(self.thumbnails[self.places[label]])

    def row(self, label: str) -> Sequence[float | str]:
        """Give the features; NaN where there are none."""
        if self.rows is None or label not in self.places:
            return [np.nan] * len(self.columns)
        return self.rows[self.places[label]].tolist()

    def is_number(self, column: int) -> bool:
        """Say whether a feature is a number for all, even if it is kept as text."""
        if self.rows is None or self.rows.dtype.kind == "f":
            return True
        return (
            pd.to_numeric(pd.Series(self.rows[:, column].astype(object)), errors="coerce").notna().all()
        )

    def target(self, label: str) -> str:
        """Give what is observed, in words."""
        if self.targets is None or label not in self.places:
            return ""
        target = self.targets[self.places[label]]
        if np.ndim(target) == 0:
            return str(target)
        told = [brief(value, 5) for value in target.tolist()]
        named = zip(self.sites, told, strict=True)
        return told[0] if len(told) == 1 else ", ".join(f"{site} {text}" for site, text in named)


def looks(tree: xr.DataTree | None, group: str, dim: str) -> Looks:
    """Prepare to look at `data` by `datum`, or `queries` by `query`."""
    if tree is None or group not in tree.children or dim not in tree.children[group].coords:
        return Looks({})
    dataset = tree.children[group].to_dataset().load()
    arrays = {name: dataset[name].values for name in ("thumbnail", "row", "target") if name in dataset}
    return Looks(
        {label: i for i, label in enumerate(_texts(dataset, dim))},
        arrays.get("thumbnail"),
        arrays.get("row"),
        _texts(dataset, "column"),
        arrays.get("target"),
        _texts(dataset, "site"),
    )


def _texts(dataset: xr.Dataset, name: str) -> list[str]:
    return [str(label) for label in dataset[name].values.tolist()] if name in dataset.coords else []


def _address(pixels: np.ndarray) -> str:
    """Write pixels `(row, column, channel)` as PNG, inside an address."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
