"""Correlations along the last axis of arrays, and what noise takes from them."""

from typing import Any

import numpy as np
import scipy.stats


def pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlate along the last axis; NaN where either is constant."""
    moved = np.ptp(first, axis=-1) * np.ptp(second, axis=-1) > 0
    first, second = (x - x.mean(-1, keepdims=True) for x in (first, second))
    scale = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    return np.where(moved, (first * second).sum(-1), np.nan) / np.where(moved, scale, 1.0)


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlate ranks along the last axis; NaN where either is constant."""
    return pearson(*(scipy.stats.rankdata(values, axis=-1) for values in (first, second)))


def mean_of_known(values: np.ndarray, axis: Any) -> np.ndarray:
    """Average those that have a value; NaN where none has."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    return np.where(count > 0, total, np.nan) / np.maximum(count, 1)


def lengthened(reliability: np.ndarray) -> np.ndarray:
    """Carry the correlation between halves to the reliability of the whole (Spearman and Brown)."""
    return 2 * reliability / np.where(reliability > -1, 1 + reliability, np.nan)


def root_of_positive(reliability: np.ndarray) -> np.ndarray:
    """Give the root, by which noise attenuates a correlation; NaN where there is none."""
    return np.sqrt(np.where(reliability > 0, reliability, np.nan))
