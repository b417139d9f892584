"""The distributions of measurements: sample sets side by side, query by query."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.divergences import estimate
from dtda_prob.report.parts import Part
from dtda_prob.report.tables import Cell, Column, Table
from dtda_prob.report.words import beside_error, brief, count, exponent_of, scaled_unit, unit_of

MOST_SETS = 8
"""Sample sets that are drawn over each other."""
LEAST_DRAWS = 3

Draws = Float[np.ndarray, "draw query"]


class SampleSet(NamedTuple):
    """The draws of some queries in one sample set.

    Attributes:
        name: of the sample set.
        transform: what drew it.
        values: measured values, one number a draw and query.
        keys: the key of each draw.
        num_states: draws of one run, which stand together.
        is_whole: whether all data weigh what they weigh as they are.
    """

    name: str
    transform: str
    values: Draws
    keys: np.ndarray
    num_states: int
    is_whole: bool


class Asked(NamedTuple):
    """What sample sets or scores measure.

    Attributes:
        measure: its name.
        queries: their labels, as text.
    """

    measure: str
    queries: tuple[str, ...]


def asked_of(part: Part) -> Asked | None:
    """Say what a sample set or scores measure; None where nothing is there yet."""
    labels = _labelled(part)
    if labels is None or not labels.size:
        return None
    measure = part.about.get("measure") or {"name": ""}
    return Asked(str(measure["name"]), tuple(map(str, labels.values.tolist())))


def is_drawn(part: Part) -> bool:
    """Say whether a sample set can be drawn over others: of one dataset, and with draws."""
    measured = _measured(part)
    return measured is not None and "perturbation" not in measured.dims and bool(measured.size)


def read(part: Part, queries: Sequence[int], output: int) -> SampleSet:
    """Read the draws of some queries; of vectors, one component."""
    measured = _measured(part)
    assert measured is not None
    chosen = measured.isel(query=list(queries), output=output, missing_dims="ignore")
    runs = part.about.get("num_chains") == "runs"
    along = ("chain", "draw") if runs else ("draw", "chain")
    values = chosen.transpose(*along, "query").values.astype(float)
    stats = part.tree.children["sample_stats"].to_dataset()
    keys = stats["key"].transpose(*along, "word").values
    weights = part.tree.children["constant_data"].to_dataset()["weights"].values
    return SampleSet(
        part.name,
        str(part.about.get("transform", "")),
        values.reshape(-1, len(queries)),
        keys.reshape(-1, keys.shape[-1]),
        measured.sizes["draw"] if runs else 1,
        bool((weights == 1).all()),
    )


def num_outputs(part: Part) -> int:
    """Count the components of each measured value."""
    measured = _measured(part)
    return 1 if measured is None else measured.sizes.get("output", 1)


def reference_of(sets: Sequence[SampleSet]) -> SampleSet:
    """Choose what others are compared with: training on all data, if it is there."""
    first = [one for one in sets if one.is_whole and one.transform == "training"]
    return (first or [*sets])[0]


def compared(sets: Sequence[SampleSet], measure: str, position: int, caption: str) -> Table:
    """Give mean and spread of each sample set at a query, and how far each is from the reference."""
    reference, unit = reference_of(sets), unit_of(measure)
    exponent = exponent_of([_mean(_finite(reference, position)[:, None]).item()])
    said = scaled_unit(exponent, unit)
    columns = [
        Column("Sample set", kind="text"),
        Column("Draws", note="draws that are finite"),
        Column("Mean", said, note="± standard error"),
        Column("Standard deviation", said, note="± standard error, by the jackknife"),
        Column(f"Mean less that of {reference.name}", said, note="± standard error"),
        Column(
            f"W₂ to {reference.name}",
            said,
            note="± standard error; estimated without bias, so that it scatters about zero, and may be "
            "negative, where nothing moved",
        ),
        Column("Null level of W₂", said, note="19 times in 20 it stays below this if nothing moved"),
    ]
    rows = [_row(one, reference, position, 10.0**exponent) for one in sets]
    return Table(caption, columns, rows)


def _row(one: SampleSet, reference: SampleSet, position: int, scale: float) -> list[Cell]:
    values = _finite(one, position)
    lost = len(one.values) - len(values)
    left_out = f" ({count(lost, 'is', 'are')} not finite)" if lost else ""
    return [
        Cell(one.name),
        Cell(f"{len(values)}{left_out}", len(values)),
        *(_estimated(statistic, values, one.num_states, scale) for statistic in (_mean, _sd)),
        *([Cell("–", np.inf)] * 3 if one is reference else _moved(one, reference, position, scale)),
    ]


def _moved(one: SampleSet, reference: SampleSet, position: int, scale: float) -> list[Cell]:
    old, new = (each.values[:, [position]] for each in (reference, one))
    coupled = np.array_equal(one.keys, reference.keys)
    enough = min(len(old), len(new)) >= LEAST_DRAWS and one.num_states == reference.num_states
    if not enough or not (np.isfinite(old).all() and np.isfinite(new).all()):
        return [Cell("–", np.inf)] * 3
    options: dict[str, Any] = {"coupled": coupled, "num_states": one.num_states}
    shift = estimate("mean", old, new, **options)
    distance = estimate("wasserstein", old, new, **options)
    return [
        _number(-float(shift.value[0]), float(shift.error[0]), scale),
        _number(float(distance.value[0]), float(distance.error[0]), scale),
        _number(float(distance.null[0]), np.nan, scale),
    ]


def _number(value: float, error: float, scale: float) -> Cell:
    known = np.isfinite(error)
    text = beside_error(value / scale, error / scale) if known else brief(value / scale)
    return Cell(text, value)


def _estimated(
    statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray, num_states: int, scale: float
) -> Cell:
    """Give a statistic with the error of the jackknife over runs."""
    runs = values.reshape(-1, num_states) if len(values) % num_states == 0 else values[:, None]
    if len(runs) < 2:
        return Cell("–", np.inf)
    number = len(runs)
    rest = np.stack([np.delete(runs, i, axis=0).ravel() for i in range(number)], axis=1)
    replicates = statistic(rest)
    error = np.sqrt((number - 1) / number * ((replicates - replicates.mean()) ** 2).sum())
    return _number(statistic(values[:, None]).item(), float(error), scale)


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(0) if len(values) else np.full(values.shape[1], np.nan)


def _sd(values: np.ndarray) -> np.ndarray:
    return values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)


def _finite(one: SampleSet, position: int) -> np.ndarray:
    values = one.values[:, position]
    return values[np.isfinite(values)]


def _measured(part: Part) -> xr.DataArray | None:
    if part.kind != "sample set" or "posterior_predictive" not in part.tree.children:
        return None
    return next(iter(part.tree.children["posterior_predictive"].to_dataset().data_vars.values()), None)


def _labelled(part: Part) -> xr.DataArray | None:
    source = part.dataset if part.kind == "scores" else _measured(part)
    return source["query"] if source is not None and "query" in source.coords else None
