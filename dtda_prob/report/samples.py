"""The distributions of measurements: sample sets side by side, query by query."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from dtda_prob.divergences import estimate
from dtda_prob.report.directions import unit_of
from dtda_prob.report.numbers import NONE, beside_error, brief, count, exponent_of, scaled_unit
from dtda_prob.report.study import Part
from dtda_prob.report.tables import Table

LEAST_DRAWS = 3
W2_NOTE = (
    "± standard error; an unbiased estimate, which scatters about zero, and may be negative, where "
    "nothing moved"
)
MISSING = np.nan, NONE

Draws = Float[np.ndarray, "draw query"]


class SampleSet(NamedTuple):
    """The draws of some queries in one sample set.

    Attributes:
        name: of the sample set.
        transform: what drew it.
        values: measured values, one number a draw and query.
        keys: the key of each draw.
        num_states: draws of one chain, which are adjacent.
        is_whole: whether all examples have weight 1.
    """

    name: str
    transform: str
    values: Draws
    keys: np.ndarray
    num_states: int
    is_whole: bool

    def finite(self, position: int) -> np.ndarray:
        """Return the finite draws of a query."""
        values = self.values[:, position]
        return values[np.isfinite(values)]


def is_drawn(part: Part) -> bool:
    """Return whether a sample set can be drawn over others: it has draws, of one dataset."""
    measured = part.measured
    return measured is not None and "perturbation" not in measured.dims and bool(measured.size)


def read(part: Part, queries: Sequence[int], output: int) -> SampleSet:
    """Read the draws of some queries; of vectors, one component."""
    measured = part.measured
    assert measured is not None
    chosen = measured.isel(query=list(queries), output=output, missing_dims="ignore")
    by_chain = part.about.get("num_chains") == "runs"
    along = ("chain", "draw") if by_chain else ("draw", "chain")
    keys = part.tree["sample_stats"].to_dataset()["key"].transpose(*along, "word").values
    weights = part.tree["constant_data"].to_dataset()["weights"].values
    return SampleSet(
        part.name,
        str(part.about.get("transform", "")),
        chosen.transpose(*along, "query").values.astype(float).reshape(-1, len(queries)),
        keys.reshape(-1, keys.shape[-1]),
        measured.sizes["draw"] if by_chain else 1,
        bool((weights == 1).all()),
    )


def num_outputs(part: Part) -> int:
    """Return the number of components of each measured value."""
    return 1 if part.measured is None else part.measured.sizes.get("output", 1)


def reference_of(sets: Sequence[SampleSet]) -> SampleSet:
    """Return what others are compared with: training on all data, if it is there."""
    whole = [one for one in sets if one.is_whole and one.transform == "training"]
    return (whole or [*sets])[0]


def compared(sets: Sequence[SampleSet], measure: str, position: int, caption: str) -> Table:
    """Return mean and spread of each sample set at a query, and its distance from the reference."""
    reference = reference_of(sets)
    exponent = exponent_of([_mean(reference.finite(position)[:, None]).item()])
    said = scaled_unit(exponent, unit_of(measure))
    said = f" ({said})" if said else ""
    mean, sd, shift = f"Mean{said}", f"Standard deviation{said}", f"Mean less {reference.name}{said}"
    distance, null = f"W₂ to {reference.name}{said}", f"Null level of W₂{said}"
    rows = {}
    for one in sets:
        values, scale = one.finite(position), 10.0**exponent
        lost = len(one.values) - len(values)
        left_out = f" ({count(lost, 'is', 'are')} not finite)" if lost else ""
        moved = _moved(one, reference, position, scale) if one is not reference else [MISSING] * 3
        rows[one.name] = {
            "Sample set": (one.name, one.name),
            "Draws": (len(values), f"{len(values):,}{left_out}"),
            mean: _estimated(_mean, values, one.num_states, scale),
            sd: _estimated(_sd, values, one.num_states, scale),
            **dict(zip((shift, distance, null), moved, strict=True)),
        }
    if len(sets) == 1:
        rows = {name: dict(list(row.items())[:4]) for name, row in rows.items()}
    cells = pd.DataFrame(list(rows.values()))
    notes = {
        "Draws": "draws that are finite",
        mean: "± standard error",
        sd: "± standard error, by the jackknife",
        shift: "± standard error",
        distance: W2_NOTE,
        null: "95 % of estimates are below this if nothing moved",
    }
    frame, shown = (cells.map(lambda cell, i=i: cell[i]) for i in range(2))
    notes = {name: note for name, note in notes.items() if name in frame}
    return Table(caption, frame, {str(name): column.tolist() for name, column in shown.items()}, notes)


def _moved(one: SampleSet, reference: SampleSet, position: int, scale: float) -> list[tuple]:
    """Return shift of the mean, W2 and its null level, as values and text."""
    old, new = (each.values[:, [position]] for each in (reference, one))
    enough = min(len(old), len(new)) >= LEAST_DRAWS and one.num_states == reference.num_states
    if not enough or not (np.isfinite(old).all() and np.isfinite(new).all()):
        return [MISSING] * 3
    coupled = np.array_equal(one.keys, reference.keys)
    options: dict[str, Any] = {"coupled": coupled, "num_states": one.num_states}
    shift = new.mean() - old.mean(), estimate("mean", old, new, **options).error[0]
    distance = estimate("wasserstein", old, new, **options)
    return [
        _number(*map(float, shift), scale),
        _number(float(distance.value[0]), float(distance.error[0]), scale),
        _number(float(distance.null[0]), np.nan, scale),
    ]


def _number(value: float, error: float, scale: float) -> tuple[float, str]:
    known = np.isfinite(error)
    return value, beside_error(value / scale, error / scale) if known else brief(value / scale)


def _estimated(
    statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray, num_states: int, scale: float
) -> tuple[float, str]:
    """Return a statistic with its standard error by the jackknife over chains."""
    chains = values.reshape(-1, num_states) if len(values) % num_states == 0 else values[:, None]
    number = len(chains)
    if number < 2:
        return MISSING
    rest = np.stack([np.delete(chains, i, axis=0).ravel() for i in range(number)], axis=1)
    replicates = statistic(rest)
    error = np.sqrt((number - 1) / number * ((replicates - replicates.mean()) ** 2).sum())
    return _number(statistic(values[:, None]).item(), float(error), scale)


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(0) if len(values) else np.full(values.shape[1], np.nan)


def _sd(values: np.ndarray) -> np.ndarray:
    return values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
