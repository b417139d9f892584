"""Scores in a few lines: the strongest data, and what is told from none."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import xarray as xr

from dtda_prob.cli.output import aligned
from dtda_prob.report.numbers import plain, with_error
from dtda_prob.scores import influential, strongest

NUM_QUERIES = 2
"""Queries whose data are listed; --json has them all."""
MEANING = "A positive mean score: removing the datum raises the measurement."


def findings(scores: xr.Dataset, top: int, rate: float) -> dict[str, Any]:
    """Give the strongest data of each query by each divergence, and how many are told from none."""
    counts = influential(scores, rate).groupby(level="divergence").size()
    told = {name: int(counts.get(name, 0)) for name in scores["divergence"].values.tolist()}
    by_query: Any = strongest(scores, top).groupby(level=["divergence", "query"], sort=False)
    each = [
        {"divergence": name, "query": query, "strongest": _records(rows)}
        for (name, query), rows in by_query
    ]
    return {"measure": scores.attrs["measure"], "rate": rate, "influential": told, "scores": each}


def findings_in_words(scores: xr.Dataset, found: dict[str, Any]) -> list[str]:
    """Tell the strongest data of the first queries by the first divergence, and what is told apart."""
    shown = found["scores"][: min(NUM_QUERIES, scores.sizes["query"])]
    size = scores["score"].shape[-1]
    what = "data" if scores["score"].dims[-1] == "datum" else "perturbations"
    told = ", ".join(f"{count} by {name}" for name, count in found["influential"].items())
    return [
        *[line for one in shown for line in _in_words(one, found["measure"], found["rate"])],
        f"Told from none (*) at a false discovery rate of {found['rate']:g}: {told}, "
        f"of {scores.sizes['query']} queries by {size} {what}.",
        *[MEANING][: "mean" in found["influential"]],
    ]


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    labels = rows.index.get_level_values(-1).tolist()
    records = rows.to_dict("records")
    return [{"label": label, **record} for label, record in zip(labels, records, strict=True)]


def _in_words(one: dict[str, Any], measure: str, rate: float) -> Sequence[str]:
    rows = [
        (
            each["label"],
            plain(with_error(each["score"], each["error"])),
            "*" if each["q_value"] <= rate else "",
        )
        for each in one["strongest"]
    ]
    head = f"query {one['query']}", f"{one['divergence']} score of {measure} +- error", ""
    return aligned([head, *rows])
