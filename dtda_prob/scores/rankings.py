"""Do rankings agree: between divergences, or between studies."""

import numpy as np
import scipy.stats
import xarray as xr


def agreement(scores: xr.Dataset) -> xr.DataArray:
    """Correlate the rankings of data that different divergences give, query by query.

    Args:
        scores: what `attribute` gives.

    Returns:
        Spearman correlations of absolute scores over data, `(divergence, other, query)`; NaN where
        scores are all alike.
    """
    return _over_pairs(_spearman, abs(scores["score"]))


def overlap(scores: xr.Dataset, top: int = 10) -> xr.DataArray:
    """Give the share of the `top` data by one divergence that are among those by another.

    Args:
        scores: what `attribute` gives.
        top: how many.

    Returns:
        Shares `(divergence, other, query)`.

    Raises:
        ValueError: if there are not that many data.
    """
    ranks = scores["rank"]
    if not 1 <= top <= ranks.shape[-1]:
        raise ValueError(f"top={top} must lie between 1 and the number of data, {ranks.shape[-1]}")

    def share(first: np.ndarray, second: np.ndarray) -> float:
        return ((first <= top) & (second <= top)).sum() / top

    return _over_pairs(share, ranks)


def _over_pairs(measure, values: xr.DataArray) -> xr.DataArray:
    last = str(values.dims[-1])
    other = values.rename(divergence="other")
    return xr.apply_ufunc(
        measure, values, other, input_core_dims=[[last], [last]], vectorize=True
    ).transpose("divergence", "other", "query")


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    constant = np.ptp(first) == 0 or np.ptp(second) == 0
    return np.nan if constant else scipy.stats.spearmanr(first, second).statistic
