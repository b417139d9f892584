"""Whether the predictions can be trusted: saved diagnostics, and comparisons with retraining."""

from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob.numerals import count, fixed, with_error
from dtda_prob.report import figures
from dtda_prob.report.study import Part, Study, meaning_of, texts
from dtda_prob.report.tables import MOST_ROWS, Column, Table, bars, marked

LEVEL = 0.9
MOST_FIGURES, MOST_POINTS = 4, 2000
MEAN_CORRELATION = (
    "mean over queries ± standard error; for random subsets this is the linear datamodelling score"
)
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


class Agreement(NamedTuple):
    """A saved comparison with retraining: tables over all queries and by query, titles and figures."""

    name: str
    summary: Table
    queries: Table
    text: str
    figures: list[tuple[str, figures.Figure]]


def agreements_of(study: Study, most: int) -> list[Agreement]:
    """Read the comparisons with retraining that were saved."""
    kept = [part for part in study.of_kind("agreement") if "lds" in part.dataset]
    return [_agreement(part, most) for part in kept if "draws" not in part.dataset.dims]


def verdict_of(part: Part) -> Verdict:
    """Read diagnostics that were saved."""
    dataset = part.dataset.load()
    passed = dataset["passed"].values.astype(bool)
    value, error = (dataset[name].values.astype(float) for name in ("value", "error"))
    verdicts = ["passed" if good else "not passed" for good in passed]
    note = "± standard error, or spread over queries or perturbations"
    columns = {
        "Check": Column(texts(dataset["check"])),
        "Value": Column(value, list(map(with_error, value, error)), note),
        "Threshold": Column(texts(dataset["threshold"])),
        "Verdict": Column(verdicts, list(map(marked, passed, verdicts))),
    }
    text = _paragraphs(str(dataset.attrs.get("text", "")))
    return Verdict(part.name, Table("All checks", columns), int(passed.sum()), len(passed), text)


def _agreement(part: Part, most: int) -> Agreement:
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
    columns = {
        "Divergence": Column(texts(dataset["divergence"])),
        **_correlations(dataset),
        **_noise(dataset),
        "Queries": Column(_read(dataset, "num_queries").astype(int)),
    }
    return Table("Agreement with retraining, over all queries", columns)


def _correlations(dataset: xr.Dataset) -> dict[str, Column]:
    """Return the mean correlation over queries, with its error and interval."""
    lds, error, lower, upper = (
        _read(dataset, f"lds{end}") for end in ("", "_error", "_lower", "_upper")
    )
    level = f"{float(dataset.attrs.get('level', LEVEL)):.0%} interval"
    drawn = f"mark: mean; thick: ± standard error; thin: {level}"
    return {
        "Spearman correlation": Column(lds, list(map(with_error, lds, error)), MEAN_CORRELATION),
        "Drawn": Column(lds, bars(lds, error, lower, upper), drawn),
        level: Column(lower, _ranges(lower, upper)),
    }


def _noise(dataset: xr.Dataset) -> dict[str, Column]:
    """Return how reliable the truth is, and the correlation without its noise."""
    free, error = (_read(dataset, f"lds_disattenuated{end}") for end in ("", "_error"))
    reliability = _read(dataset, "lds_reliability")
    corrected = "± standard error: divided by the square root of the reliability"
    alike = "correlation between two such sets of retrainings"
    return {
        "Corrected for noise in the truth": Column(free, list(map(with_error, free, error)), corrected),
        "Reliability of the truth": Column(reliability, [fixed(x, 3) for x in reliability], alike),
    }


def _read(dataset: xr.Dataset, name: str) -> np.ndarray:
    return np.atleast_1d(dataset[name].values).astype(float)


def _by_query(dataset: xr.Dataset, most: int) -> Table:
    chosen = dataset[["spearman", "reliability"]].isel(query=slice(most))
    flat = chosen.to_dataframe(dim_order=["divergence", "query"]).reset_index()
    spearman, reliable = (flat[name].to_numpy(float) for name in ("spearman", "reliability"))
    lower, upper = _interval(spearman, dataset.sizes["perturbation"])
    note = "over perturbations, by Fisher's transformation (Bonett and Wright, 2000)"
    columns = {
        "Query": Column(list(map(str, flat["query"]))),
        "Divergence": Column(list(map(str, flat["divergence"]))),
        "Spearman correlation": Column(spearman, [fixed(x, 2) for x in spearman]),
        f"{LEVEL:.0%} interval": Column(lower, _ranges(lower, upper), note),
        "Reliability of the truth": Column(reliable, [fixed(x, 2) for x in reliable]),
    }
    left = dataset.sizes["query"] - chosen.sizes["query"]
    note = f"{count(left, 'more query is', 'more queries are')} not shown." if left else ""
    return Table("Agreement with retraining, query by query", columns, note)


def _ranges(lower: np.ndarray, upper: np.ndarray) -> list[str]:
    return [f"{fixed(a, 2)} to {fixed(b, 2)}" for a, b in zip(lower, upper, strict=True)]


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
        said = FIGURE.format(divergence, query, name)
        yield f"Query {query}", figures.agreement(dataset, query, divergence, unit, said)


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
