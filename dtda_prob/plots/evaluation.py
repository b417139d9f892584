"""Pictures of predicted against retrained effects, on any backend of arviz-plots."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from arviz_plots import PlotCollection, visuals
from arviz_plots.plot_collection import backend_from_object


def agreement(
    result: xr.Dataset,
    queries: Sequence[Any],
    divergence: str = "mean",
    *,
    backend: str = "matplotlib",
) -> PlotCollection:
    """Draw retrained against predicted effects with their standard errors, one panel a query.

    Args:
        result: what `evaluate.agreement` gives.
        queries: labels of the queries to draw.
        divergence: whose effects to draw.
        backend: of arviz-plots.
    """
    chosen = result.sel(query=list(queries), divergence=divergence)
    sides = ["predicted", "retrained", "predicted_error", "retrained_error"]
    points = _on_axes([chosen[side] for side in sides])
    panels = _panels(points, ["query"], len(queries), backend)
    panels.map(_diagonal, "diagonal", color="gray", alpha=0.7)
    panels.map(_bars, "errors", alpha=0.5)
    panels.map(visuals.scatter_xy, "points")
    titles = _titles(chosen["spearman"], "query {}, Spearman {:.2f}")
    panels.map(_title, "title", texts=titles, subset_info=True)
    _label(panels, f"predicted {divergence}", f"retrained {divergence}")
    return panels


def _on_axes(arrays: Sequence[xr.DataArray]) -> xr.Dataset:
    """Stack what goes on each axis, as the visuals of arviz-plots want it."""
    names = ["x", "y", "x_error", "y_error"][: len(arrays)]
    plain = [array.reset_coords(drop=True) for array in xr.broadcast(*arrays)]
    axes = xr.DataArray(names, dims="plot_axis", name="plot_axis")
    return xr.concat(plain, axes, coords="minimal").to_dataset(name="effect")


def _panels(data: xr.Dataset, cols: list[str], number: int, backend: str, **aes: Any) -> PlotCollection:
    across = min(number, 4)
    size = (3.5 * across, 3.5 * -(-number // 4))
    figure = {"figsize": size, "figsize_units": "inches"}
    return PlotCollection.wrap(
        data, cols=cols, col_wrap=4, backend=backend, figure_kwargs=figure, **aes
    )


def _diagonal(da: xr.DataArray, target: Any, **kwargs: Any) -> Any:
    ends = np.array([da.sel(plot_axis=["x", "y"]).min(), da.sel(plot_axis=["x", "y"]).max()])
    return backend_from_object(target).line(ends, ends, target, **kwargs)


def _bars(da: xr.DataArray, target: Any, **kwargs: Any) -> Any:
    """Draw a standard error to either side along both axes: one line, with gaps."""
    x, y, x_error, y_error = (
        da.sel(plot_axis=name).values.ravel() for name in ("x", "y", "x_error", "y_error")
    )
    gap = np.full_like(x, np.nan)
    across = np.stack([x - x_error, x + x_error, gap, x, x, gap], -1).ravel()
    up = np.stack([y, y, gap, y - y_error, y + y_error, gap], -1).ravel()
    return backend_from_object(target).line(across, up, target, **kwargs)


def _titles(values: xr.DataArray, text: str) -> dict[Any, str]:
    return {
        label: text.format(label, value)
        for label, value in zip(values["query"].values.tolist(), values.values, strict=True)
    }


def _title(da: xr.DataArray, target: Any, texts: dict[Any, str], sel: dict, **info: Any) -> Any:
    return visuals.labelled_title(da, target, text=texts[sel["query"]])


def _label(panels: PlotCollection, x: str, y: str) -> None:
    panels.map(visuals.labelled_x, "xlabel", text=x, ignore_aes="all")
    panels.map(visuals.labelled_y, "ylabel", text=y, ignore_aes="all")
