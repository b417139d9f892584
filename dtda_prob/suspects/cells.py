"""Cells that are suspicious by themselves, and rows that contradict each other."""

import numpy as np
import pandas as pd

from dtda_prob.suspects.features import centre_and_spread
from dtda_prob.tables import Column, Roles, Table

USUAL = 3.0
"""Standard deviations within which no number surprises."""
BEYOND = 3.0
"""Times that distance from which on a number surprises."""
LEAST_SPARED, SHARE_SPARED = 5, 0.01
"""Numbers of a column, or share of them, that may be errors and do not say what is usual."""


def surprises(table: Table, target: str) -> pd.DataFrame:
    """Return by how many nats each cell surprises, by line and column.

    A number surprises by the log density of a Cauchy distribution about the median, less the density
    three times as far out as the most distant numbers but a few; a text among numbers by twice the log
    of how rare that is. The distance of the target is judged by models, and is not judged here.
    """
    found = {
        column.name: _far(column) * (column.name != target) + _odd(column)
        for column in table.columns.values()
        if column.kind in ("number", "date")
    }
    return pd.DataFrame(found, index=table.cells.index)


def _far(column: Column) -> pd.Series:
    values = column.values.to_numpy(float)
    known = np.isfinite(values)
    centre, spread = centre_and_spread(values)
    distance = np.where(known, np.abs(values - centre) / spread, 0.0)
    spared = max(LEAST_SPARED, int(SHARE_SPARED * known.sum()))
    usual = np.sort(distance[known])[::-1][min(spared, known.sum() // 2)]
    nats = np.log1p(distance**2) - np.log1p((BEYOND * max(usual, USUAL)) ** 2)
    return pd.Series(np.maximum(nats, 0.0), column.values.index)


def _odd(column: Column) -> pd.Series:
    """Return the surprise of cells that are no number."""
    nats = pd.Series(0.0, column.values.index)
    if column.odd:
        nats.loc[list(column.odd)] = 2 * np.log(len(nats) / len(column.odd))
    return nats


def contradictions(roles: Roles) -> pd.Series:
    """Return a line whose features are the same and whose target is another, for each line with one."""
    frame = roles.table.frame.loc[roles.lines]
    features = [column.name for column in roles.features]
    group = frame.groupby(features, dropna=False, sort=False).ngroup()
    target = frame[roles.target.name]
    alike = pd.DataFrame({"group": group, "target": target, "line": frame.index})
    alike = alike[alike["group"].duplicated(keep=False)]
    others = {}
    for _, one in alike.groupby("group", sort=False):
        usual = one["target"].mode().iloc[0]
        first = one.loc[one["target"] == usual, "line"].iloc[0]
        others.update(dict.fromkeys(one.loc[one["target"] != usual, "line"], first))
    return pd.Series(others, dtype=object)
