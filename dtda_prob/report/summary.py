"""What a study says, in a few sentences, and on what they rest."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from dtda_prob.report import figures
from dtda_prob.report.influences import Scores
from dtda_prob.report.panels import Panels
from dtda_prob.report.parts import Part, Study
from dtda_prob.report.quality import Agreement, Verdict, agreement_of, verdict_of
from dtda_prob.report.words import (
    RATE,
    count,
    plain_name,
    unit_of_divergence,
    with_error,
)

MOST_FIGURES, MOST_POINTS = 4, 2000


class Drawn(NamedTuple):
    """A figure with what it shows in words."""

    item: figures.Item
    title: str
    described: str


class Evidence(NamedTuple):
    """What speaks for the predictions, and against them.

    Attributes:
        verdicts: of diagnostics.
        agreements: with retraining.
        figures: of agreements.
    """

    verdicts: list[Verdict]
    agreements: list[Agreement]
    figures: list[Drawn]


def evidence(study: Study, most: int) -> Evidence:
    """Read what diagnostics and evaluations were saved."""
    kept = [(part, found) for part in study.of_kind("agreement") if (found := agreement_of(part, most))]
    return Evidence(
        [verdict_of(part) for part in study.of_kind("verdict")],
        [found for _, found in kept],
        [drawn for part, _ in kept for drawn in _figures(part)],
    )


def title(shown: Panels) -> str:
    """Ask what the study answers."""
    measures = list(dict.fromkeys(f"the {panel.measure.split(',')[0]}" for panel in shown.panels))
    return f"Which data move {' and '.join(measures) or 'what models say'}?"


def glance(study: Study, shown: Panels, found: Evidence) -> list[str]:
    """Say in sentences what matters most."""
    leading = dict.fromkeys(_leading(one) for one in shown.scores)
    return [*_drawn(study), *leading, *_trusted(found)]


def _drawn(study: Study) -> list[str]:
    table = study.table
    sets = table[table["kind"] == "sample set"]
    if not len(sets) or "rows" not in study.about:
        return []
    number = sum(_num_models(study, part) for part in study.of_kind("sample set"))
    return [
        f"{count(number, 'outcome')} of training “{plain_name(study.about['model'])}” "
        f"{'was' if number == 1 else 'were'} drawn, on "
        f"{count(study.about['rows']['num_data'], 'datum', 'data')} as they are or with some changed."
    ]


def _num_models(study: Study, part: Part) -> int:
    """Count the trainings of a sample set; states of one run are of one."""
    row = study.table.loc[part.name]
    if row["transform"] != "training":
        return 0
    return int(row["draws"] * max(1, row["perturbations"]) // part.about["kernel"]["num_states"])


def _leading(scores: Scores) -> str:
    """Name what moves the first query most, with its error."""
    query = scores.dataset["query"].values[0]
    one = scores.dataset.isel(query=0, divergence=0)[["score", "error", "rank", "q_value"]].load()
    if not np.isfinite(one["score"].values).any():
        return f"No score of query {query} is finite."
    first = one.isel({scores.dim: int(np.argmin(one["rank"].values))})
    told = int((one["q_value"] <= RATE).sum())
    return (
        f"Of query {query}, {_moves(scores, first)}. {told:,} of {scores.labels.size:,} "
        f"{scores.things} are told from none at a false discovery rate of {RATE:.0%}."
    )


def _moves(scores: Scores, first: xr.Dataset) -> str:
    """Say how the measurement moves, as far as that is known."""
    divergence, value = scores.divergences[0], float(first["score"])
    sign, unit = scores.sign_of(divergence), unit_of_divergence(divergence, scores.measure)
    label = f"{scores.dim} {first[scores.dim].values}"
    doing = f"removing {label}" if scores.dim == "datum" else label
    amount = with_error(abs(value) if sign else value, float(first["error"]))
    size = f"{amount}{f' {unit}' if unit else ''} (± standard error)"
    if not float(first["q_value"]) <= RATE:
        return f"{doing} has the largest {divergence} score, {size}, which is not told from none"
    if sign is None:
        return f"{doing} moves the {scores.measure.replace('_', ' ')} furthest, by {size}"
    return f"{doing} {sign.positive if value > 0 else sign.negative} {sign.of} most, by {size}"


def _trusted(found: Evidence) -> list[str]:
    told = [
        f"{one.passed} of {one.passed + one.failed} checks of “{one.name}” are passed."
        for one in found.verdicts
    ]
    if not told:
        told = ["No diagnostics are kept in the study, so that nothing is said of whether to trust it."]
    for one in found.agreements:
        row = one.summary.rows[0]
        told.append(
            f"Predicted and retrained {row[0].text} effects of “{one.name}” have a Spearman "
            f"correlation of {row[1].text}, averaged over queries."
        )
    if not found.agreements:
        told.append("Predictions have not been compared with retraining.")
    return told


def _figures(part: Part) -> list[Drawn]:
    """Draw the first queries of an evaluation."""
    dataset: xr.Dataset = part.dataset
    if dataset.sizes["perturbation"] > MOST_POINTS:
        return []
    divergence = str(dataset["divergence"].values[0])
    unit = unit_of_divergence(divergence, str(dataset.attrs.get("measure", "")))
    return [_figure(dataset, part.name, query, divergence, unit) for query in _first(dataset)]


def _first(dataset: xr.Dataset) -> list[Any]:
    known = np.isfinite(dataset["spearman"].values[0])
    return dataset["query"].values[known][:MOST_FIGURES].tolist()


def _figure(dataset: xr.Dataset, name: str, query: Any, divergence: str, unit: str) -> Drawn:
    return Drawn(
        figures.agreement(dataset, query, divergence, unit),
        f"Query {query}",
        f"Retrained against predicted {divergence} effects on query {query} in {name}, a point a "
        "perturbation with standard errors; where points follow the diagonal, predictions are right.",
    )
