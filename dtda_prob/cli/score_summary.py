"""Scores in a few lines: the strongest data, and what is told from none."""

from collections.abc import Sequence
from typing import Any

import xarray as xr

from dtda_prob.cli.wording import aligned, with_error
from dtda_prob.scores import influential

NUM_QUERIES = 2
"""Queries whose data are listed; --json has them all."""
NUMBERS = ["score", "error", "q_value", "rank"]
MEANING = "A positive mean score: the measurement falls when the datum is removed."


def strongest(scores: xr.Dataset, top: int, rate: float) -> dict[str, Any]:
    """Give the strongest data of each query by each divergence, and how many are told from none."""
    names = scores["divergence"].values.tolist()
    counts = influential(scores, rate).groupby(level="divergence").size()
    each = [
        {"divergence": name, "query": query, "strongest": _top(scores, name, query, top)}
        for name in names
        for query in scores["query"].values.tolist()
    ]
    told = {name: int(counts.get(name, 0)) for name in names}
    return {"measure": scores.attrs["measure"], "rate": rate, "influential": told, "scores": each}


def strongest_in_words(scores: xr.Dataset, found: dict[str, Any]) -> list[str]:
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


def _top(scores: xr.Dataset, name: str, query: Any, top: int) -> list[dict[str, Any]]:
    one = scores[NUMBERS].sel(divergence=name, query=query, drop=True)
    last = str(one["score"].dims[0])
    best = one.sortby("rank").isel({last: slice(top)}).to_dataframe()
    labels = best.index.tolist()
    records = best[NUMBERS].to_dict("records")
    return [{"label": label, **record} for label, record in zip(labels, records, strict=True)]


def _in_words(one: dict[str, Any], measure: str, rate: float) -> Sequence[str]:
    rows = [
        (
            each["label"],
            with_error(each["score"], each["error"]),
            "*" if each["q_value"] <= rate else "",
        )
        for each in one["strongest"]
    ]
    head = f"query {one['query']}", f"{one['divergence']} score of {measure} +- error", ""
    return aligned([head, *rows])
