"""Pictures of predicted against retrained effects."""

from collections.abc import Sequence
from typing import Any

import arviz_plots
import xarray as xr


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
