"""Rankings of examples: query by query, over all queries, and how much divergences agree on them."""

import pandas as pd
import xarray as xr

from dtda_prob.correlations import spearman
from dtda_prob.datasets import dataset_of

COLUMNS = ["score", "error", "lower", "upper", "q_value", "rank", "top_probability"]
RATE = 0.1
"""False discovery rate at which queries are counted as significant."""


def strongest(scores: xr.Dataset | xr.DataTree, num: int = 10) -> pd.DataFrame:
    """List the examples of the highest ranks for each divergence and query.

    Args:
        scores: from `attribute`, or a selection of them: `scores.sel(query=[3])`.
        num: how many for each; all, if there are fewer.

    Returns:
        A table by divergence, query and example (or perturbation), in the order of ranks (examples
        without a rank are not listed), with the `score`, its `error` and the interval from `lower` to
        `upper`, the false discovery rate `q_value` at which it is significant, its `rank`, and the
        probability of being at the top.

    Raises:
        ValueError: if `num` is not positive.
    """
    _check_number(num)
    scores = dataset_of(scores)
    dims = [str(dim) for dim in scores["rank"].dims]
    best = scores["rank"].argsort(-1)[..., :num].drop_vars(dims[-1], errors="ignore")
    listed = scores[COLUMNS].isel({dims[-1]: best.rename({dims[-1]: "place"})})
    table = listed.to_dataframe(dim_order=[*dims[:-1], "place"]).reset_index()
    return table[table["rank"].notna()].set_index(dims)[COLUMNS].astype({"rank": "int64"})


def overall(scores: xr.Dataset | xr.DataTree, num: int = 10) -> pd.DataFrame:
    """List the examples with the largest mean absolute score over all queries.

    A signed mean would hide an example that raises some queries and lowers others.

    Args:
        scores: from `attribute`.
        num: how many for each divergence; all, if there are fewer.

    Returns:
        A table by divergence and example (or perturbation), the largest first, with the mean absolute
        `size` of its scores, their `mean`, and the number of queries for which it is `significant`
        at a false discovery rate of 0.1.

    Raises:
        ValueError: if `num` is not positive.
    """
    _check_number(num)
    scores = dataset_of(scores)
    last = str(scores["rank"].dims[-1])
    table = xr.Dataset(
        {
            "size": abs(scores["score"]).mean("query"),
            "mean": scores["score"].mean("query"),
            "significant": (scores["q_value"] <= RATE).sum("query"),
        }
    )
    best = (-table["size"]).argsort(-1)[:, :num].drop_vars(last, errors="ignore")
    listed = table.isel({last: best.rename({last: "place"})})
    frame = listed.to_dataframe(dim_order=["divergence", "place"]).reset_index()
    return frame.set_index(["divergence", last])[["size", "mean", "significant"]]


def rank_correlation(scores: xr.Dataset | xr.DataTree) -> xr.DataArray:
    """Correlate the rankings of examples by different divergences, query by query.

    Args:
        scores: from `attribute`.

    Returns:
        Spearman correlations of absolute scores over examples, `(divergence, other, query)`; NaN where
        all scores are equal.
    """
    sizes = abs(dataset_of(scores)["score"])
    last, other = str(sizes.dims[-1]), sizes.rename(divergence="other")
    found = xr.apply_ufunc(spearman, *xr.broadcast(sizes, other), input_core_dims=[[last], [last]])
    return found.transpose("divergence", "other", "query")


def _check_number(num: int) -> None:
    if num < 1:
        raise ValueError(f"num={num} must be at least 1")
