"""Interactive figures by arviz-plots with Bokeh, as JSON that the page draws."""

from collections.abc import Mapping
from typing import Any

import arviz_stats  # noqa: F401  (the accessor that estimates densities)
import numpy as np
import xarray as xr
from arviz_plots import PlotCollection, visuals
from bokeh.embed import json_item
from bokeh.models import (
    BoxZoomTool,
    ContinuousTicker,
    HoverTool,
    PlainText,
    ResetTool,
    SaveTool,
)
from bokeh.plotting import figure
from bokeh.resources import Resources

from dtda_prob import plots
from dtda_prob.report.numbers import clip, exponent_of, scaled_unit
from dtda_prob.report.tables import LONGEST

COLORS = ("#0072b2", "#c2500a", "#00785a", "#9a4d80", "#8a6d00", "#6b4226", "#7a7a7a", "#b03060")
"""Distinguishable without colour vision together with the dashes; contrast of 3 to 1 with white."""
DASHES = ("solid", "dashed", "dotted", "dashdot")
INK, FAINT = "#3d4248", "#e3e6ea"
NUM_POINTS = 160
"""Points of a density."""
DECADES = 1.5
"""Distance between medians of sample sets above which the axis is logarithmic."""

Item = dict[str, Any]


def script() -> str:
    """Return BokehJS, without the parts that these figures do not need."""
    library, *_ = Resources(mode="inline", components=["bokeh"], minified=True).js_raw
    return library


def style_of(position: int) -> tuple[str, str]:
    """Return the colour and the dashes of a sample set."""
    return COLORS[position % len(COLORS)], DASHES[position % len(DASHES)]


def densities(values: Mapping[str, np.ndarray], label: str) -> Item | None:
    """Draw densities of draws over each other; None if nothing varies.

    Args:
        values: finite draws by the name of their sample set.
        label: of the horizontal axis.
    """
    known = {name: draws for name, draws in values.items() if len(draws) > 1 and np.ptp(draws) > 0}
    if not known:
        return None
    names, styles = list(known), [style_of(list(values).index(name)) for name in known]
    far_apart = _spans_decades(known)
    density = _density_of_logs if far_apart else _density
    lines = xr.concat(
        [density(draws) for draws in known.values()],
        xr.DataArray(names, dims="sample_set", name="sample_set"),
        join="override",
    )
    panels = PlotCollection.wrap(
        lines.to_dataset(name="density"),
        backend="bokeh",
        aes={"color": ["sample_set"], "linestyle": ["sample_set"]},
        color=[color for color, _ in styles],
        linestyle=[dashes for _, dashes in styles],
        figure_kwargs={
            "figsize": (640, 260),
            "figsize_units": "dots",
            "subplot_kws": {"x_axis_type": "log" if far_apart else "linear"},
        },
    )
    panels.map(visuals.line_xy, "lines", width=2)
    target = panels.get_target("density", {})
    for name, line in zip(names, panels.viz["lines"]["density"].values.tolist(), strict=True):
        line.name = name
        line.data_source.data["sample_set"] = [name] * NUM_POINTS
        line.tags = [name]
    shown = [("sample set", "@sample_set"), ("value", "@x"), ("density", "@y")]
    target.add_tools(HoverTool(tooltips=shown, renderers=target.renderers, line_policy="nearest"))
    return _item(target, label, "density, per decade" if far_apart else "density")


def agreement(result: xr.Dataset, query: Any, divergence: str, unit: str) -> Item:
    """Draw retrained against predicted effects on a query, with their standard errors."""
    drawn = ["predicted", "predicted_error", "retrained", "retrained_error", "spearman"]
    chosen = result[drawn].sel(query=[query], divergence=[divergence]).load()
    scale = exponent_of([chosen[name] for name in ("predicted", "retrained")])
    chosen = chosen.assign({name: chosen[name] / 10.0**scale for name in drawn[:-1]})
    panels = plots.agreement(chosen, [query], divergence, backend="bokeh")
    target = panels.get_target("effect", {"query": query})
    points = panels.viz["points"]["effect"].values.ravel()[0]
    labels = [clip(label, LONGEST) for label in result["perturbation"].values.tolist()]
    points.data_source.data["label"] = labels
    shown = [("changed", "@label"), ("predicted", "@x"), ("retrained", "@y")]
    target.add_tools(HoverTool(tooltips=shown, renderers=[points]))
    for line in target.renderers:
        if line is not points:
            line.glyph.line_color = "#8b929a"
    points.glyph.fill_color = points.glyph.line_color = COLORS[0]
    said = f" ({scaled_unit(scale, unit)})" if scale or unit else ""
    return _item(target, f"predicted {divergence}{said}", f"retrained {divergence}{said}")


def _spans_decades(values: Mapping[str, np.ndarray]) -> bool:
    """Return whether positive draws of several sample sets are orders of magnitude apart."""
    if min(draws.min() for draws in values.values()) <= 0:
        return False
    return bool(np.ptp([np.median(np.log10(draws)) for draws in values.values()]) > DECADES)


def _density_of_logs(draws: np.ndarray) -> xr.DataArray:
    density = _density(np.log10(draws))
    return xr.where(density["plot_axis"] == "x", 10.0**density, density).transpose(*density.dims)


def _density(draws: np.ndarray) -> xr.DataArray:
    array = xr.DataArray(draws.astype(float), dims="draw")
    # Densities of nonnegative draws near zero end at zero; others fade out.
    ends = draws.min() >= 0 and draws.min() < draws.std()
    options = {} if ends else {"extend": True, "extend_fct": 0.8, "bound_correction": False}
    density = array.azstats.kde(dim="draw", grid_len=NUM_POINTS, **options)
    return density.drop_vars("bw", errors="ignore").astype(np.float32)


def _item(target: figure, x: str, y: str) -> Item:
    """Return a figure as JSON: as wide as there is room, and no text read as markup."""
    target.sizing_mode, target.height, target.title = "stretch_width", 280, None
    target.tools = [
        *(tool for tool in target.tools if isinstance(tool, HoverTool)),
        BoxZoomTool(),
        ResetTool(),
        SaveTool(),
    ]
    # Dragging scrolls the page until a tool is chosen.
    target.toolbar.active_drag = target.toolbar.active_scroll = None
    target.toolbar.logo, target.toolbar_location = None, "above"
    target.background_fill_color = target.border_fill_color = None
    target.outline_line_color = None
    target.grid.grid_line_color = FAINT
    for axis, label in zip((target.xaxis[0], target.yaxis[0]), (x, y), strict=True):
        axis.axis_label = PlainText(text=label)
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_size, axis.major_label_text_font_size = "13px", "12px"
        axis.axis_label_text_font_style = "normal"
        axis.axis_line_color = axis.major_tick_line_color = "#9aa1a9"
        axis.minor_tick_line_color = None
    for ticker in target.select({"type": ContinuousTicker}):
        ticker.update(desired_num_ticks=5)
    return dict(json_item(target))
