"""Pictures of distributions over draws: sample sets over each other, and calibration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import arviz_plots
import xarray as xr
from arviz_plots.visuals import fill_between_y

from dtda_prob.datasets import dataset_of
from dtda_prob.plots.panels import figure


def compare(
    trees: Mapping[str, xr.DataTree], queries: Sequence[Any] | None = None, **options: Any
) -> arviz_plots.PlotCollection:
    """Draw the densities of a measurement in several sample sets over each other, with a legend.

    Args:
        trees: sample sets by name, with the same number of chains and draws.
        queries: labels of the queries to draw; all if None.
        **options: of `arviz_plots.plot_dist`.

    Raises:
        ValueError: if there is no sample set, or they differ in chains or draws, which would draw a
            wrong picture.
    """
    if not trees:
        raise ValueError("trees is empty: pass at least one sample set, by its name")
    groups = {name: tree.children["posterior_predictive"].to_dataset() for name, tree in trees.items()}
    shapes = {name: (data.sizes["chain"], data.sizes["draw"]) for name, data in groups.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"trees differ in (chains, draws), {shapes}; sample as many of each")
    if queries is not None:
        groups = {name: data.sel(query=list(queries)) for name, data in groups.items()}
    chosen = {
        name: xr.DataTree.from_dict({"posterior_predictive": data}) for name, data in groups.items()
    }
    sizes = next(iter(groups.values())).sizes
    number = math.prod(size for dim, size in sizes.items() if dim not in ("chain", "draw"))
    settings: dict[str, Any] = {
        "kind": "kde",
        "visuals": {"point_estimate_text": False},
        "stats": {"dist": {"extend": True, "extend_fct": 0.5, "bound_correction": False}},
        "figure_kwargs": figure(number, options.get("backend", "matplotlib")),
    }
    panels = arviz_plots.plot_dist(chosen, group="posterior_predictive", **settings | options)
    panels.add_legend("model")
    return panels


def calibration(
    report: xr.Dataset | xr.DataTree, queries: Sequence[Any] | None = None, **options: Any
) -> arviz_plots.PlotCollection:
    """Draw the ECDF of PIT values less the uniform CDF, with simultaneous bands.

    A line below the band on the left and above it on the right is a prediction that is too wide; the
    mirror image, too narrow; a bow to one side, shifted. Lines are drawn by ArviZ; bands come from the
    report, and account for the prediction being a sample and for queries that share seeds.

    Args:
        report: from `diagnostics.calibration`.
        queries: labels of the queries to draw, a panel each (and for each perturbation); all queries
            pooled in one panel if None.
        **options: of `arviz_plots.plot_ecdf_pit`.
    """
    pooled, chosen = queries is None, dataset_of(report)
    chosen = chosen if queries is None else chosen.sel(query=list(queries))
    pit = chosen["pit"].stack(sample=chosen["pit"].dims).reset_index("sample", drop=True)
    lines = pit.rename("all queries") if pooled else chosen["pit"].rename("PIT")
    band = chosen["pooled_band" if pooled else "band"].rename(lines.name)
    settings: dict[str, Any] = {
        "sample_dims": list(lines.dims) if pooled else ["draw"],
        "backend": "matplotlib",
        "figure_kwargs": {"layout": "constrained"},
        "visuals": {"suspicious_points": False, "p_value_text": False},
    }
    tree = xr.DataTree.from_dict({"calibration": lines.to_dataset()})
    panels = arviz_plots.plot_ecdf_pit(tree, group="calibration", **settings | options)
    panels.map(
        fill_between_y,
        "band",
        data=band.to_dataset(),
        x=band["probability"],
        y_bottom=-band,
        y_top=band,
        color="gray",
        alpha=0.2,
    )
    return panels
