"""A sentence about each suspicious row."""

import numpy as np
import pandas as pd

from dtda_prob.numerals import count
from dtda_prob.tables import Column, Roles
from dtda_prob.tables.columns import short
from dtda_prob.tables.text import excerpt

NEAR = 0.25
"""Relative distance from a power of ten at which a decimal point may be misplaced."""
USUAL = 3.0
"""Standard deviations within which nobody asks whether a point is misplaced."""
INFLUENTIAL = 0.02
"""Standard deviations of the target, or probabilities, by which predictions move enough to say so."""
LEAST_SHOWN = 1e-3
"""Probability below which none is shown."""
NOTABLE = 1.0
"""Nats that are worth a word."""


def reason(roles: Roles, row: pd.Series, cells: pd.Series, other: int | None) -> str:
    """Return why a row is suspicious.

    Args:
        roles: the table, and what is predicted.
        row: what was found of it: `line`, `loss`, its `typical` value, `actual`, `predicted`, `spread`,
            `influence`.
        cells: by how many nats each of its cells surprises.
        other: the line of a row with the same features and another target, if any.
    """
    line = int(row["line"])
    own = row["loss"] - row["typical"]
    notable = cells[cells >= NOTABLE].sort_values(ascending=False)
    parts = [_cell(roles.table.columns[str(name)], line) for name in notable.index[:3]]
    if np.isnan(own):
        parts.append(f"{roles.target.name} is missing")
    elif own >= NOTABLE or not parts:
        first = len(parts) if parts and notable.iloc[0] > own else 0
        parts.insert(first, _judged(roles, row))
    if other is not None:
        there = roles.table.cells.loc[other, roles.target.name]
        parts.append(f"line {other} has the same features and {excerpt(str(there))}")
    if row["influence"] >= INFLUENTIAL:
        is_class, size = roles.task == "classification", f"{row['influence']:.2g}"
        moved = f"probabilities move by {size}" if is_class else f"a linear fit moves by {size} sd"
        parts.append(f"without it, {moved}")
    return "; ".join(parts)


def _judged(roles: Roles, row: pd.Series) -> str:
    name = roles.target.name
    if roles.task == "classification":
        sure = f"{row['spread']:.1%}" if row["spread"] < 0.9995 else "over 99.9%"
        if row["actual"] == row["predicted"]:
            return f"{name} is {row['actual']!r}, as predicted ({sure})"
        own = max(float(np.exp(-row["loss"])), LEAST_SHOWN)
        return (
            f"{name} is {row['actual']!r} ({'under ' * (own == LEAST_SHOWN)}{own:.1%}), where "
            f"{row['predicted']!r} is predicted ({sure})"
        )
    said = f"{name} is {short(row['actual'])}, where {_about(row)} is predicted"
    far = abs(row["actual"] - row["predicted"]) > USUAL * row["spread"]
    return said + (_misplaced(row["actual"], row["predicted"]) if far else "")


def _about(row: pd.Series) -> str:
    """Return a prediction with its standard deviation, in as many digits as that has."""
    digits = max(0, 1 - int(np.floor(np.log10(row["spread"])))) if row["spread"] > 0 else 3
    return f"{row['predicted']:,.{digits}f} ± {row['spread']:,.{digits}f}"


def _misplaced(actual: float, predicted: float) -> str:
    """Return a guess where the target is a power of ten times what is predicted."""
    ratio = actual / predicted if predicted else 0.0
    if ratio < 0 and abs(ratio + 1) < NEAR:
        return " (is the sign wrong?)"
    if ratio <= 0:
        return ""
    power = round(np.log10(ratio))
    near = abs(np.log(ratio) - power * np.log(10)) < NEAR
    return " (is the decimal point misplaced?)" if power and near else ""


def _cell(column: Column, line: int) -> str:
    if line in column.odd:
        return f"{column.name} is {excerpt(column.odd[line])}, which is no number"
    others = column.values.drop(line)
    low, high = short(others.min()), short(others.max())
    value = column.values[line]
    if others.min() <= value <= others.max():
        beyond = (np.abs(others - others.median()) >= abs(value - others.median())).sum()
        return f"{column.name} is {short(value)}, as far out as {count(int(beyond), 'other row')}"
    return f"{column.name} is {short(value)}, where all others are from {low} to {high}"
