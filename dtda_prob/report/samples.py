"""The distributions of measurements: sample sets side by side, query by query."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dtda_prob.divergences import estimate
from dtda_prob.numerals import NONE, beside_error, brief, count, exponent_of, scaled_unit
from dtda_prob.report.study import Part, unit_of
from dtda_prob.report.tables import Column, Table

LEAST_DRAWS = 3
W2_NOTE = (
    "± standard error; an unbiased estimate, which scatters about zero, and may be negative, where "
    "nothing moved"
)
MISSING = np.nan, NONE

Draws = Float[np.ndarray, "draw query"]
Cell = tuple[float, str]
"""A value and its text."""


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
    said, scale = scaled_unit(exponent, unit_of(measure)), 10.0**exponent
    unit = f" ({said})" if said else ""
    heads = {
        "Draws": "draws that are finite",
        f"Mean{unit}": "± standard error",
        f"Standard deviation{unit}": "± standard error, by the jackknife",
        f"Mean less {reference.name}{unit}": "± standard error",
        f"W₂ to {reference.name}{unit}": W2_NOTE,
        f"Null level of W₂{unit}": "95 % of estimates are below this if nothing moved",
    }
    rows = [_row(one, reference, position, scale) for one in sets]
    columns = {"Sample set": Column([one.name for one in sets])}
    for (name, note), cells in zip(heads.items(), zip(*rows, strict=True), strict=False):
        values, shown = zip(*cells, strict=True)
        columns[name] = Column(values, shown, note)
    return Table(caption, columns if len(sets) > 1 else dict(list(columns.items())[:4]))


def _row(one: SampleSet, reference: SampleSet, position: int, scale: float) -> list[Cell]:
    """Return draws, mean and spread of a sample set, and how far it is from the reference."""
    values = one.finite(position)
    lost = len(one.values) - len(values)
    left_out = f" ({count(lost, 'is', 'are')} not finite)" if lost else ""
    return [
        (len(values), f"{len(values):,}{left_out}"),
        _estimated(_mean, values, one.num_states, scale),
        _estimated(_sd, values, one.num_states, scale),
        *([MISSING] * 3 if one is reference else _moved(one, reference, position, scale)),
    ]


def _moved(one: SampleSet, reference: SampleSet, position: int, scale: float) -> list[Cell]:
    """Return the shift of the mean, W2 and its null level."""
    old, new = (each.values[:, [position]] for each in (reference, one))
    enough = min(len(old), len(new)) >= LEAST_DRAWS and one.num_states == reference.num_states
    if not enough or not (np.isfinite(old).all() and np.isfinite(new).all()):
        return [MISSING] * 3
    coupled = np.array_equal(one.keys, reference.keys)
    options: dict[str, Any] = {"coupled": coupled, "num_states": one.num_states}
    shift = estimate("mean", old, new, **options)
    distance = estimate("wasserstein", old, new, **options)
    pairs = (shift.value, shift.error), (distance.value, distance.error), (distance.null, [np.nan])
    return [_number(float(value[0]), float(error[0]), scale) for value, error in pairs]


def _number(value: float, error: float, scale: float) -> Cell:
    known = np.isfinite(error)
    return value, beside_error(value / scale, error / scale) if known else brief(value / scale)


def _estimated(
    statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray, num_states: int, scale: float
) -> Cell:
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
