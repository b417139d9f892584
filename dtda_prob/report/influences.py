"""The most influential examples, of one query and over all; scores are read a block at a time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from dtda_prob.divergences import Meaning
from dtda_prob.numerals import (
    brief,
    count,
    decimals_for,
    exponent_of,
    fixed,
    isolated,
    scaled_unit,
    share,
)
from dtda_prob.report.looks import Looks
from dtda_prob.report.study import Part, meaning_of, texts
from dtda_prob.report.tables import Column, Table, bars
from dtda_prob.scores import RATE, STANDS_OUT
from dtda_prob.scores import outstanding as stand_out

FIELDS = {
    *("score", "error", "lower", "upper", "null", "p_value", "q_value"),
    *("rank", "rank_lower", "rank_upper", "top_probability"),
}
DOWNLOADED = 2000
"""Rows that the page holds for downloading."""
SIZE = "by how much the value moves without the {thing}, in either direction: the mean over queries"
SIGNED = (
    "mark: mean effect over queries, to the right if values rise without it; line: standard error at "
    "most, either way; dotted: zero. If the mark is near zero although the effect is large, some "
    "queries rise and others fall"
)
SHARE = "of the effects of all, added up whatever their signs"
PREDICTED = "by models that are trained on it too, on average"
BLOCK = 2**22
"""Numbers that are read at once."""
DRAWN = "mark: score; thick: ± standard error"
EFFECT = f"of the change; unclear if not significant at a false discovery rate of {RATE:.0%}"
NULL = "95 % of scores are below this if nothing moved"
MEAN_EFFECT = "effect of the change; unclear within two errors of zero"
MEAN_ERROR = "mean of the standard errors, an upper bound for the standard error of the mean"

Columns = dict[str, Column]


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
        return f"{self.data.thing}s" if self.is_by_example else "perturbations"

    @property
    def divergences(self) -> list[str]:
        """Return the names of the divergences."""
        return texts(self.dataset["divergence"])

    def meaning(self, divergence: str) -> Meaning:
        """Return how to read a divergence."""
        return meaning_of(self.dataset.attrs, divergence, self.measure)

    def explained(self, divergence: str) -> str:
        """Return what a divergence measures."""
        change = f"removing the {self.data.thing}" if self.is_by_example else "the change"
        return explained(divergence, self.measure, change, self.meaning(divergence))


def scores_of(part: Part, top: int, data: Looks) -> Scores | None:
    """Open scores; None before any are written."""
    dataset = part.dataset
    if "score" not in dataset or not dataset["score"].size:
        return None
    block = int(part.about.get("grid", {}).get("query", 1))
    return Scores(part.name, dataset, str(dataset["score"].dims[-1]), top, data, block)


def explained(divergence: str, measure: str, change: str, meaning: Meaning) -> str:
    """Return a sentence about what a divergence measures and how to read its sign."""
    if not meaning.signed:
        return (
            f"{divergence}: a distance between the distributions of the {measure.replace('_', ' ')} "
            "before and after the change. It has no direction; a value near or below zero is "
            "indistinguishable from noise."
        )
    return (
        f"{divergence}: changed data less all data. Where it is positive, {change} {meaning.positive} "
        f"{meaning.quantity}; where it is negative, {change} {meaning.negative} it."
    )


def by_query(scores: Scores, queries: Sequence[int], labels: Sequence[str]) -> list[list[Table]]:
    """Return, for each of some queries, a table for each divergence."""
    chosen = scores.dataset[[name for name in scores.dataset.data_vars if name in FIELDS]]
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
    step = max(1, BLOCK // (dataset.sizes["divergence"] * dataset.sizes[scores.dim]))
    step = max(step - step % scores.block, min(step, scores.block))

    def summed(start: int) -> xr.Dataset:
        block = dataset[["score", "error", "q_value"]].isel(query=slice(start, start + step)).load()
        known = block[["score", "error"]].assign(size=abs(block["score"]))
        return known.assign(significant=block["q_value"] <= RATE).sum("query", skipna=False)

    total = summed(0)
    for start in range(step, number, step):
        total = total + summed(start)
    means = total.assign({name: total[name] / number for name in ("score", "error", "size")})
    return [means.isel(divergence=i) for i in range(dataset.sizes["divergence"])]


def over_all(scores: Scores, means: Sequence[xr.Dataset]) -> list[Table]:
    """Return a table over all queries for each divergence, from what `over_queries` returned."""
    named = zip(scores.divergences, means, strict=True)
    return [_of_mean(scores, mean, name) for name, mean in named]


def leading(scores: Scores, mean: xr.Dataset) -> str:
    """Return what moves the queries most by the first divergence, and its share of all influence."""
    size, measure = mean["size"].values, scores.measure.replace("_", " ")
    order = by_size(mean)
    if not order.size:
        return f"No {scores.divergences[0]} score of the {measure} is finite."
    label = isolated(texts(mean[scores.dim])[order[0]])
    unit = scores.meaning(scores.divergences[0]).unit
    doing = f"Removing {scores.data.thing} {label}" if scores.is_by_example else f"Perturbation {label}"
    amount = f"{brief(size[order[0]])}{f' {unit}' if unit else ''}"
    queries = count(scores.dataset.sizes["query"], "query", "queries")
    first = min(scores.top, len(order))
    part = float(size[order[:first]].sum() / (size[order].sum() or 1.0))
    return (
        f"{doing} moves the {measure} most: by {amount} on average over {queries}, in either "
        f"direction. The first {first} of {len(order):,} {scores.things} have {part:.0%} of all "
        "influence."
    )


def most_moved(scores: Scores, mean: xr.Dataset, labels: Sequence[str]) -> str:
    """Return which of some queries moves most by what moves all most; the first if none is known."""
    order = by_size(mean)
    if not order.size:
        return labels[0]
    score = scores.dataset["score"].isel({"divergence": 0, scores.dim: int(order[0])})
    known = texts(scores.dataset["query"])
    size = abs(score.isel(query=[known.index(label) for label in labels])).values
    return labels[int(np.argmax(np.nan_to_num(size)))]


def by_size(mean: xr.Dataset) -> np.ndarray:
    """Return the positions of all finite scores, the largest mean absolute score first."""
    size = mean["size"].values
    known = np.flatnonzero(np.isfinite(size))
    return known[np.argsort(-size[known], kind="stable")]


def first_rows(scores: Scores, mean: xr.Dataset) -> Table:
    """Return what moves the queries most by the first divergence, in the few columns that say it."""
    one = mean.isel({scores.dim: by_size(mean)[: scores.top]})
    meaning, score, error = (
        scores.meaning(scores.divergences[0]),
        one["score"].values,
        one["error"].values,
    )
    rows = _rows({name: one[name].values for name in ("score", "error", "size")}, meaning.unit)
    part = one["size"].values / (np.nansum(mean["size"].values) or 1.0)
    drawn = bars(score, error, score - error, score + error)
    columns = {
        "#": Column(1 + np.arange(len(score))),
        **_identity(scores, one),
        f"Effect{rows.unit}": rows.number("size", SIZE.format(thing=scores.things[:-1])),
        "Share": Column(part, [f"{x:.1%}" for x in part], SHARE),
        "Signed effect, drawn": Column(score, drawn, SIGNED),
    }
    columns |= _features(scores, one, columns)
    return Table(f"The {scores.things} that move the {scores.measure.replace('_', ' ')} most", columns)


def ranked(scores: Scores, mean: xr.Dataset) -> pd.DataFrame:
    """Return the ranking over all queries by the first divergence, for downloading."""
    one = mean.isel({scores.dim: by_size(mean)[:DOWNLOADED]})
    labels = texts(one[scores.dim])
    table = pd.DataFrame({scores.things[:-1]: labels}).assign(
        effect=one["size"].values,
        share=one["size"].values / (np.nansum(mean["size"].values) or 1.0),
        signed_effect=one["score"].values,
        error_at_most=one["error"].values,
        significant_queries=one["significant"].values,
    )
    if scores.is_by_example:
        known = {"actual": scores.data.target, "predicted": scores.data.predicted}
        shown = {name: list(map(tell, labels)) for name, tell in known.items()}
        table = table.assign(**{name: cells for name, cells in shown.items() if any(cells)})
        features = scores.data.features(labels)
        clash = {name: f"{name} (input)" for name in features if name in table}
        table = table.join(features.rename(columns=clash))
    return table.set_index(pd.RangeIndex(1, len(table) + 1, name="rank"))


def _of_query(scores: Scores, one: xr.Dataset, divergence: str, query: str) -> Table:
    meaning, whole = scores.meaning(divergence), float(abs(one["score"]).sum()) or 1.0
    shown = ends(one["score"].values, scores.top, meaning.signed)
    note = _note(one, len(shown), meaning.signed)
    one = one.isel({scores.dim: shown}).sortby("rank")
    value = {str(name): column.values.astype(float) for name, column in one.data_vars.items()}
    rows, score = _rows(value, meaning.unit), value["score"]
    level, top = (scores.dataset.attrs.get(name, "") for name in ("level", "top"))
    often = f"{float(level):.0%} interval" if level else "Interval"
    drawn = bars(*(value[name] for name in ("score", "error", "lower", "upper")))
    clear = value["q_value"] <= RATE
    columns = {
        "Rank": Column(value["rank"].astype(int), note="1 is the largest score, whatever its sign"),
        **_identity(scores, one),
        **_effect("Effect", meaning, score, clear, EFFECT),
        f"Score{rows.unit}": rows.number("score"),
        f"Standard error{rows.unit}": rows.number("error"),
        "Share": Column(abs(score) / whole, [f"{x:.1%}" for x in abs(score) / whole], SHARE),
        "Score, drawn": Column(score, drawn, f"{DRAWN}; thin: {often}; dotted: zero"),
        f"{often}{rows.unit}": rows.interval("lower", "upper"),
        **({} if meaning.signed else {f"Null level{rows.unit}": rows.number("null", NULL)}),
        "p-value": rows.share("p_value", "probability of a score as extreme if nothing moved"),
        "False discovery rate": rows.share("q_value", "at which the example counts as influential"),
        f"{often} of the rank": rows._replace(scale=1, decimals=0).interval("rank_lower", "rank_upper"),
        f"Among the first {top}": rows.share("top_probability", "share of resamples of the draws"),
    }
    caption = f"Most influential {scores.things} by {divergence}, query {query}"
    return Table(caption, columns | _features(scores, one, columns), note)


def _note(one: xr.Dataset, num_shown: int, signed: bool) -> str:
    """Return how many scores of a query are shown, significant and outstanding."""
    total, found = one["score"].size, int((one["q_value"] <= RATE).sum())
    outstanding, ways = (
        int(stand_out(one, RATE).sum()),
        "in either direction" if signed else "distances",
    )
    return (
        f"{count(num_shown, 'row')} of {total:,}, the largest {ways}. {found:,} of {total:,} are "
        f"significant (FDR ≤ {RATE:.0%}), and {outstanding:,} of them at least {STANDS_OUT:.0f} times "
        "as large as the average."
    )


def _of_mean(scores: Scores, mean: xr.Dataset, divergence: str) -> Table:
    meaning, queries = scores.meaning(divergence), scores.dataset.sizes["query"]
    order = np.argsort(-np.nan_to_num(mean["size"].values), kind="stable")[: scores.top]
    one = mean.isel({scores.dim: order})
    rows = _rows({name: one[name].values for name in ("score", "error", "size")}, meaning.unit)
    score, error, hits = (one[name].values for name in ("score", "error", "significant"))
    drawn, clear = bars(score, error, score - error, score + error), np.abs(score) > 2 * error
    rate = f"at a false discovery rate of {RATE:.0%}"
    columns = {
        "Rank": Column(1 + np.arange(len(order)), note="1 is the largest mean absolute score"),
        **_identity(scores, one),
        f"Mean absolute score{rows.unit}": rows.number("size"),
        **_effect("On average", meaning, score, clear, MEAN_EFFECT),
        f"Mean score{rows.unit}": rows.number("score"),
        f"Error at most{rows.unit}": rows.number("error", MEAN_ERROR),
        "Mean score, drawn": Column(score, drawn, "mark: mean score; line: error at most, either way"),
        "Significant": Column(hits, [f"{hit} of {queries} queries" for hit in hits], rate),
    }
    note = (
        f"{count(len(score), 'row')} of {scores.dataset.sizes[scores.dim]:,}, by their mean absolute "
        f"score over {count(queries, 'query', 'queries')}: a signed mean hides queries that move in "
        "opposite directions."
    )
    caption = f"Most influential {scores.things} by {divergence}, averaged over all queries"
    return Table(caption, columns | _features(scores, one, columns), note)


class Rows(NamedTuple):
    """Fields of some rows, written in one unit: with a scale, and so many decimals."""

    value: dict[str, np.ndarray]
    scale: float
    decimals: int
    unit: str

    def number(self, name: str, note: str = "") -> Column:
        """Return the column of a field in the unit."""
        return Column(self.value[name], self._texts(name), note)

    def share(self, name: str, note: str) -> Column:
        """Return the column of a probability."""
        return Column(self.value[name], list(map(share, self.value[name])), note)

    def interval(self, lower: str, upper: str) -> Column:
        """Return the column of an interval, sorted by its lower end."""
        pairs = zip(self._texts(lower), self._texts(upper), strict=True)
        return Column(self.value[lower], [f"{low} to {high}" for low, high in pairs])

    def _texts(self, name: str) -> list[str]:
        return [fixed(x / self.scale, self.decimals) for x in self.value[name]]


def _rows(value: dict[str, np.ndarray], unit: str) -> Rows:
    """Choose the power of ten and the decimals that suit the scores and their errors."""
    exponent = exponent_of(np.concatenate([np.abs(value["score"]), np.nan_to_num(value["error"])]))
    scale, said = 10.0**exponent, scaled_unit(exponent, unit)
    return Rows(value, scale, decimals_for(value["error"] / scale), f" ({said})" if said else "")


def _identity(scores: Scores, one: xr.Dataset) -> Columns:
    """Return what an example is known by: its label, thumbnail and target."""
    labels = texts(one[scores.dim])
    if not scores.is_by_example:  # whose labels are no example's, though they may look alike
        return {"Perturbation": Column(labels)}
    data = scores.data
    columns = {data.thing.capitalize(): Column(labels, list(map(data.pictured, labels)))}
    if data.targets is not None:
        name = f"Actual {data.about['target']}" if data.about.get("target") else "Target"
        columns[name] = _said(labels, data.number, data.target)
    if data.predictions is not None:
        number = data.predicted_number
        columns["Predicted"] = _said(labels, number, data.predicted)._replace(note=PREDICTED)
    return columns


def _said(labels: Sequence[str], number: Callable[[str], float], text: Callable[[str], str]) -> Column:
    """Return a column of numbers, or of texts where they are no numbers."""
    values, shown = [number(label) for label in labels], [text(label) for label in labels]
    return Column(values, shown) if np.isfinite(values).any() else Column(shown)


def _features(scores: Scores, one: xr.Dataset, others: Columns) -> Columns:
    """Return the inputs of examples, by names that other columns do not have."""
    if not scores.is_by_example:
        return {}
    features = scores.data.features(texts(one[scores.dim]))
    return {
        f"{name} (input)" if name in others else str(name): Column(column.to_numpy())
        for name, column in features.items()
    }


def _effect(name: str, meaning: Meaning, score: np.ndarray, is_clear: np.ndarray, note: str) -> Columns:
    if not meaning.signed:
        return {}
    words = np.where(score > 0, meaning.positive, meaning.negative)
    return {name: Column(np.where(is_clear, words, "unclear").tolist(), note=note)}


def ends(score: np.ndarray, top: int, signed: bool) -> np.ndarray:
    """Return the positions of the largest scores, and where there is a sign of the smallest."""
    known = np.flatnonzero(np.isfinite(score))
    order = known[np.argsort(-score[known], kind="stable")]
    if not signed:
        return order[:top]
    positive, negative = order[:top], order[::-1][:top]
    return np.unique(np.concatenate([positive[score[positive] > 0], negative[score[negative] < 0]]))
