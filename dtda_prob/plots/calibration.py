"""Pictures of predicted against retrained distributions: PIT values and their bands."""

from collections.abc import Sequence
from typing import Any

import arviz_plots
import xarray as xr
from arviz_plots.visuals import fill_between_y


def calibration(
    report: xr.Dataset, queries: Sequence[Any] | None = None, **options: Any
) -> arviz_plots.PlotCollection:
    """Draw the ECDF of PIT values less that of the uniform, with bands that hold everywhere at once.

    A line below the band on the left and above it on the right is a prediction that is too wide; the
    mirror image, too narrow; a bow to one side, shifted. Lines are ArviZ's, bands those of the report,
    which know that the prediction is a sample and that queries share seeds.

    Args:
        report: from `diagnostics.calibration`.
        queries: labels of the queries to draw, a panel each (and for each perturbation); all of them
            together, in one panel, if None.
        **options: of `arviz_plots.plot_ecdf_pit`.
    """
    pooled = queries is None
    chosen = report if pooled else report.sel(query=list(queries))
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
