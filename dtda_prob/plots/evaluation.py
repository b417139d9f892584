"""Pictures of predicted against retrained effects, on any backend of arviz-plots."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from arviz_plots import PlotCollection, visuals

from dtda_prob.datasets import dataset_of
from dtda_prob.plots.panels import (
    band,
    bars,
    diagonal,
    label_axes,
    on_axes,
    panels_of,
    rows,
    titled,
    zero,
)


def agreement(
    result: xr.Dataset | xr.DataTree,
    queries: Sequence[Any],
    divergence: str = "mean",
    *,
    backend: str = "matplotlib",
) -> PlotCollection:
    """Draw retrained against predicted effects with their standard errors, one panel a query.

    Args:
        result: from `evaluate.agreement`, or loaded from a study.
        queries: labels of the queries to draw.
        divergence: whose effects to draw.
        backend: of arviz-plots.
    """
    chosen = dataset_of(result).sel(query=list(queries), divergence=divergence)
    points = on_axes(
        x=chosen["predicted"],
        y=chosen["retrained"],
        x_error=chosen["predicted_error"],
        y_error=chosen["retrained_error"],
    )
    panels = panels_of(points, "query", backend)
    panels.map(diagonal, "diagonal", color="gray", alpha=0.7)
    panels.map(bars, "errors", alpha=0.5)
    panels.map(visuals.scatter_xy, "points")
    correlations = dict(zip(queries, chosen["spearman"].values, strict=True))
    titles = {q: f"query {q}\nSpearman {r:.2f}" for q, r in correlations.items()}
    titled(panels, titles, "query")
    return label_axes(panels, f"predicted {divergence}", f"retrained {divergence}")


def agreement_by_draws(
    results: Mapping[Hashable, xr.Dataset | xr.DataTree], *, backend: str = "matplotlib"
) -> PlotCollection:
    """Draw the score against the number of draws, one panel a divergence and one line a method.

    The gray line is what a perfect prediction would reach: the root of the truth's reliability.

    Args:
        results: by name of the method, from `evaluate.agreement_by_draws`.
        backend: of arviz-plots.
    """
    table = xr.concat(
        [dataset_of(one)[["lds", "lds_error", "lds_reliability"]] for one in results.values()],
        xr.DataArray(list(results), dims="method", name="method"),
        join="outer",
        combine_attrs="override",
    )
    lines = on_axes(x=table["draws"], y=table["lds"], y_error=table["lds_error"])
    panels = panels_of(lines, "divergence", backend, aes={"color": ["method"]})
    ceiling = on_axes(x=table["draws"], y=table["lds_reliability"].max("method") ** 0.5)
    panels.map(visuals.line_xy, "ceiling", data=ceiling, ignore_aes="all", color="gray", alpha=0.7)
    panels.map(bars, "errors", alpha=0.5)
    panels.map(visuals.line_xy, "lines")
    panels.map(visuals.scatter_xy, "points")
    names = table["divergence"].values.tolist()
    titled(panels, dict(zip(names, names, strict=True)), "divergence")
    panels.add_legend("method")
    return label_axes(panels, "draws that predict", "mean Spearman correlation")


def removal_curves(
    curves: Mapping[Hashable, xr.Dataset | xr.DataTree],
    queries: Sequence[Any],
    *,
    level: float = 0.9,
    backend: str = "matplotlib",
) -> PlotCollection:
    """Draw the measurement against the number of examples removed: medians, and bands over draws.

    Each of `curves` has a line for its ranking; random orders are drawn together, from the first of
    the curves.

    Args:
        curves: by name ("retrained", "predicted", ...), from `evaluate.removal_curves`.
        queries: labels of the queries to draw.
        level: share of the draws inside the bands.
        backend: of arviz-plots.
    """
    opened = {name: dataset_of(one) for name, one in curves.items()}
    kinds = {name: _draws_by_count(one, ["ranking"], queries) for name, one in opened.items()}
    first = next(iter(opened.values()))
    random = [order for order in first["order"].values if order != "ranking"]
    if random:
        kinds["random"] = _draws_by_count(first, random, queries)
    middle = xr.concat(
        [kind.quantile([0.5, (1 - level) / 2, (1 + level) / 2], "sample") for kind in kinds.values()],
        xr.DataArray([str(name) for name in kinds], dims="kind", name="kind"),
    ).drop_vars("quantile")
    parts = {name: middle.isel(quantile=k) for k, name in enumerate(("y", "y_bottom", "y_top"))}
    lines = on_axes(x=middle["count"], **parts)
    panels = panels_of(lines, "query", backend, aes={"color": ["kind"]})
    panels.map(band, "bands", alpha=0.2)
    panels.map(visuals.line_xy, "lines")
    titled(panels, {query: f"query {query}" for query in queries}, "query")
    panels.add_legend("kind")
    return label_axes(panels, "examples removed", str(first.attrs["measure"]))


def pruning(
    table: xr.Dataset | xr.DataTree, versus: str = "random", *, backend: str = "matplotlib"
) -> PlotCollection:
    """Draw how much better each rule is than another: paired differences with their intervals.

    Args:
        table: from `evaluate.compare_rules`.
        versus: the rule that others are compared with.
        backend: of arviz-plots.
    """
    opened = dataset_of(table)
    chosen = opened.sel(other=versus, rule=opened["rule"] != versus)
    row = xr.zeros_like(chosen["difference"]) + np.arange(chosen.sizes["rule"])
    half = (chosen["upper"] - chosen["lower"]) / 2
    points = on_axes(x=chosen["difference"], y=row, x_error=half)
    panels = panels_of(points.assign_coords(panel=0).expand_dims("panel"), "panel", backend)
    panels.map(zero, "zero", color="gray", alpha=0.7)
    panels.map(bars, "intervals")
    panels.map(visuals.scatter_xy, "points")
    panels.map(rows, "rows", store_artist=False, names=chosen["rule"].values.tolist())
    return label_axes(panels, f"difference of the mean to {versus!r}", "")


def _draws_by_count(curves: xr.Dataset, orders: Sequence[Any], queries: Sequence[Any]) -> xr.DataArray:
    """Return the draws of some orders after each removal; count 0 is training on all data."""
    chosen = curves.sel(query=list(queries), order=list(orders))
    whole = chosen["full"].expand_dims(order=chosen["order"], count=[0])
    draws = xr.concat([whole, chosen["perturbed"]], "count").transpose(..., "draw", "order")
    return draws.stack(sample=("draw", "order"), create_index=False)
