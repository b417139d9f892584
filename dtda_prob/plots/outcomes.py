"""Pictures of sample sets: the distribution of a measurement under several datasets."""

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
        ValueError: if there is no sample set, or they differ in chains or draws, which would draw a
            wrong picture.
    """
    if not trees:
        raise ValueError("trees is empty: give one sample set at least, by its name")
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
