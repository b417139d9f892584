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
    sign_of,
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
    trained = sets[sets["transform"] == "training"]
    number = int((trained["draws"] * trained["perturbations"].clip(lower=1)).sum())
    return [
        f"{count(number, 'model')} of {plain_name(study.about['model'])} "
        f"{'was' if number == 1 else 'were'} trained, on "
        f"{count(study.about['rows']['num_data'], 'datum', 'data')} as they are or with some changed."
    ]


def _leading(scores: Scores) -> str:
    """Name what moves the first query most, with its error."""
    divergence, query = scores.divergences[0], scores.dataset["query"].values[0]
    one = scores.dataset.isel(query=0, divergence=0)[["score", "error", "rank", "q_value"]].load()
    told = int((one["q_value"] <= RATE).sum())
    first = one.isel({scores.dim: int(np.argmin(one["rank"].values))})
    value, error = float(first["score"]), float(first["error"])
    sign, unit = sign_of(divergence, scores.measure), unit_of_divergence(divergence, scores.measure)
    what = scores.measure.replace("_", " ")
    label = f"{scores.dim} {first[scores.dim].values}"
    amount = f"{with_error(abs(value) if sign else value, error)}{f' {unit}' if unit else ''}"
    doing = f"removing {label}" if scores.dim == "datum" else label
    if sign:
        word = sign.positive if value > 0 else sign.negative
        moves = f"{doing} {word} {sign.of} most, by {amount}"
    else:
        moves = f"{doing} moves the {what} furthest, by a {divergence} distance of {amount}"
    number = scores.labels.size
    return (
        f"Of query {query}, {moves} (standard error). {told:,} of {number:,} are told from "
        f"none at a false discovery rate of {RATE:.0%}."
    )


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
