"""Pictures of scores: shift against spread of all examples, and the intervals of ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from arviz_plots import PlotCollection, visuals
from arviz_plots.plot_collection import backend_from_object

from dtda_prob.datasets import dataset_of
from dtda_prob.plots.panels import bars, label_axes, on_axes, panels_of, titled


def shift_against_spread(
    scores: xr.Dataset | xr.DataTree,
    queries: Sequence[Any],
    rate: float = 0.1,
    *,
    backend: str = "matplotlib",
) -> PlotCollection:
    """Draw what each removal does to the mean and to the spread of a measurement, one panel a query.

    Both are in standard deviations of the measurement over draws: the change of its mean, and the
    change of its standard deviation to first order. Examples whose variance score is significant at
    the false discovery rate stand out, with bars for their standard errors.

    Args:
        scores: from `attribute` or a study, of a scalar measure, by "mean" and "variance".
        queries: labels of the queries to draw.
        rate: false discovery rate.
        backend: of arviz-plots.

    Raises:
        ValueError: if the scores lack one of these divergences.
    """
    mean, variance = _mean_and_variance(dataset_of(scores).sel(query=list(queries)))
    sd = mean["sd"].reset_coords(drop=True)
    points = on_axes(
        x=mean["score"] / sd,
        y=variance["score"] / (2 * sd**2),
        x_error=mean["error"] / sd,
        y_error=variance["error"] / (2 * sd**2),
    )
    significant = points.where((variance["q_value"] <= rate).reset_coords(drop=True))
    panels = panels_of(points, "query", backend)
    panels.map(visuals.scatter_xy, "others", color="gray", alpha=0.5)
    panels.map(bars, "errors", data=significant, alpha=0.5)
    panels.map(visuals.scatter_xy, "significant", data=significant)
    count = significant["effect"].sel(plot_axis="x").notnull().sum(str(mean["score"].dims[-1]))
    titles = {
        q: f"query {q}\n{n} change the spread" for q, n in zip(queries, count.values, strict=True)
    }
    titled(panels, titles, "query")
    return label_axes(panels, "change of the mean, in sd", "relative change of the sd")


def _mean_and_variance(scores: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the scores by both divergences.

    Raises:
        ValueError: if the scores lack one of them.
    """
    known = scores["divergence"].values.tolist()
    if not {"mean", "variance"} <= {*known}:
        raise ValueError(
            f"scores are by {known}, and this picture takes 'mean' and 'variance': attribute with "
            'divergences=["mean", "variance"], or --divergence mean --divergence variance'
        )
    mean, variance = (scores.sel(divergence=name) for name in ("mean", "variance"))
    return mean, variance


def ranks(
    scores: xr.Dataset | xr.DataTree,
    queries: Sequence[Any],
    divergence: str = "mean",
    top: int = 10,
    *,
    backend: str = "matplotlib",
) -> PlotCollection:
    """Draw the ranks of the first examples with intervals over resamples, one panel a query.

    Args:
        scores: from `attribute` or a study.
        queries: labels of the queries to draw.
        divergence: whose ranking to draw.
        top: how many examples of each query.
        backend: of arviz-plots.
    """
    chosen = dataset_of(scores).sel(query=list(queries), divergence=divergence)
    last = str(chosen["rank"].dims[-1])
    first = [_first(chosen.sel(query=query), last, top) for query in queries]
    table = xr.concat(first, xr.DataArray(list(queries), dims="query", name="query"), join="override")
    points = on_axes(x=table["rank"], y=table["place"])
    middle = (table["rank_lower"] + table["rank_upper"]) / 2
    half = (table["rank_upper"] - table["rank_lower"]) / 2
    panels = panels_of(points, "query", backend)
    panels.map(bars, "intervals", data=on_axes(x=middle, y=table["place"], x_error=half))
    panels.map(visuals.scatter_xy, "points")
    names = {query: one["name"].values for query, one in zip(queries, first, strict=True)}
    panels.map(_rows, "rows", subset_info=True, ignore_aes="all", store_artist=False, names=names)
    titled(panels, {query: f"query {query}" for query in queries}, "query")
    return label_axes(panels, f"rank by {divergence}", last)


def _first(one: xr.Dataset, last: str, top: int) -> xr.Dataset:
    ordered = one[["rank", "rank_lower", "rank_upper"]].sortby("rank").isel({last: slice(top)})
    places = np.arange(ordered.sizes[last])
    named = ordered.assign(name=(last, ordered[last].values), place=(last, -places))
    return named.drop_vars(last)


def _rows(
    da: xr.DataArray, target: Any, names: Mapping[Any, np.ndarray], sel: Mapping[str, Any], **info: Any
) -> Any:
    """Name the rows of a panel, the first on top."""
    own = names[np.asarray(sel["query"]).item()]
    return backend_from_object(target).yticks(-np.arange(len(own)), [str(n) for n in own], target)
