"""The columns of a table as features and target of a model, which no single cell can distort."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import ndtri
from scipy.stats import rankdata

from dtda_prob.tables import Column, Roles

FURTHEST, HIGHEST = 4.0, 3.0
"""Bounds of scaled values and of normal scores."""
LEAST_MARKED = 8
"""Rows that a feature marks, at least."""
QUARTILES = 1.349
"""Standard deviations between the quartiles of a normal distribution."""


def centre_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Return the median, and a standard deviation that a few values do not move.

    It is taken from the quartiles, or from the values that differ from the median if most do not.
    """
    known = values[np.isfinite(values)]
    centre = float(np.median(known))
    low, high = np.quantile(known, [0.25, 0.75])
    others = np.abs(known - centre)[known != centre]
    spread = (high - low) / QUARTILES or (float(np.median(others)) if others.size else 1.0)
    return centre, float(spread)


def matrix(roles: Roles) -> Float[np.ndarray, "row feature"]:
    """Return the features of the rows whose target is known.

    A number enters twice, scaled by its quartiles and by its rank, both bounded; a missing one as the
    median, and as a 1 in a feature of its own; a category as a 0 or 1 for each of its values. What too
    few rows have gets no feature of its own, since a model would learn it from one or two of them.
    """
    columns = [column._replace(values=column.values[roles.lines]) for column in roles.features]
    parts = [_words(one) if one.kind == "category" else _numbers(one) for one in columns]
    nothing = np.zeros((len(roles.lines), 1))
    return np.concatenate([nothing, *parts], axis=1).astype(np.float32)


def _numbers(column: Column) -> Float[np.ndarray, "row feature"]:
    values = column.values.to_numpy(float)
    missing = ~np.isfinite(values)
    if missing.all():
        return np.zeros((len(values), 0))
    centre, spread = centre_and_spread(values)
    filled = np.where(missing, centre, values)
    parts = [np.clip((filled - centre) / spread, -FURTHEST, FURTHEST)]
    if len(np.unique(filled)) > 2:
        parts.append(np.clip(ndtri(rankdata(filled) / (len(filled) + 1)), -HIGHEST, HIGHEST))
    marks = [missing] if LEAST_MARKED <= missing.sum() <= len(values) - LEAST_MARKED else []
    return np.stack([*parts, *marks], axis=1)


def _words(column: Column) -> Float[np.ndarray, "row feature"]:
    values = column.values.astype(object)
    marks = pd.get_dummies(values.where(values.notna(), "(missing)"), dtype=float).to_numpy()
    return marks[:, marks.sum(0) >= LEAST_MARKED]
