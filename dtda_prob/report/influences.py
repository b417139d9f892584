"""The most influential examples, of one query and over all; scores are read a block at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from dtda_prob.divergences import Meaning
from dtda_prob.report.directions import explained, meaning_of
from dtda_prob.report.looks import Looks, texts
from dtda_prob.report.numbers import count, decimals_for, exponent_of, fixed, scaled_unit, share
from dtda_prob.report.study import Part
from dtda_prob.report.tables import Table, bars

RATE = 0.1
"""False discovery rate at which an influence is significant."""
FIELDS = (
    "score",
    "error",
    "lower",
    "upper",
    "null",
    "p_value",
    "q_value",
    "rank",
    "rank_lower",
    "rank_upper",
    "top_probability",
)
BLOCK = 2**22
"""Numbers that are read at once."""
MEAN_ERROR = "mean of the standard errors, an upper bound for the standard error of the mean"
NULL = "95 % of scores are below this if nothing moved"


class Scores(NamedTuple):
    """Scores in a study.

    Attributes:
        name: of the scores.
        dataset: what `dtda.attribute` returned, read when it is asked for.
        dim: what was changed: examples or perturbations.
        top: rows to show, at either end where there is a sign.
        data: the looks of the training examples.
        block: queries that are together on disk.
    """

    name: str
    dataset: xr.Dataset
    dim: str
    top: int
    data: Looks
    block: int

    @property
    def measure(self) -> str:
        """Return the name of what was measured."""
        return str(self.dataset.attrs["measure"])

    @property
    def is_by_example(self) -> bool:
        """Return whether single examples were removed."""
        return self.dim == "example"

    @property
    def things(self) -> str:
        """Return what was changed, in the plural."""
        return "examples" if self.is_by_example else "perturbations"

    def meaning(self, divergence: str) -> Meaning:
        """Return how to read a divergence."""
        return meaning_of(self.dataset.attrs, divergence, self.measure)

    def explained(self, divergence: str) -> str:
        """Return what a divergence measures."""
        change = "removing the example" if self.is_by_example else "the change"
        return explained(divergence, self.measure, change, self.meaning(divergence))

    @property
    def divergences(self) -> list[str]:
        """Return the names of the divergences."""
        return texts(self.dataset["divergence"])


def scores_of(part: Part, top: int, data: Looks) -> Scores | None:
    """Open scores; None before any are written."""
    dataset = part.dataset
    if "score" not in dataset or not dataset["score"].size:
        return None
    block = int(part.about.get("grid", {}).get("query", 1))
    return Scores(part.name, dataset, str(dataset["score"].dims[-1]), top, data, block)


def by_query(scores: Scores, queries: Sequence[int], labels: Sequence[str]) -> list[list[Table]]:
    """Return, for each of some queries, a table for each divergence."""
    chosen = scores.dataset[[name for name in FIELDS if name in scores.dataset]]
    read = chosen.isel(query=list(queries)).load()
    return [
        [
            _of_query(scores, read.isel(query=i, divergence=j), name, label)
            for j, name in enumerate(scores.divergences)
        ]
        for i, label in enumerate(labels)
    ]


def over_queries(scores: Scores) -> list[xr.Dataset]:
    """Average scores over all queries, a block at a time.

    Returns:
        For each divergence, by example: the mean `score`, an upper bound of its `error`, the mean
        absolute score (`size`), and the number of queries for which it is `significant`.
    """
    dataset, number = scores.dataset, scores.dataset.sizes["query"]
    across = dataset.sizes["divergence"] * dataset.sizes[scores.dim]
    step = max(1, BLOCK // across)
    step = max(step - step % scores.block, min(step, scores.block))
    fields = dataset[["score", "error", "q_value"]]

    def summed(block: xr.Dataset) -> xr.Dataset:
        block = block.load()
        known = block[["score", "error"]].assign(size=abs(block["score"]))
        known = known.assign(significant=block["q_value"] <= RATE)
        return known.sum("query", skipna=False)

    blocks = [summed(fields.isel(query=slice(i, i + step))) for i in range(0, number, step)]
    total = sum(blocks[1:], blocks[0])
    means = total.assign({name: total[name] / number for name in ("score", "error", "size")})
    return [means.isel(divergence=i) for i in range(dataset.sizes["divergence"])]


def over_all(scores: Scores) -> list[Table]:
    """Return a table over all queries for each divergence."""
    return [
        _of_mean(scores, mean, name)
        for name, mean in zip(scores.divergences, over_queries(scores), strict=True)
    ]


def _of_query(scores: Scores, one: xr.Dataset, divergence: str, query: str) -> Table:
    meaning = scores.meaning(divergence)
    total, found = one[scores.dim].size, int((one["q_value"] <= RATE).sum())
    one = one.isel({scores.dim: ends(one["score"].values, scores.top, meaning.signed)})
    one = one.sortby("rank")
    value = {str(name): column.values.astype(float) for name, column in one.data_vars.items()}
    number, said = _scaled(value, meaning.unit)
    clear = value["q_value"] <= RATE
    level, top = (scores.dataset.attrs.get(name, "") for name in ("level", "top"))
    often = f"{float(level):.0%} interval" if level else "Interval"
    columns = {
        "Rank": (value["rank"].astype(int), None),
        **_identity(scores, one),
        **_effect("Effect", meaning, value["score"], clear),
        f"Score{said}": number("score"),
        f"Standard error{said}": number("error"),
        "Score, drawn": (
            value["score"],
            bars(*(value[name] for name in ("score", "error", "lower", "upper"))),
        ),
        f"{often}{said}": (value["lower"], _ranges(number("lower")[1], number("upper")[1])),
        **({} if meaning.signed else {f"Null level{said}": number("null")}),
        "p-value": (value["p_value"], list(map(share, value["p_value"]))),
        "False discovery rate": (value["q_value"], list(map(share, value["q_value"]))),
        f"{often} of the rank": (
            value["rank_lower"],
            _ranges(*([fixed(x, 0) for x in value[f"rank_{end}"]] for end in ("lower", "upper"))),
        ),
        f"Among the first {top}": (
            value["top_probability"],
            list(map(share, value["top_probability"])),
        ),
    }
    notes = {
        "Rank": "1 is the largest score, whatever its sign",
        "Effect": f"of the change; unclear if not significant at a false discovery rate of {RATE:.0%}",
        "Score, drawn": f"mark: score; thick: ± standard error; thin: {often}; dotted: zero",
        f"Null level{said}": NULL,
        "p-value": "probability of a score as extreme if nothing moved",
        "False discovery rate": "at which the example counts as influential",
        f"Among the first {top}": "share of resamples of the draws",
    }
    note = (
        f"{count(len(one['rank']), 'row')} of {total:,}, the largest {_ways(meaning)}. {found:,} of "
        f"{total:,} are significant (FDR ≤ {RATE:.0%})."
    )
    caption = f"Most influential {scores.things} by {divergence}, query {query}"
    return _table(scores, caption, columns, notes, note, one)


def _of_mean(scores: Scores, mean: xr.Dataset, divergence: str) -> Table:
    meaning = scores.meaning(divergence)
    queries = scores.dataset.sizes["query"]
    order = np.argsort(-np.nan_to_num(mean["size"].values), kind="stable")[: scores.top]
    one = mean.isel({scores.dim: order})
    value = {name: one[name].values for name in ("score", "error", "size")}
    number, said = _scaled(value, meaning.unit)
    score, error, hits = (one[name].values for name in ("score", "error", "significant"))
    columns = {
        "Rank": (1 + np.arange(len(order)), None),
        **_identity(scores, one),
        f"Mean absolute score{said}": number("size"),
        **_effect("On average", meaning, score, np.abs(score) > 2 * error),
        f"Mean score{said}": number("score"),
        f"Error at most{said}": number("error"),
        "Mean score, drawn": (score, bars(score, error, score - error, score + error)),
        "Significant": (hits, [f"{hit} of {queries} queries" for hit in hits]),
    }
    notes = {
        "Rank": "1 is the largest mean absolute score",
        "On average": "effect of the change; unclear within two errors of zero",
        f"Error at most{said}": MEAN_ERROR,
        "Mean score, drawn": "mark: mean score; line: error at most, either way",
        "Significant": f"at a false discovery rate of {RATE:.0%}",
    }
    note = (
        f"{count(len(score), 'row')} of {scores.dataset.sizes[scores.dim]:,}, by their mean absolute "
        f"score over {count(queries, 'query', 'queries')}: a signed mean hides queries that move in "
        "opposite directions."
    )
    caption = f"Most influential {scores.things} by {divergence}, averaged over all queries"
    return _table(scores, caption, columns, notes, note, one)


def _table(
    scores: Scores, caption: str, columns: dict, notes: dict, note: str, one: xr.Dataset
) -> Table:
    frame = pd.DataFrame({name: values for name, (values, _) in columns.items()})
    shown = {name: text for name, (_, text) in columns.items() if text is not None}
    if scores.is_by_example:
        features = scores.data.features(texts(one[scores.dim]))
        taken = {name: f"{name} (input)" for name in features if name in frame}
        frame = pd.concat([frame, features.rename(columns=taken)], axis=1)
    return Table(caption, frame, shown, {name: notes[name] for name in columns if name in notes}, note)


def _identity(scores: Scores, one: xr.Dataset) -> dict:
    """Return what an example is known by: its label, thumbnail and target."""
    labels = texts(one[scores.dim])
    if not scores.is_by_example:  # whose labels are no example's, though they may look alike
        return {"Perturbation": (labels, None)}
    columns = {"Example": (labels, list(map(scores.data.pictured, labels)))}
    if scores.data.targets is not None:
        columns["Target"] = (list(map(scores.data.target, labels)), None)
    return columns


def _effect(name: str, meaning: Meaning, score: np.ndarray, clear: np.ndarray) -> dict:
    if not meaning.signed:
        return {}
    words = np.where(score > 0, meaning.positive, meaning.negative)
    return {name: (np.where(clear, words, "unclear").tolist(), None)}


def _scaled(value: dict[str, np.ndarray], unit: str):
    """Return a function that writes a column in its unit, and the unit behind a heading."""
    both = np.concatenate([np.abs(value["score"]), np.nan_to_num(value["error"])])
    exponent = exponent_of(both)
    decimals = decimals_for(value["error"] / 10.0**exponent)
    said = scaled_unit(exponent, unit)

    def number(name: str) -> tuple[np.ndarray, list[str]]:
        return value[name], [fixed(x / 10.0**exponent, decimals) for x in value[name]]

    return number, f" ({said})" if said else ""


def _ranges(lower: Sequence[str], upper: Sequence[str]) -> list[str]:
    return [f"{low} to {high}" for low, high in zip(lower, upper, strict=True)]


def _ways(meaning: Meaning) -> str:
    return "in either direction" if meaning.signed else "distances"


def ends(score: np.ndarray, top: int, signed: bool) -> np.ndarray:
    """Return the positions of the largest scores, and where there is a sign of the smallest."""
    known = np.flatnonzero(np.isfinite(score))
    order = known[np.argsort(-score[known], kind="stable")]
    if not signed:
        return order[:top]
    positive, negative = order[:top], order[::-1][:top]
    return np.unique(np.concatenate([positive[score[positive] > 0], negative[score[negative] < 0]]))
