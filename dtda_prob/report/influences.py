"""The most influential data: read from scores of any size, by what is shown of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from dtda_prob.report.parts import Part
from dtda_prob.report.pictures import Looks
from dtda_prob.report.tables import Cell, Column, Table, bars
from dtda_prob.report.words import (
    RATE,
    Sign,
    brief,
    count,
    decimals_for,
    exponent_of,
    fixed,
    scaled_unit,
    share,
    sign_of,
    unit_of_divergence,
)

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
EFFECT = (
    f"of the change; unclear where it is not told from none at a false discovery rate of {RATE:.0%}"
)
AVERAGED = "effect of the change; unclear within two errors of zero"
BLOCK = 2**22
"""Numbers that are read at once."""


class Scores(NamedTuple):
    """Scores in a study, and what there is to know to write of them.

    Attributes:
        name: of the scores.
        dataset: what `dtda.attribute` gives, read when it is asked for.
        measure: what was measured.
        dim: what was changed: "datum" or "perturbation".
        top: how many are shown, at either end where there is a sign.
        data: what there is to look at of the data.
    """

    name: str
    dataset: xr.Dataset
    measure: str
    dim: str
    top: int
    data: Looks

    @property
    def things(self) -> str:
        """Name what was changed, in the plural."""
        return "data" if self.dim == "datum" else "perturbations"

    @property
    def change(self) -> str:
        """Say what is done to the data."""
        return "removing the datum" if self.dim == "datum" else "the change"

    def sign_of(self, divergence: str) -> Sign | None:
        """Give what the sign of a divergence says, if it has one."""
        return sign_of(divergence, self.measure, vector="output" in self.dataset["sd"].dims)

    @property
    def divergences(self) -> list[str]:
        """Name the divergences."""
        return [str(name) for name in self.dataset["divergence"].values.tolist()]

    @property
    def labels(self) -> np.ndarray:
        """Give the labels of what was changed."""
        return self.dataset[self.dim].values


def scores_of(part: Part, top: int, data: Looks) -> Scores | None:
    """Prepare to read scores; None where none is there yet."""
    dataset = part.dataset
    if "score" not in dataset or not dataset["score"].size:
        return None
    dim = str(dataset["score"].dims[-1])
    return Scores(part.name, dataset, str(dataset.attrs["measure"]), dim, top, data)


def read_queries(scores: Scores, queries: Sequence[int]) -> xr.Dataset:
    """Read all that is shown of some queries."""
    chosen = scores.dataset[[name for name in FIELDS if name in scores.dataset]]
    return chosen.isel(query=list(queries)).load()


def of_query(scores: Scores, fields: xr.Dataset, divergence: str, position: int, whose: str) -> Table:
    """Give the most influential data of a query, both ways where there is a direction."""
    one = fields.isel(query=position, divergence=scores.divergences.index(divergence))
    sign = scores.sign_of(divergence)
    chosen = _ends(one["score"].values, one["rank"].values, scores.top, sign is not None)
    rows = {str(name): values.values[chosen] for name, values in one.data_vars.items()}
    labels = [str(scores.labels[i]) for i in chosen]
    unit = unit_of_divergence(divergence, scores.measure)
    scale = exponent_of(np.concatenate([np.abs(rows["score"]), np.nan_to_num(rows["error"])]))
    columns = _columns(scores, sign, scaled_unit(scale, unit), with_null=sign is None)
    cells = _cells(scores, sign, rows, labels, 10.0**scale)
    told = int((one["q_value"] <= RATE).sum())
    note = (
        f"{count(len(chosen), 'row')} of {scores.labels.size:,}, the largest {_ways(sign)}. "
        f"{told:,} of {scores.labels.size:,} are told from none at a false discovery rate of "
        f"{RATE:.0%}."
    )
    return Table(
        f"Most influential {scores.things} by {divergence}, {whose}", columns, cells, True, note
    )


def over_queries(scores: Scores, blocks: int) -> dict[str, np.ndarray]:
    """Average scores over all queries, a block of them at a time.

    Args:
        scores: which.
        blocks: queries that stand together on disk.

    Returns:
        By name, `(divergence, datum)`: the mean `score`, the most that its `error` can be, and in how
        many queries it is `told` from none.
    """
    dataset, number = scores.dataset, scores.dataset.sizes["query"]
    shape = len(scores.divergences), scores.labels.size
    step = max(1, BLOCK // (shape[0] * shape[1]))
    step = max(step - step % blocks, min(step, blocks))
    total = {name: np.zeros(shape) for name in ("score", "error", "told")}
    for start in range(0, number, step):
        block = dataset[["score", "error", "q_value"]].isel(query=slice(start, start + step)).load()
        total["score"] += block["score"].values.sum(1)
        total["error"] += block["error"].values.sum(1)
        total["told"] += (block["q_value"].values <= RATE).sum(1)
    return total | {name: total[name] / number for name in ("score", "error")}


def of_all(scores: Scores, means: dict[str, np.ndarray], divergence: str) -> Table:
    """Give the data that are most influential on average over all queries."""
    i, number = scores.divergences.index(divergence), scores.dataset.sizes["query"]
    sign = scores.sign_of(divergence)
    score, error, told = (means[name][i] for name in ("score", "error", "told"))
    rank = np.argsort(np.argsort(-np.abs(np.nan_to_num(score)), kind="stable")) + 1
    chosen = _ends(score, rank, scores.top, sign is not None)
    scale = exponent_of(np.concatenate([np.abs(score[chosen]), np.nan_to_num(error[chosen])]))
    unit = scaled_unit(scale, unit_of_divergence(divergence, scores.measure))
    factor = 10.0**scale
    decimals = decimals_for(error[chosen] / factor)
    drawn = bars(
        score[chosen], error[chosen], score[chosen] - error[chosen], score[chosen] + error[chosen]
    )
    columns = [
        Column("Rank", order="ascending", note="1 is the largest mean, whatever its sign"),
        *_identity(scores),
        *([Column("On average", kind="text", note=AVERAGED)] if sign else []),
        Column("Mean score", unit, note="over all queries"),
        Column(
            "Error at most",
            unit,
            note="the mean of the standard errors, which that of the mean cannot exceed",
        ),
        Column("Mean score, drawn", unit, "bar", "mark: mean score; line: error at most, either way"),
        Column("Told from none", "queries", note=f"at a false discovery rate of {RATE:.0%}"),
        *_features(scores),
    ]
    rows = [
        [
            Cell(str(rank[j]), int(rank[j])),
            *_identify(scores, str(scores.labels[j])),
            *([_direction(sign, score[j], abs(score[j]) > 2 * error[j])] if sign else []),
            Cell(fixed(score[j] / factor, decimals), score[j]),
            Cell(fixed(error[j] / factor, decimals), error[j]),
            Cell(fixed(score[j] / factor, decimals), score[j], bar=bar),
            Cell(f"{int(told[j])} of {number}", int(told[j])),
            *_featured(scores, str(scores.labels[j])),
        ]
        for j, bar in zip(chosen, drawn, strict=True)
    ]
    note = (
        f"{count(len(chosen), 'row')} of {scores.labels.size:,}, the largest {_ways(sign)}, over all "
        f"{count(number, 'query', 'queries')}. A mean hides queries that move opposite ways."
    )
    caption = f"Most influential {scores.things} by {divergence}, averaged over all queries"
    return Table(caption, columns, rows, True, note)


def _ways(sign: Sign | None) -> str:
    return "either way" if sign else "distances"


def _ends(score: np.ndarray, rank: np.ndarray, top: int, signed: bool) -> np.ndarray:
    """Choose the largest, and where there is a sign the smallest, in the order of their ranks."""
    known = np.flatnonzero(np.isfinite(score))
    order = known[np.argsort(-score[known], kind="stable")]
    if signed:
        positive, negative = order[:top], order[::-1][:top]
        order = np.unique(
            np.concatenate([positive[score[positive] > 0], negative[score[negative] < 0]])
        )
    else:
        order = order[:top]
    return order[np.argsort(rank[order], kind="stable")]


def _columns(scores: Scores, sign: Sign | None, unit: str, with_null: bool) -> list[Column]:
    level, top = (scores.dataset.attrs.get(name) for name in ("level", "top"))
    often = f"{level:.0%}" if level is not None else ""
    drawn = f"mark: score; thick: ± standard error; thin: {often} interval; dotted: zero"
    return [
        Column("Rank", order="ascending", note="1 is the largest score, whatever its sign"),
        *_identity(scores),
        *([Column("Effect", kind="text", note=EFFECT)] if sign else []),
        Column("Score", unit),
        Column("Standard error", unit),
        Column("Score, drawn", unit, "bar", drawn),
        Column(f"{often} interval", unit),
        *(
            [Column("Null level", unit, note="19 times in 20 it stays below this if nothing moved")]
            if with_null
            else []
        ),
        Column("p-value", note="probability of a score as extreme if nothing moved"),
        Column("False discovery rate", note="at which it counts as influential"),
        Column(f"{often} interval of the rank"),
        Column(f"Among the first {top}", note="share of resamples of the draws"),
        *_features(scores),
    ]


def _cells(
    scores: Scores, sign: Sign | None, rows: dict[str, np.ndarray], labels: list[str], factor: float
) -> list[list[Cell]]:
    decimals = decimals_for(rows["error"] / factor)
    drawn = bars(rows["score"], rows["error"], rows["lower"], rows["upper"])

    def cells(i: int) -> list[Cell]:
        at = {name: float(values[i]) for name, values in rows.items()}

        def number(name: str) -> Cell:
            return Cell(fixed(at[name] / factor, decimals), at[name])

        def chance(name: str) -> Cell:
            return Cell(share(at[name]), at[name])

        told = at["q_value"] <= RATE
        return [
            Cell(f"{at['rank']:.0f}", at["rank"]),
            *_identify(scores, labels[i]),
            *([_direction(sign, at["score"], told)] if sign else []),
            number("score"),
            number("error"),
            number("score")._replace(bar=drawn[i]),
            Cell(f"{number('lower').text} to {number('upper').text}", at["lower"]),
            *([] if sign else [number("null")]),
            chance("p_value"),
            chance("q_value")._replace(tone="" if told else "quiet"),
            Cell(_ranks(at["rank_lower"], at["rank_upper"]), at["rank_lower"]),
            chance("top_probability"),
            *_featured(scores, labels[i]),
        ]

    return [cells(i) for i in range(len(labels))]


def _ranks(lower: float, upper: float) -> str:
    return f"{lower:.0f} to {upper:.0f}" if np.isfinite(lower) else "–"


def _direction(sign: Sign, score: float, told: bool) -> Cell:
    word = sign.positive if score > 0 else sign.negative
    return Cell(word) if told else Cell("unclear", tone="quiet")


def _identity(scores: Scores) -> list[Column]:
    """Head what a datum is known by."""
    if scores.dim != "datum":
        return [Column("Perturbation", kind="text")]
    targets = [Column("Target", kind="text")] if scores.data.targets is not None else []
    return [Column("Datum", kind="text"), *targets]


def _features(scores: Scores) -> list[Column]:
    if scores.dim != "datum":
        return []
    data = scores.data
    named = enumerate(data.columns)
    return [Column(name, kind="number" if data.is_number(i) else "text") for i, name in named]


def _featured(scores: Scores, label: str) -> list[Cell]:
    if scores.dim != "datum":
        return []
    return [_feature(value) for value in scores.data.row(label)]


def _feature(value: float | str) -> Cell:
    return Cell(value) if isinstance(value, str) else Cell(brief(value, 4), value)


def _identify(scores: Scores, label: str) -> list[Cell]:
    """Say what a datum is known by; the labels of perturbations are no data's, though they look so."""
    if scores.dim != "datum":
        return [Cell(label)]
    look = scores.data
    targets = [Cell(look.target(label))] if look.targets is not None else []
    return [Cell(label, picture=look.picture(label)), *targets]
