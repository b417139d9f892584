"""Tables of the most influential data, of one query and over all."""

import numpy as np
import xarray as xr

from dtda_prob.report.identities import direction, featured, features, identify, identity
from dtda_prob.report.influences import Scores, ends
from dtda_prob.report.tables import Cell, Column, Table, bars
from dtda_prob.report.words import (
    RATE,
    Sign,
    count,
    decimals_for,
    exponent_of,
    fixed,
    scaled_unit,
    share,
    unit_of_divergence,
)

EFFECT = (
    f"of the change; unclear where it is not told from none at a false discovery rate of {RATE:.0%}"
)
AVERAGED = "effect of the change; unclear within two errors of zero"


def of_query(scores: Scores, fields: xr.Dataset, divergence: str, position: int, whose: str) -> Table:
    """Give the most influential data of a query, both ways where there is a direction."""
    one = fields.isel(query=position, divergence=scores.divergences.index(divergence))
    sign = scores.sign_of(divergence)
    chosen = ends(one["score"].values, one["rank"].values, scores.top, sign is not None)
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


def of_all(scores: Scores, means: dict[str, np.ndarray], divergence: str) -> Table:
    """Give the data that are most influential on average over all queries."""
    i, number = scores.divergences.index(divergence), scores.dataset.sizes["query"]
    sign = scores.sign_of(divergence)
    score, error, told = (means[name][i] for name in ("score", "error", "told"))
    rank = np.argsort(np.argsort(-np.abs(np.nan_to_num(score)), kind="stable")) + 1
    chosen = ends(score, rank, scores.top, sign is not None)
    scale = exponent_of(np.concatenate([np.abs(score[chosen]), np.nan_to_num(error[chosen])]))
    unit = scaled_unit(scale, unit_of_divergence(divergence, scores.measure))
    factor = 10.0**scale
    decimals = decimals_for(error[chosen] / factor)
    drawn = bars(
        score[chosen], error[chosen], score[chosen] - error[chosen], score[chosen] + error[chosen]
    )
    columns = [
        Column("Rank", order="ascending", note="1 is the largest mean, whatever its sign"),
        *identity(scores),
        *([Column("On average", kind="text", note=AVERAGED)] if sign else []),
        Column("Mean score", unit, note="over all queries"),
        Column(
            "Error at most",
            unit,
            note="the mean of the standard errors, which that of the mean cannot exceed",
        ),
        Column("Mean score, drawn", unit, "bar", "mark: mean score; line: error at most, either way"),
        Column("Told from none", "queries", note=f"at a false discovery rate of {RATE:.0%}"),
        *features(scores),
    ]
    rows = [
        [
            Cell(str(rank[j]), int(rank[j])),
            *identify(scores, str(scores.labels[j])),
            *([direction(sign, score[j], abs(score[j]) > 2 * error[j])] if sign else []),
            Cell(fixed(score[j] / factor, decimals), score[j]),
            Cell(fixed(error[j] / factor, decimals), error[j]),
            Cell(fixed(score[j] / factor, decimals), score[j], bar=bar),
            Cell(f"{int(told[j])} of {number}", int(told[j])),
            *featured(scores, str(scores.labels[j])),
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


def _columns(scores: Scores, sign: Sign | None, unit: str, with_null: bool) -> list[Column]:
    level, top = (scores.dataset.attrs.get(name) for name in ("level", "top"))
    often = f"{level:.0%}" if level is not None else ""
    drawn = f"mark: score; thick: ± standard error; thin: {often} interval; dotted: zero"
    return [
        Column("Rank", order="ascending", note="1 is the largest score, whatever its sign"),
        *identity(scores),
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
        *features(scores),
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
            *identify(scores, labels[i]),
            *([direction(sign, at["score"], told)] if sign else []),
            number("score"),
            number("error"),
            number("score")._replace(bar=drawn[i]),
            Cell(f"{number('lower').text} to {number('upper').text}", at["lower"]),
            *([] if sign else [number("null")]),
            chance("p_value"),
            chance("q_value")._replace(tone="" if told else "quiet"),
            Cell(_ranks(at["rank_lower"], at["rank_upper"]), at["rank_lower"]),
            chance("top_probability"),
            *featured(scores, labels[i]),
        ]

    return [cells(i) for i in range(len(labels))]


def _ranks(lower: float, upper: float) -> str:
    return f"{lower:.0f} to {upper:.0f}" if np.isfinite(lower) else "–"
