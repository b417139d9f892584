"""Whether it can be trusted: the verdict of diagnostics, and predictions against retraining."""

from typing import NamedTuple

import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob.report.parts import Part
from dtda_prob.report.tables import Cell, Column, Table, bars
from dtda_prob.report.words import brief, count, fixed, with_error

LEVEL = 0.9


class Verdict(NamedTuple):
    """What diagnostics say.

    Attributes:
        name: of the part.
        table: a row a check.
        passed: how many passed.
        failed: how many did not.
        text: the same in words, line by line.
    """

    name: str
    table: Table
    passed: int
    failed: int
    text: list[tuple[str, list[str]]]


class Agreement(NamedTuple):
    """How well predictions agree with retraining.

    Attributes:
        name: of the part.
        summary: a row a divergence, over all queries.
        queries: a row a query and divergence.
        text: what was compared with what.
    """

    name: str
    summary: Table
    queries: Table
    text: str


def verdict_of(part: Part) -> Verdict:
    """Read a verdict that was saved."""
    dataset = part.dataset
    columns = [
        Column("Check", kind="text"),
        Column("Found", note="± its standard error, or its spread over queries or perturbations"),
        Column("Wanted", kind="text"),
        Column("Verdict", kind="text"),
    ]
    passed = dataset["passed"].values.astype(bool)
    named = zip(
        dataset["check"].values.tolist(),
        dataset["value"].values.astype(float),
        dataset["error"].values.astype(float),
        dataset["threshold"].values.tolist(),
        passed,
        strict=True,
    )
    rows = [
        [
            Cell(str(name)),
            Cell(with_error(value, error) if np.isfinite(error) else brief(value), value),
            Cell(str(threshold)),
            Cell("passed", tone="good") if good else Cell("not passed", tone="bad"),
        ]
        for name, value, error, threshold, good in named
    ]
    table = Table("What was checked", columns, rows, len(rows) > 8)
    text = _paragraphs(str(dataset.attrs.get("text", "")))
    return Verdict(part.name, table, int(passed.sum()), int((~passed).sum()), text)


def agreement_of(part: Part, most: int) -> Agreement | None:
    """Read an evaluation that was saved; None where it holds no agreement."""
    dataset = part.dataset
    if "lds" not in dataset or "draws" in dataset.dims:
        return None
    attrs, number = dataset.attrs, dataset.sizes["perturbation"]
    text = (
        f"{attrs.get('transform', 'The prediction')} with {count(int(attrs.get('draws', 0)), 'draw')} "
        f"against {count(int(attrs.get('retrainings', 0)), 'retraining')} with other seeds, over "
        f"{count(number, 'perturbation')}. A correlation of 1 ranks perturbations as retraining does."
    )
    return Agreement(part.name, _summary(dataset), _by_query(dataset, most), text)


def _summary(dataset: xr.Dataset) -> Table:
    level = float(dataset.attrs.get("level", LEVEL))
    columns = [
        Column("Divergence", kind="text"),
        Column(
            "Spearman correlation",
            note="mean over queries ± standard error; for random subsets this "
            "is the linear datamodelling score",
        ),
        Column("Drawn", "", "bar", f"mark: mean; thick: ± standard error; thin: {level:.0%} interval"),
        Column(f"{level:.0%} interval"),
        Column(
            "Free of noise in the truth",
            note="± standard error: divided by the root of the reliability",
        ),
        Column(
            "Reliability of the truth",
            note="correlation between two such sets of retrainings; no error is estimated of it",
        ),
        Column("Queries"),
    ]
    value = {
        name: np.atleast_1d(dataset[name].values).astype(float)
        for name in (
            "lds",
            "lds_error",
            "lds_lower",
            "lds_upper",
            "lds_disattenuated",
            "lds_disattenuated_error",
            "lds_reliability",
            "num_queries",
        )
    }
    drawn = bars(*(value[name] for name in ("lds", "lds_error", "lds_lower", "lds_upper")))
    rows = [
        [
            Cell(str(name)),
            Cell(with_error(value["lds"][i], value["lds_error"][i]), value["lds"][i]),
            Cell(fixed(value["lds"][i], 2), value["lds"][i], bar=drawn[i]),
            Cell(
                f"{fixed(value['lds_lower'][i], 2)} to {fixed(value['lds_upper'][i], 2)}",
                value["lds_lower"][i],
            ),
            Cell(
                with_error(value["lds_disattenuated"][i], value["lds_disattenuated_error"][i]),
                value["lds_disattenuated"][i],
            ),
            Cell(fixed(value["lds_reliability"][i], 3), value["lds_reliability"][i]),
            Cell(f"{value['num_queries'][i]:.0f}", value["num_queries"][i]),
        ]
        for i, name in enumerate(np.atleast_1d(dataset["divergence"].values).tolist())
    ]
    return Table("Agreement with retraining, over all queries", columns, rows)


def _by_query(dataset: xr.Dataset, most: int) -> Table:
    number, queries = dataset.sizes["perturbation"], dataset["query"].values[:most].tolist()
    columns = [
        Column("Query", kind="text", order="ascending"),
        Column("Divergence", kind="text"),
        Column("Spearman correlation"),
        Column(
            f"{LEVEL:.0%} interval",
            note="over perturbations, by Fisher's transformation (Bonett and Wright, 2000)",
        ),
        Column("Reliability of the truth"),
    ]
    rows = []
    for j, divergence in enumerate(dataset["divergence"].values.tolist()):
        for i, query in enumerate(queries):
            r, reliable = (float(dataset[name].values[j, i]) for name in ("spearman", "reliability"))
            low, high = _interval(r, number)
            rows.append(
                [
                    Cell(str(query)),
                    Cell(str(divergence)),
                    Cell(fixed(r, 2), r),
                    Cell(f"{fixed(low, 2)} to {fixed(high, 2)}", low),
                    Cell(fixed(reliable, 2), reliable),
                ]
            )
    left_out = dataset.sizes["query"] - len(queries)
    note = f"{count(left_out, 'further query', 'further queries')} not shown." if left_out else ""
    return Table("Agreement with retraining, query by query", columns, rows, len(rows) > 8, note)


def _interval(correlation: float, number: int) -> tuple[float, float]:
    """Give the interval of a Spearman correlation."""
    if number < 4 or not np.isfinite(correlation):
        return np.nan, np.nan
    center = np.arctanh(np.clip(correlation, -1 + 1e-9, 1 - 1e-9))
    error = np.sqrt((1 + correlation**2 / 2) / (number - 3))
    reach = scipy.stats.norm.ppf((1 + LEVEL) / 2) * error
    return float(np.tanh(center - reach)), float(np.tanh(center + reach))


def _paragraphs(text: str) -> list[tuple[str, list[str]]]:
    """Take words apart: headings, each with the items that stand below it."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("- "):
            found = found or [("", [])]
            found[-1][1].append(line[2:])
        elif line.startswith("  ") and found and found[-1][1]:
            found[-1][1][-1] += f" {line.strip()}"
        elif line.strip():
            found.append((line.strip(), []))
    return found
