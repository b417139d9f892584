"""Figures, as shapes that the page draws: densities of sample sets, and predictions against truth."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from dtda_prob.numerals import MINUS, SUPERSCRIPTS, brief, clip, exponent_of, scaled_unit
from dtda_prob.report.tables import LONGEST

COLORS = ("#0072b2", "#c2500a", "#00785a", "#9a4d80", "#8a6d00", "#6b4226", "#7a7a7a", "#b03060")
"""Distinguishable without colour vision together with the dashes; contrast of 3 to 1 with white."""
DASHES = ("none", "8 4", "2 3", "8 3 2 3")
NUM_POINTS = 160
"""Points of a density."""
DECADES = 1.5
"""Distance between medians of sample sets above which the axis is logarithmic."""
FARTHEST = 6.0
"""Ranges of the draws, beyond which the truth is not drawn: it would press them together."""
ACROSS, DOWN = 360, 160
"""Units of the area in which points lie."""


class Style(NamedTuple):
    """The name of a sample set, and how its line is drawn."""

    name: str
    color: str
    dashes: str


class Mark(NamedTuple):
    """A point with the path of its error bars, what it is, and whether it stands out."""

    x: float
    y: float
    errors: str
    label: str
    stands_out: bool = True


class Axis(NamedTuple):
    """The label, the ends and the ticks of an axis, as positions and texts."""

    label: str
    low: float
    high: float
    ticks: list[tuple[float, str]]

    def share(self, values: Any) -> np.ndarray:
        """Return how far along the axis values lie, from 0 to 1."""
        return (np.asarray(values, float) - self.low) / (self.high - self.low)


class Figure(NamedTuple):
    """Lines (style and path), marks and a true value between two axes, and what they show in words."""

    described: str
    x: Axis
    y: Axis
    lines: list[tuple[Style, str]]
    marks: list[Mark]
    truth: float | None = None

    def across(self, values: Any) -> np.ndarray:
        """Return the horizontal positions of values."""
        return (ACROSS * self.x.share(values)).round(1)

    def down(self, values: Any) -> np.ndarray:
        """Return the vertical positions of values, which count from the top."""
        return (DOWN * (1 - self.y.share(values))).round(1)


def styles_of(names: list[str]) -> list[Style]:
    """Return how sample sets that are drawn over each other differ."""
    return [
        Style(clip(name, LONGEST), COLORS[i % len(COLORS)], DASHES[i % len(DASHES)])
        for i, name in enumerate(names)
    ]


def densities(
    values: Mapping[Style, np.ndarray],
    measured: str,
    unit: str,
    described: str,
    truth: float = math.nan,
) -> Figure | None:
    """Draw densities of draws over each other; None if nothing varies.

    Args:
        values: finite draws by the style of their sample set.
        measured: what is on the horizontal axis.
        unit: its unit.
        described: what is drawn, in words.
        truth: the value that is measured in truth, which is drawn unless it is unknown or far away.
    """
    known = {style: draws for style, draws in values.items() if len(draws) > 1 and np.ptp(draws) > 0}
    if not known:
        return None
    far_apart = _spans_decades(known)
    scale = 0 if far_apart else exponent_of(np.concatenate([*known.values()]))
    curves = [
        _density(np.log10(draws) if far_apart else draws / 10.0**scale) for draws in known.values()
    ]
    places = np.concatenate([x for x, _ in curves])
    truth = truth / 10.0**scale
    is_near = bool(not far_apart and abs(truth - places.mean()) < FARTHEST * np.ptp(places))
    x = axis(_labelled(measured, scale, unit), np.append(places, [truth] * is_near), far_apart)
    heights = np.concatenate([y for _, y in curves])
    y = axis("density, per decade" if far_apart else "density", np.append(heights, 0.0))
    figure = Figure(described, x, y, [], [], truth if is_near else None)
    for style, curve in zip(known, curves, strict=True):
        figure.lines.append((style, _path(figure.across(curve[0]), figure.down(curve[1]))))
    return figure


def agreement(result: xr.Dataset, query: Any, divergence: str, unit: str, described: str) -> Figure:
    """Draw retrained against predicted effects on a query, where both are finite, with their errors."""
    names = ["predicted", "predicted_error", "retrained", "retrained_error"]
    chosen = result[names].sel(query=query, divergence=divergence).load()
    missing = (chosen["predicted"] + chosen["retrained"]).isnull()
    chosen = chosen.isel(perturbation=~missing.values)
    scale = exponent_of([chosen[name] for name in ("predicted", "retrained")])
    x, x_error, y, y_error = (np.nan_to_num(chosen[name].values / 10.0**scale) for name in names)
    ends = np.concatenate([x - x_error, x + x_error, y - y_error, y + y_error])
    labels = (_labelled(f"{arm} {divergence}", scale, unit) for arm in ("predicted", "retrained"))
    across, down = (axis(label, ends) for label in labels)
    figure = Figure(described, across, down, [], [])
    sides = figure.across([x, x - x_error, x + x_error]), figure.down([y, y - y_error, y + y_error])
    for i, label in enumerate(chosen["perturbation"].values.tolist()):
        (across, left, right), (down, bottom, top) = (side[:, i] for side in sides)
        errors = f"M{left} {down}H{right}M{across} {bottom}V{top}"
        text = f"{clip(label, LONGEST)}: predicted {brief(x[i])}, retrained {brief(y[i])}"
        figure.marks.append(Mark(across, down, errors, text))
    return figure


def _labelled(what: str, scale: int, unit: str) -> str:
    """Return the label of an axis whose values are multiples of a power of ten of a unit."""
    said = scaled_unit(scale, unit)
    return f"{what} ({said})" if said else what


def axis(label: str, values: np.ndarray, is_log: bool = False) -> Axis:
    """Build an axis that holds some values, which are exponents of ten where it is logarithmic."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 1.0, high + 1.0
    ticks = np.asarray(MaxNLocator(5, integer=is_log).tick_values(low, high))
    inside = [tick for tick in ticks.tolist() if low <= tick <= high]
    return Axis(label, low, high, [(tick, _tick(tick, is_log)) for tick in inside])


def _tick(value: float, is_log: bool) -> str:
    if is_log:
        return f"10{str(int(value)).translate(SUPERSCRIPTS)}"
    return f"{value:.6g}".replace("-", MINUS)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + " ".join(f"{a},{b}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def _spans_decades(values: Mapping[Any, np.ndarray]) -> bool:
    """Return whether positive draws of several sample sets are orders of magnitude apart."""
    if min(draws.min() for draws in values.values()) <= 0:
        return False
    return bool(np.ptp([np.median(np.log10(draws)) for draws in values.values()]) > DECADES)


def _density(draws: np.ndarray) -> np.ndarray:
    """Return places and the density there, `(2, point)`."""
    import arviz_stats  # noqa: F401  (the accessor)

    array = xr.DataArray(draws.astype(float), dims="draw")
    # Densities of nonnegative draws near zero end at zero; others fade out.
    ends = draws.min() >= 0 and draws.min() < draws.std()
    options = {} if ends else {"extend": True, "extend_fct": 0.8, "bound_correction": False}
    density = array.azstats.kde(dim="draw", grid_len=NUM_POINTS, **options)
    return density.sel(plot_axis=["x", "y"]).values
