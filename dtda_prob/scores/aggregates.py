"""Scores of groups: per class, per source, over queries, with errors that account for shared draws."""

from collections.abc import Hashable, Sequence

import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob.datasets import dataset_of
from dtda_prob.divergences.expansion import Expansion


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
    _check(scores, by, over)
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


def _error_and_freedom(
    contribution: xr.DataArray, score: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray]:
    arms = contribution.transpose("arm", "draw", *score.dims).values
    expansion = Expansion(score.values, tuple(arms))
    return score.copy(data=expansion.error()), score.copy(data=expansion.freedom())


def _check(scores: xr.Dataset, by: Sequence[Hashable] | np.ndarray, over: str) -> None:
    if "contribution" not in scores:
        raise ValueError("scores hold no contributions of draws: set Options(keep_contributions=True)")
    if over not in scores["score"].dims:
        raise ValueError(f"over={over!r} must be a dimension of the scores, {scores['score'].dims[1:]}")
    shape = np.asarray(by).shape
    if shape != (scores.sizes[over],):
        raise ValueError(
            f"by must name the group of each of {scores.sizes[over]} along {over!r}; got shape {shape}"
        )
