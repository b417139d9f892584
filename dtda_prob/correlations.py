"""Correlations along the last axis of arrays, and their attenuation by noise."""

from typing import Any

import numpy as np
import scipy.stats


def pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlate along the last axis; NaN where either is constant."""
    varies = np.ptp(first, axis=-1) * np.ptp(second, axis=-1) > 0
    first, second = (x - x.mean(-1, keepdims=True) for x in (first, second))
    scale = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    return np.where(varies, (first * second).sum(-1), np.nan) / np.where(varies, scale, 1.0)


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlate ranks along the last axis; NaN where either is constant."""
    return pearson(*(scipy.stats.rankdata(values, axis=-1) for values in (first, second)))


def mean_of_known(values: np.ndarray, axis: Any) -> np.ndarray:
    """Average the finite values; NaN where no value is finite."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    return np.where(count > 0, total, np.nan) / np.maximum(count, 1)


def lengthened(reliability: np.ndarray) -> np.ndarray:
    """Extrapolate the correlation between halves to the reliability of the whole (Spearman-Brown)."""
    return 2 * reliability / np.where(reliability > -1, 1 + reliability, np.nan)


def root_of_positive(reliability: np.ndarray) -> np.ndarray:
    """Compute the root, by which noise attenuates a correlation; NaN where it is not positive."""
    return np.sqrt(np.where(reliability > 0, reliability, np.nan))
