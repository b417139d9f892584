"""A study opened for its report: its parts by kind, and what each says about itself."""

import json
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import xarray as xr

from dtda_prob.divergences import Meaning, available
from dtda_prob.divergences.meaning import decoded
from dtda_prob.storage import contents, load

UNITS = {
    **dict.fromkeys(("loss", "log_likelihood", "margin"), "nats"),
    "squared_error": "target units²",
    "accuracy": "share",
}
"""Of measures; the user knows the units of any other."""


class Part(NamedTuple):
    """One name of a study: its kind, its description, and what it holds, read when asked for."""

    name: str
    kind: str
    about: dict[str, Any]
    tree: xr.DataTree

    @property
    def dataset(self) -> xr.Dataset:
        """Return what it holds, where that is one dataset."""
        return self.tree.to_dataset()

    @property
    def measured(self) -> xr.DataArray | None:
        """Return the draws of a sample set."""
        if self.kind != "sample set" or "posterior_predictive" not in self.tree.children:
            return None
        groups = self.tree.children["posterior_predictive"].to_dataset().data_vars.values()
        return next(iter(groups), None)


class Study(NamedTuple):
    """A folder, its description, `dtda.contents` of it, and its parts."""

    path: Path
    about: dict[str, Any]
    table: pd.DataFrame
    parts: list[Part]

    def of_kind(self, kind: str) -> list[Part]:
        """Return the parts of a kind."""
        return [part for part in self.parts if part.kind == kind]

    @property
    def written(self) -> datetime:
        """Return when the study was last written to."""
        nodes = self.path / "zarr.json", *self.path.glob("*/zarr.json")
        return datetime.fromtimestamp(max(node.stat().st_mtime for node in nodes), UTC)


class Group(NamedTuple):
    """Sample sets and scores that measure the same queries."""

    measure: str
    queries: tuple[str, ...]
    samples: list[Part]
    scores: list[Part]


def open_study(path: Path) -> Study:
    """Open a study lazily, after checking that it is safe."""
    table = contents(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # diverging draws are counted on the page
        tree = load(path)
    parts = [
        Part(name, str(kind), _about(tree.children[name]), tree.children[name])
        for name, kind in table["kind"].items()
        if name in tree.children
    ]
    return Study(path, _about(tree), table, parts)


def _about(node: xr.DataTree) -> dict[str, Any]:
    """Read what a study, or a part of it, says about itself; `load` has checked its types."""
    about = json.loads(node.attrs.get("dtda_prob", "{}"))
    return {field: value for field, value in about.items() if value is not None}


def groups_of(study: Study) -> list[Group]:
    """Group sample sets and scores by what they measure, in the order of the study."""
    groups: dict[tuple, Group] = {}
    for part in [*study.of_kind("sample set"), *study.of_kind("scores")]:
        source = part.dataset if part.kind == "scores" else part.measured
        if source is None or "query" not in source.coords or not source["query"].size:
            continue
        measure = str(part.about.get("measure", {}).get("name", source.attrs.get("measure", "")))
        asked = measure, tuple(texts(source["query"]))
        group = groups.setdefault(asked, Group(*asked, [], []))
        (group.samples if part.kind == "sample set" else group.scores).append(part)
    return list(groups.values())


def texts(labels: xr.DataArray) -> list[str]:
    """Return labels as text."""
    return [str(label) for label in labels.values.tolist()]


def meaning_of(attributes: Any, divergence: str, measure: str) -> Meaning:
    """Return how to read a divergence of a measure, from the attributes of a dataset of it.

    Of a divergence that the dataset does not describe, the library knows at most the unit.
    """
    unknown = Meaning("", "", "", getattr(available.get(divergence), "unit", ""))
    meaning = decoded(attributes).get(divergence, unknown)
    unit = unit_of(measure)
    filled = meaning.unit.replace("{unit}", unit) if unit or "{unit}" not in meaning.unit else ""
    return meaning._replace(unit=filled.replace("²²", "⁴"))


def unit_of(measure: str) -> str:
    """Return the unit of a measure, empty for a user's own."""
    return UNITS.get(measure.removeprefix("mean_"), "")
