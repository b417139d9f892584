"""Significant examples, at a stated rate of false discoveries."""

import numpy as np
import pandas as pd
import xarray as xr

from dtda_prob.datasets import dataset_of

COLUMNS = ["score", "error", "lower", "upper", "p_value", "q_value", "rank"]


def influential(scores: xr.Dataset | xr.DataTree, rate: float = 0.1) -> pd.DataFrame:
    """List the pairs of query and example whose influence is significant (FDR <= rate).

    Of the pairs listed for one query and one divergence, the expected share without influence is at
    most `rate` (Benjamini and Hochberg, 1995; it also holds for the errors that examples share through
    their draws, which are positively related).

    Args:
        scores: from `attribute`.
        rate: false discovery rate.

    Returns:
        A table by divergence, query and example, the smallest rates first within each query.

    Raises:
        ValueError: if the rate is out of range, or a divergence was scored without permutations that it
            needs.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate={rate} must lie between 0 and 1, both excluded")
    scores = dataset_of(scores)
    missing = np.isnan(scores["p_value"]) & np.isfinite(scores["score"])
    if missing.all(missing.dims[1:]).any():
        names = scores["divergence"].values[missing.all(missing.dims[1:]).values].tolist()
        raise ValueError(f"{names} have no p-values: attribute again with num_permutations above 0")
    table = scores[COLUMNS].to_dataframe()
    listed = table[table["q_value"] <= rate].reset_index()
    last = str(scores["score"].dims[-1])
    order = listed.sort_values(["divergence", "query", "q_value", "rank"], kind="stable")
    return order.set_index(["divergence", "query", last])


def spread_without_shift(
    scores: xr.Dataset | xr.DataTree, rate: float = 0.1, ratio: float = 0.5
) -> pd.DataFrame:
    """List examples whose removal changes the spread of a measurement and hardly its mean.

    Both are measured in standard deviations of the measurement over draws: the shift |E_D' - E_D| / sd,
    and the spread |Var_D' - Var_D| / (2 Var_D), which is the relative change of sd to first order. An
    example is listed if its variance score is significant at the false discovery rate, and the largest
    shift that the interval of the mean allows is below `ratio` times the spread.

    Args:
        scores: from `attribute`, of a scalar measure, with divergences "mean" and "variance".
        rate: false discovery rate of the variance scores.
        ratio: how small the shift must be, relative to the spread.

    Returns:
        A table by query and example with `shift`, `largest_shift`, `spread`, its `error` and `q_value`,
        the largest spread first.

    Raises:
        ValueError: if either divergence is missing, or outcomes are vectors.
    """
    scores = dataset_of(scores)
    _check_moments(scores)
    mean, variance = (scores.sel(divergence=name, drop=True) for name in ("mean", "variance"))
    sd = scores["sd"]
    allowed = np.maximum(abs(mean["lower"]), abs(mean["upper"]))
    table = xr.Dataset(
        {
            "shift": abs(mean["score"]) / sd,
            "largest_shift": allowed / sd,
            "spread": abs(variance["score"]) / (2 * sd**2),
            "error": variance["error"] / (2 * sd**2),
            "q_value": variance["q_value"],
        }
    ).to_dataframe()
    chosen = (table["q_value"] <= rate) & (table["largest_shift"] <= ratio * table["spread"])
    return table[chosen].sort_values("spread", ascending=False)


def _check_moments(scores: xr.Dataset) -> None:
    missing = {"mean", "variance"} - set(scores["divergence"].values)
    if missing:
        raise ValueError(f"scores lack {sorted(missing)}: attribute with divergences mean and variance")
    if "output" in scores["sd"].dims:
        raise ValueError("outcomes are vectors: measure one number a query")
