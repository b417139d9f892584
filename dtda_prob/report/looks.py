"""Thumbnails, inputs and targets of examples and queries, by their labels."""

import base64
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from markupsafe import Markup
from PIL import Image

from dtda_prob.numerals import brief, clip, isolated
from dtda_prob.report.study import texts
from dtda_prob.report.tables import LONGEST

IMAGE = Markup('<img src="{}" alt="">{}')


class Looks(NamedTuple):
    """What `examples` kept of training examples, or of queries.

    Attributes:
        places: the position of each label.
        thumbnails: pixels `(label, row, column, channel)`.
        rows: features by label, as numbers or as text.
        targets: what is observed, `(label,)` as text or `(label, site)` as numbers.
        sites: where it is observed.
        predictions: what is predicted, by label, as text or as numbers.
        about: the names of the file, the target and the model, of those that are known.
    """

    places: dict[str, int]
    thumbnails: np.ndarray | None = None
    rows: pd.DataFrame | None = None
    targets: np.ndarray | None = None
    sites: Sequence[str] = ()
    predictions: np.ndarray | None = None
    about: Mapping[str, str] = MappingProxyType({})

    @property
    def thing(self) -> str:
        """Return what an example is called: a row, if examples are rows of a file."""
        return "row" if self.about.get("file") else "example"

    def picture(self, label: str) -> str | None:
        """Return the thumbnail as a data URL."""
        if self.thumbnails is None or label not in self.places:
            return None
        return png(self.thumbnails[self.places[label]])

    def pictured(self, label: str) -> str:
        """Return the label behind its thumbnail, if it has one."""
        picture = self.picture(label)
        return label if picture is None else IMAGE.format(picture, clip(label, LONGEST))

    def target(self, label: str) -> str:
        """Return what is observed, as text."""
        if self.targets is None or label not in self.places:
            return ""
        target = self.targets[self.places[label]]
        if np.ndim(target) == 0:
            return clip(target, LONGEST)
        texts = [brief(value, 5) for value in target.tolist()]
        named = zip(self.sites, texts, strict=True)
        return texts[0] if len(texts) == 1 else ", ".join(f"{site} {text}" for site, text in named)

    def number(self, label: str) -> float:
        """Return what is observed, if it is one number."""
        if self.targets is None or self.targets.ndim != 2 or self.targets.shape[1] != 1:
            return np.nan
        return float(self.targets[self.places[label], 0]) if label in self.places else np.nan

    def predicted_number(self, label: str) -> float:
        """Return what is predicted, if it is a number."""
        is_number = self.predictions is not None and self.predictions.dtype.kind == "f"
        return (
            float(self.predictions[self.places[label]])
            if is_number and label in self.places
            else np.nan
        )

    def predicted(self, label: str) -> str:
        """Return what is predicted, as text."""
        if self.predictions is None or label not in self.places:
            return ""
        value = self.predictions[self.places[label]]
        return clip(value, LONGEST) if self.predictions.dtype.kind in "UO" else brief(float(value), 4)

    def features(self, labels: Sequence[str]) -> pd.DataFrame:
        """Return the features of some examples; columns that hold nothing but numbers are numeric."""
        if self.rows is None:
            return pd.DataFrame(index=range(len(labels)))
        rows = self.rows.reindex(labels).reset_index(drop=True)
        return rows.apply(lambda column: column if _has_text(column) else pd.to_numeric(column))


def _has_text(column: pd.Series) -> bool:
    return bool(pd.to_numeric(column, errors="coerce").isna().any())


def looks(tree: xr.DataTree | None, group: str, dim: str) -> Looks:
    """Read the looks of `data` or `queries`, by their dimension."""
    if tree is None or group not in tree.children or dim not in tree.children[group].coords:
        return Looks({})
    dataset = tree.children[group].to_dataset().load()
    labels = texts(dataset[dim])
    kept = "thumbnail", "row", "target", "predicted"
    arrays = {name: dataset[name].values for name in kept if name in dataset}
    rows = arrays.get("row")
    if rows is not None:
        rows = pd.DataFrame(rows, labels, texts(dataset["column"]))
    sites = texts(dataset["site"]) if "site" in dataset.coords else ()
    places = {label: i for i, label in enumerate(labels)}
    names = "file", "target", "model"
    return Looks(
        places,
        arrays.get("thumbnail"),
        rows,
        arrays.get("target"),
        sites,
        arrays.get("predicted"),
        {name: isolated(dataset.attrs[name]) for name in names if name in dataset.attrs},
    )


def png(pixels: np.ndarray) -> str:
    """Return pixels `(row, column, channel)` as a data URL of a PNG."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
