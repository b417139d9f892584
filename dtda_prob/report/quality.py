"""Whether the predictions can be trusted: saved diagnostics, and comparisons with retraining."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from dtda_prob.report import figures
from dtda_prob.report.directions import meaning_of
from dtda_prob.report.looks import texts
from dtda_prob.report.numbers import count, fixed, with_error
from dtda_prob.report.study import Part, Study
from dtda_prob.report.tables import MOST_ROWS, Table, bars, told

LEVEL = 0.9
MOST_FIGURES, MOST_POINTS = 4, 2000
FIGURE = (
    "Retrained against predicted {} effects on query {} in {}: one point per perturbation, with "
    "standard errors. Predictions are right where points are on the diagonal."
)


class Verdict(NamedTuple):
    """Saved diagnostics: a row per check, the number that passed, and the text as paragraphs."""

    name: str
    table: Table
    passed: int
    total: int
    text: list[tuple[str, list[str]]]


class Drawn(NamedTuple):
    """A figure with its title and description."""

    item: figures.Item
    title: str
    described: str


class Agreement(NamedTuple):
    """A saved comparison with retraining: tables over all queries and by query, and figures."""

    name: str
    summary: Table
    queries: Table
    text: str
    figures: list[Drawn]


class Evidence(NamedTuple):
    """What supports the predictions, and what speaks against them."""

    verdicts: list[Verdict]
    agreements: list[Agreement]


def evidence(study: Study, most: int) -> Evidence:
    """Read the diagnostics and comparisons that were saved."""
    kept = [part for part in study.of_kind("agreement") if "lds" in part.dataset]
    return Evidence(
        [verdict_of(part) for part in study.of_kind("verdict")],
        [agreement_of(part, most) for part in kept if "draws" not in part.dataset.dims],
    )


def verdict_of(part: Part) -> Verdict:
    """Read diagnostics."""
    dataset = part.dataset.load()
    passed = dataset["passed"].values.astype(bool)
    value, error = (dataset[name].values.astype(float) for name in ("value", "error"))
    frame = pd.DataFrame(
        {
            "Check": texts(dataset["check"]),
            "Value": value,
            "Threshold": texts(dataset["threshold"]),
            "Verdict": np.where(passed, "passed", "not passed"),
        }
    )
    shown = {
        "Value": list(map(with_error, value, error)),
        "Verdict": [told(good, "passed", "not passed") for good in passed],
    }
    notes = {"Value": "± standard error, or spread over queries or perturbations"}
    text = _paragraphs(str(dataset.attrs.get("text", "")))
    table = Table("All checks", frame, shown, notes)
    return Verdict(part.name, table, int(passed.sum()), len(passed), text)


def agreement_of(part: Part, most: int) -> Agreement:
    """Read a comparison with retraining."""
    dataset, attrs = part.dataset, part.dataset.attrs
    text = (
        f"{attrs.get('transform', 'The prediction')} with {count(int(attrs.get('draws', 0)), 'draw')} "
        f"compared with {count(int(attrs.get('retrainings', 0)), 'retraining')} with other seeds, over "
        f"{count(dataset.sizes['perturbation'], 'perturbation')}. A correlation of 1 means that "
        "perturbations are ranked as by retraining."
    )
    drawn = list(_figures(dataset, part.name))
    return Agreement(part.name, _summary(dataset), _by_query(dataset, most), text, drawn)


def _summary(dataset: xr.Dataset) -> Table:
    level = f"{float(dataset.attrs.get('level', LEVEL)):.0%} interval"
    fields = [f"lds{end}" for end in ("", "_error", "_lower", "_upper")]
    fields += ["lds_disattenuated", "lds_disattenuated_error", "lds_reliability", "num_queries"]
    columns = [np.atleast_1d(dataset[name].values).astype(float) for name in fields]
    lds, error, lower, upper, free, free_error, reliable, number = columns
    corrected = "Corrected for noise in the truth"
    frame = pd.DataFrame(
        {
            "Divergence": texts(dataset["divergence"]),
            "Spearman correlation": lds,
            "Drawn": lds,
            level: lower,
            corrected: free,
            "Reliability of the truth": reliable,
            "Queries": number.astype(int),
        }
    )
    shown = {
        "Spearman correlation": list(map(with_error, lds, error)),
        "Drawn": bars(lds, error, lower, upper),
        level: [f"{fixed(a, 2)} to {fixed(b, 2)}" for a, b in zip(lower, upper, strict=True)],
        corrected: list(map(with_error, free, free_error)),
        "Reliability of the truth": [fixed(x, 3) for x in reliable],
    }
    notes = {
        "Spearman correlation": "mean over queries ± standard error; for random subsets this is the "
        "linear datamodelling score",
        "Drawn": f"mark: mean; thick: ± standard error; thin: {level}",
        corrected: "± standard error: divided by the square root of the reliability",
        "Reliability of the truth": "correlation between two such sets of retrainings",
    }
    return Table("Agreement with retraining, over all queries", frame, shown, notes)


def _by_query(dataset: xr.Dataset, most: int) -> Table:
    chosen = dataset[["spearman", "reliability"]].isel(query=slice(most))
    flat = chosen.to_dataframe(dim_order=["divergence", "query"]).reset_index()
    lower, upper = _interval(flat["spearman"].to_numpy(float), dataset.sizes["perturbation"])
    level = f"{LEVEL:.0%} interval"
    frame = pd.DataFrame(
        {
            "Query": list(map(str, flat["query"])),
            "Divergence": list(map(str, flat["divergence"])),
            "Spearman correlation": flat["spearman"],
            level: lower,
            "Reliability of the truth": flat["reliability"],
        }
    )
    shown = {
        "Spearman correlation": [fixed(x, 2) for x in flat["spearman"]],
        level: [f"{fixed(a, 2)} to {fixed(b, 2)}" for a, b in zip(lower, upper, strict=True)],
        "Reliability of the truth": [fixed(x, 2) for x in flat["reliability"]],
    }
    notes = {level: "over perturbations, by Fisher's transformation (Bonett and Wright, 2000)"}
    left = dataset.sizes["query"] - chosen.sizes["query"]
    note = f"{count(left, 'more query is', 'more queries are')} not shown." if left else ""
    return Table("Agreement with retraining, query by query", frame, shown, notes, note)


def _interval(correlation: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of Spearman correlations over so many perturbations."""
    if number < 4:
        return np.full_like(correlation, np.nan), np.full_like(correlation, np.nan)
    center = np.arctanh(np.clip(correlation, -1 + 1e-9, 1 - 1e-9))
    reach = scipy.stats.norm.ppf((1 + LEVEL) / 2)
    reach = reach * np.sqrt((1 + correlation**2 / 2) / (number - 3))
    return np.tanh(center - reach), np.tanh(center + reach)


def _figures(dataset: xr.Dataset, name: str) -> Any:
    """Draw the first queries of a comparison."""
    if dataset.sizes["perturbation"] > MOST_POINTS:
        return
    divergence = texts(dataset["divergence"])[0]
    unit = meaning_of(dataset.attrs, divergence, str(dataset.attrs.get("measure", ""))).unit
    known = np.isfinite(dataset["spearman"].values[0])
    for query in dataset["query"].values[known][:MOST_FIGURES].tolist():
        item = figures.agreement(dataset, query, divergence, unit)
        yield Drawn(item, f"Query {query}", FIGURE.format(divergence, query, name))


def _paragraphs(text: str) -> list[tuple[str, list[str]]]:
    """Split text into headings, each with the items below it."""
    parts: list[tuple[str, list[str]]] = []
    for line in text.splitlines()[:MOST_ROWS]:
        if line.startswith("- "):
            parts = parts or [("", [])]
            parts[-1][1].append(line[2:])
        elif line.startswith("  ") and parts and parts[-1][1]:
            parts[-1][1][-1] += f" {line.strip()}"
        elif line.strip():
            parts.append((line.strip(), []))
    return parts
