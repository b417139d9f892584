"""Read scores: rankings, significant examples, and groups with errors that count shared draws."""

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from dtda_prob.correlations import spearman
from dtda_prob.datasets import dataset_of
from dtda_prob.divergences.estimates import Expansion

FIELDS = ["score", "error", "lower", "upper", "p_value", "q_value", "rank", "top_probability"]
RATE = 0.1
"""False discovery rate at which examples count as significant."""
STANDS_OUT = 4.0
"""Times the average absolute score, from which on an example stands out."""


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
    table = _leading(dataset_of(scores)[[name for name in FIELDS if name != "p_value"]], "rank", num)
    return table[table["rank"].notna()].astype({"rank": "int64"})


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
    scores = dataset_of(scores)
    table = xr.Dataset(
        {
            "size": abs(scores["score"]).mean("query"),
            "mean": scores["score"].mean("query"),
            "significant": (scores["q_value"] <= RATE).sum("query"),
        }
    )
    return _leading(table.assign(last=-table["size"]), "last", num).drop(columns="last")


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


def _leading(table: xr.Dataset, by: str, num: int) -> pd.DataFrame:
    """List the first of the last dimension of a variable, in its order.

    Raises:
        ValueError: if `num` is not positive.
    """
    if num < 1:
        raise ValueError(f"num={num} must be at least 1")
    *others, last = (str(dim) for dim in table[by].dims)
    best = table[by].argsort(-1)[..., :num].drop_vars(last, errors="ignore")
    listed = table.isel({last: best.rename({last: "place"})})
    frame = listed.to_dataframe(dim_order=[*others, "place"]).reset_index()
    return frame.set_index([*others, last])[list(table)]


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
    table = scores[FIELDS[:-1]].to_dataframe()
    listed = table[table["q_value"] <= rate].reset_index()
    last = str(scores["score"].dims[-1])
    order = listed.sort_values(["divergence", "query", "q_value", "rank"], kind="stable")
    return order.set_index(["divergence", "query", last])


def outstanding(scores: xr.Dataset | xr.DataTree, rate: float = RATE) -> xr.DataArray:
    """Mark scores that are significant and at least four times as large as the average of their query.

    With many draws nearly every score is significant, however small; few stand out.

    Args:
        scores: from `attribute`.
        rate: false discovery rate.

    Returns:
        Booleans by divergence, query and example (or perturbation).
    """
    scores = dataset_of(scores)
    size = abs(scores["score"])
    return (scores["q_value"] <= rate) & (size >= STANDS_OUT * size.mean(str(size.dims[-1])))


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
    ).to_dataframe(dim_order=["query", str(mean["score"].dims[-1])])
    chosen = (table["q_value"] <= rate) & (table["largest_shift"] <= ratio * table["spread"])
    return table[chosen].sort_values("spread", ascending=False)


def _check_moments(scores: xr.Dataset) -> None:
    missing = {"mean", "variance"} - set(scores["divergence"].values)
    if missing:
        raise ValueError(f"scores lack {sorted(missing)}: attribute with divergences mean and variance")
    if "output" in scores["sd"].dims:
        raise ValueError("outcomes are vectors: measure one number a query")


def aggregate(
    scores: xr.Dataset | xr.DataTree, by: Sequence[Hashable] | np.ndarray, over: str = "example"
) -> xr.Dataset:
    """Average scores over groups of examples, or of queries.

    A group that holds a score that is not finite has none. This is the mean effect of single removals
    in a group; for the effect of removing the whole group at once, `attribute` the perturbations of
    `groups`. Errors account for the draws that all scores of a study share: the contributions of each
    draw are averaged first.

    Args:
        scores: from `attribute` with kept contributions, or from this function.
        by: the group of each example (or query).
        over: the dimension that is grouped: `"example"`, `"perturbation"` or `"query"`.

    Returns:
        A dataset with dimension `group` (or `query_group`) in the place of `over`, and variables
        `score`, `error`, `lower`, `upper`, `size` and `contribution`.

    Raises:
        ValueError: if contributions were not kept, or `by` does not fit.
    """
    scores = dataset_of(scores)
    _check_groups(scores, by, over)
    name = "query_group" if over == "query" else "group"
    labels = xr.DataArray(np.asarray(by), dims=over, name=name)
    grouped = scores[["score", "contribution"]].assign_coords({name: labels}).groupby(name)
    means = grouped.mean(skipna=False)
    error, freedom = _error_and_freedom(means["contribution"], means["score"])
    reach = scipy.stats.t.ppf((1 + scores.attrs["level"]) / 2, freedom) * error
    size = xr.ones_like(labels, dtype=int).assign_coords({name: labels}).groupby(name).sum()
    return means.assign(
        error=error,
        lower=means["score"] - reach,
        upper=means["score"] + reach,
        size=size.drop_vars(name, errors="ignore").assign_coords({name: means[name]}),
    ).assign_attrs(scores.attrs)


def sampling_variance(scores: xr.Dataset | xr.DataTree) -> xr.DataArray:
    """Estimate how the mean of each measurement varies from one dataset to another.

    The infinitesimal jackknife: the sum over examples of squared effects of their removal on the mean,
    about its average over examples. For `covariance` of a posterior it is the Bayesian infinitesimal
    jackknife (Giordano and Broderick, arXiv 2305.06466), right where the model is misspecified and the
    posterior's own variance is not. The noise of the draws adds to squares, and is taken off.

    Args:
        scores: from `attribute`, with the divergence "mean" and each example removed in turn.

    Returns:
        The variance by query; its root is a frequentist standard error of the posterior mean. Negative
        where the noise of the draws is all that there is: take more draws.

    Raises:
        ValueError: if the scores are not means by example.
    """
    scores = dataset_of(scores)
    if "mean" not in scores["divergence"] or "example" not in scores["score"].dims:
        raise ValueError(
            "sampling_variance needs the mean without each example: divergences=['mean'] of attribute"
        )
    chosen = scores[["score", "error"]].sel(divergence="mean", drop=True)
    number = chosen.sizes["example"]
    noise = (1 - 1 / number) * chosen["error"] ** 2
    return number * (chosen["score"].var("example") - noise.mean("example"))


def _error_and_freedom(
    contribution: xr.DataArray, score: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray]:
    arms = contribution.transpose("arm", "draw", *score.dims).values
    expansion = Expansion(score.values, tuple(arms))
    return score.copy(data=expansion.error()), score.copy(data=expansion.freedom())


def _check_groups(scores: xr.Dataset, by: Sequence[Hashable] | np.ndarray, over: str) -> None:
    if "contribution" not in scores:
        raise ValueError("scores hold no contributions of draws: set Options(keep_contributions=True)")
    if over not in scores["score"].dims:
        raise ValueError(f"over={over!r} must be a dimension of the scores, {scores['score'].dims[1:]}")
    shape = np.asarray(by).shape
    if shape != (scores.sizes[over],):
        raise ValueError(
            f"by must name the group of each of {scores.sizes[over]} along {over!r}; got shape {shape}"
        )
