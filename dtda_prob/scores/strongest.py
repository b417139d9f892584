"""The data of the highest ranks, as a table."""

import numpy as np
import pandas as pd
import xarray as xr

COLUMNS = ["score", "error", "lower", "upper", "q_value", "rank", "top_probability"]


def strongest(scores: xr.Dataset, num: int = 10) -> pd.DataFrame:
    """List the data of the highest ranks for each divergence and query.

    Args:
        scores: what `attribute` gives, or a selection of it: `scores.sel(query=[3])`.
        num: how many for each; all, if there are fewer.

    Returns:
        A table by divergence, query and datum (or perturbation), in the order of ranks, with the
        `score`, its `error` and the interval from `lower` to `upper`, the false discovery rate
        `q_value` at which it is told from none, its `rank`, and how sure it is to be at the top.

    Raises:
        ValueError: if `num` is not positive.
    """
    if num < 1:
        raise ValueError(f"num={num} must be at least 1")
    dims = [str(dim) for dim in scores["rank"].dims]
    best = scores["rank"].argsort(-1)[..., :num].drop_vars(dims[-1], errors="ignore")
    listed = scores[COLUMNS].isel({dims[-1]: best.rename({dims[-1]: "place"})})
    table = listed.to_dataframe(dim_order=[*dims[:-1], "place"]).reset_index()
    return table.set_index(dims)[COLUMNS].astype({"rank": np.int64})
