"""Scores of groups: per class, per source, over queries, with errors that know of shared draws."""

from collections.abc import Hashable, Sequence

import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob.divergences.expansion import Expansion


def aggregate(
    scores: xr.Dataset, by: Sequence[Hashable] | np.ndarray, over: str = "datum"
) -> xr.Dataset:
    """Average scores over groups of data, or of queries.

    A group that holds a score that is not finite has none. This is the mean effect of single removals
    in a group; the effect of removing the whole group at once is that of `attribute` with
    `perturbations.groups`. Errors are right though all scores of a study share their draws: the
    contribution of each draw is averaged first.

    Args:
        scores: what `attribute` gives with kept contributions, or what this gives.
        by: the group of each datum (or query).
        over: the dimension that is grouped: "datum", "perturbation" or "query".

    Returns:
        A dataset with dimension `group` (or `query_group`) in the place of `over`, and variables
        `score`, `error`, `lower`, `upper`, `size` and `contribution`.

    Raises:
        ValueError: if contributions were not kept, or `by` does not fit.
    """
    _check(scores, by, over)
    name = "query_group" if over == "query" else "group"
    labels = xr.DataArray(np.asarray(by), dims=over, name=name)
    grouped = scores[["score", "contribution"]].assign_coords({name: labels}).groupby(name)
    found = grouped.mean(skipna=False)
    error, freedom = _error_and_freedom(found["contribution"], found["score"])
    reach = scipy.stats.t.ppf((1 + scores.attrs["level"]) / 2, freedom) * error
    size = xr.ones_like(labels, dtype=int).assign_coords({name: labels}).groupby(name).sum()
    return found.assign(
        error=error,
        lower=found["score"] - reach,
        upper=found["score"] + reach,
        size=size.drop_vars(name, errors="ignore").assign_coords({name: found[name]}),
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
