"""Panels and marks shared by the pictures, on any backend of arviz-plots."""

import textwrap
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from arviz_plots import PlotCollection, visuals
from arviz_plots.plot_collection import backend_from_object

ACROSS, SIDE, DOTS, WIDTH = 4, 3.5, 100, 26
"""Panels in a row, inches of their sides, dots of an inch, and characters across a title."""


def on_axes(**arrays: xr.DataArray) -> xr.Dataset:
    """Stack the values on each axis (`x`, `y`, `x_error`, ...), as visuals expect."""
    plain = [array.reset_coords(drop=True) for array in xr.broadcast(*arrays.values())]
    axes = xr.DataArray(list(arrays), dims="plot_axis", name="plot_axis")
    return xr.concat(plain, axes, coords="minimal").to_dataset(name="effect")


def panels_of(data: xr.Dataset, dim: str, backend: str, **options: Any) -> PlotCollection:
    """Make one panel for each label of a dimension."""
    return PlotCollection.wrap(
        data,
        cols=[dim],
        col_wrap=ACROSS,
        backend=backend,
        figure_kwargs=figure(data.sizes[dim], backend),
        **options,
    )


def figure(number: int, backend: str) -> dict[str, Any]:
    """Return the size of a figure of so many panels, in inches for matplotlib and in dots otherwise."""
    size = (SIDE * min(number, ACROSS), SIDE * -(-number // ACROSS))
    if backend == "matplotlib":
        return {"figsize": size, "figsize_units": "inches", "layout": "constrained"}
    return {"figsize": (DOTS * size[0], DOTS * size[1]), "figsize_units": "dots"}


def diagonal(da: xr.DataArray, target: Any, **kwargs: Any) -> Any:
    """Draw where both axes are equal."""
    both = da.sel(plot_axis=["x", "y"])
    ends = np.array([both.min(), both.max()])
    return backend_from_object(target).line(ends, ends, target, **kwargs)


def zero(da: xr.DataArray, target: Any, **kwargs: Any) -> Any:
    """Draw a vertical line at zero."""
    return backend_from_object(target).vline(0.0, target, **kwargs)


def bars(da: xr.DataArray, target: Any, **kwargs: Any) -> Any:
    """Draw `x_error` and `y_error` to either side of each point: one line, with gaps."""
    axes = {str(name): da.sel(plot_axis=name).values.ravel() for name in da["plot_axis"].values}
    x, y, gap = axes["x"], axes["y"], np.full_like(axes["x"], np.nan)
    along, up = [], []
    if "x_error" in axes:
        along += [x - axes["x_error"], x + axes["x_error"], gap]
        up += [y, y, gap]
    if "y_error" in axes:
        along += [x, x, gap]
        up += [y - axes["y_error"], y + axes["y_error"], gap]
    line = backend_from_object(target).line
    return line(np.stack(along, -1).ravel(), np.stack(up, -1).ravel(), target, **kwargs)


def band(da: xr.DataArray, target: Any, **kwargs: Any) -> Any:
    """Fill between `y_bottom` and `y_top`."""
    x, bottom, top = (da.sel(plot_axis=name).values for name in ("x", "y_bottom", "y_top"))
    return backend_from_object(target).fill_between_y(x, bottom, top, target, **kwargs)


def rows(da: xr.DataArray, target: Any, names: Sequence[str], **kwargs: Any) -> Any:
    """Name the rows 0, 1, ... of a panel."""
    return backend_from_object(target).yticks(np.arange(len(names)), list(names), target, **kwargs)


def titled(panels: PlotCollection, titles: Mapping[Hashable, str], dim: str) -> None:
    """Set the title of each panel, by its label."""

    def title(da: xr.DataArray, target: Any, sel: Mapping[str, Any], **info: Any) -> Any:
        return visuals.labelled_title(da, target, text=wrapped(titles[np.asarray(sel[dim]).item()]))

    panels.map(title, "title", subset_info=True, ignore_aes="all")


def wrapped(text: str) -> str:
    """Break lines so that a title stays within its panel."""
    return "\n".join(textwrap.fill(line, WIDTH) for line in text.splitlines())


def label_axes(panels: PlotCollection, x: str, y: str) -> PlotCollection:
    """Name both axes of all panels."""
    panels.map(visuals.labelled_x, "xlabel", text=x, ignore_aes="all")
    panels.map(visuals.labelled_y, "ylabel", text=y, ignore_aes="all")
    return panels
