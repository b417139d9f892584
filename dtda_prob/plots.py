"""Pictures of sample sets and scores, on arviz-plots."""

from collections.abc import Mapping, Sequence
from typing import Any

import arviz_plots
import xarray as xr


def compare(
    trees: Mapping[str, xr.DataTree], queries: Sequence[Any] | None = None, **options: Any
) -> arviz_plots.PlotCollection:
    """Draw the densities of a measurement in several sample sets over each other, with a legend.

    Args:
        trees: sample sets by name, with as many chains and draws each.
        queries: labels of the queries to draw; all if None.
        **options: of `arviz_plots.plot_dist`.

    Raises:
        ValueError: if the sample sets differ in chains or draws, which would draw a wrong picture.
    """
    groups = {name: tree.children["posterior_predictive"].to_dataset() for name, tree in trees.items()}
    shapes = {name: (data.sizes["chain"], data.sizes["draw"]) for name, data in groups.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"trees differ in (chains, draws), {shapes}; sample them alike")
    if queries is not None:
        groups = {name: data.sel(query=list(queries)) for name, data in groups.items()}
    chosen = {
        name: xr.DataTree.from_dict({"posterior_predictive": data}) for name, data in groups.items()
    }
    settings: dict[str, Any] = {"kind": "kde", "visuals": {"point_estimate_text": False}} | options
    panels = arviz_plots.plot_dist(chosen, group="posterior_predictive", **settings)
    panels.add_legend("model")
    return panels


def agreement(result: xr.Dataset, queries: Sequence[Any]) -> arviz_plots.PlotCollection:
    """Draw retrained against predicted shifts with their standard errors, one panel a query.

    Args:
        result: from `dtda.evaluate`.
        queries: labels of the queries to draw.
    """
    chosen = result.sel(query=list(queries))
    rows = -(-len(queries) // 4)
    figure = {"figsize": (14, 3.5 * rows), "layout": "constrained"}
    panels = arviz_plots.PlotCollection.wrap(
        chosen[["predicted"]],
        cols=["query"],
        col_wrap=4,
        backend="matplotlib",
        figure_kwargs=figure,
    )
    for query in queries:
        panel = panels.get_target("predicted", {"query": query})
        one = chosen.sel(query=query)
        panel.errorbar(
            one["predicted"],
            one["retrained"],
            xerr=one["predicted_error"],
            yerr=one["retrained_error"],
            fmt=".",
        )
        panel.axline((0, 0), slope=1, color="gray", linewidth=1)
        panel.set(
            xlabel="predicted shift",
            ylabel="retrained shift",
            title=f"query {query}, Spearman {float(one['spearman']):.2f}",
        )
        panel.ticklabel_format(scilimits=(-2, 2))
    return panels
