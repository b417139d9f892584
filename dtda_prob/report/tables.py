"""DataFrames as tables of a page: sorted by their values, shown as formatted text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from dtda_prob.report.numbers import brief, clip, fixed

MOST_ROWS = 200
"""Of a table on the page."""
LONGEST = 80
"""Characters of a cell."""
WIDTH = 120
"""Units across the drawing of an error bar."""
TICK = Markup('<span class="{}">{}</span>')


class Table(NamedTuple):
    """A DataFrame with what a page needs beside it.

    Attributes:
        caption: what the rows are.
        frame: the values, which rows are sorted by.
        shown: by column, the text or markup in the place of the values.
        notes: by column, a sentence about it.
        note: a sentence below the table.
    """

    caption: str
    frame: pd.DataFrame
    shown: Mapping[str, Sequence[str]] = {}
    notes: Mapping[str, str] = {}
    note: str = ""

    def heads(self) -> Iterator[tuple[str, str, str]]:
        """Yield name, kind and initial order of each column."""
        for i, name in enumerate(self.frame):
            is_sorted = i == 0 and self.frame[name].is_monotonic_increasing
            yield str(name), self._kind(name), "ascending" if is_sorted else ""

    def rows(self) -> Iterator[list[tuple[str, str, str]]]:
        """Yield kind, sort key and text of the cells of each row."""
        kinds = [self._kind(name) for name in self.frame]
        columns = [self.shown.get(str(name), values) for name, values in self.frame.items()]
        for values, *texts in zip(
            self.frame[:MOST_ROWS].itertuples(index=False, name=None), *columns, strict=False
        ):
            yield [
                (kind, _key(value), _text(text))
                for kind, value, text in zip(kinds, values, texts, strict=True)
            ]

    @property
    def notes_below(self) -> str:
        """Return the note, and how many rows are left out."""
        left_out = len(self.frame) - MOST_ROWS
        return (
            f"{self.note} {left_out:,} more rows are not shown.".strip() if left_out > 0 else self.note
        )

    def _kind(self, name: Any) -> str:
        return "number" if pd.api.types.is_numeric_dtype(self.frame[name]) else "text"


def _key(value: Any) -> str:
    """Return what a cell is sorted by; values that are not finite come last."""
    if isinstance(value, str):
        return clip(value, LONGEST)
    return str(value) if np.isfinite(value) else ""


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if isinstance(value, Markup) else clip(value, LONGEST)
    return f"{value:,}" if isinstance(value, int | np.integer) else brief(value, 4)


def told(good: Any, passed: str, failed: str) -> Markup:
    """Return a verdict, marked as good or bad."""
    return TICK.format("good" if good else "bad", passed if good else failed)


def bars(values: Any, errors: Any, lower: Any, upper: Any) -> list[Markup]:
    """Draw numbers with errors and intervals on one scale, which holds zero."""
    values, errors, lower, upper = (np.asarray(x, float) for x in (values, errors, lower, upper))
    errors = np.nan_to_num(errors)
    low = np.where(np.isfinite(lower), lower, values - errors)
    high = np.where(np.isfinite(upper), upper, values + errors)
    ends = np.concatenate([low, high, [0.0]])
    ends = ends[np.isfinite(ends)]
    first, span = ends.min(), np.ptp(ends) or 1.0

    def place(x: Any) -> np.ndarray:
        return np.round(np.clip(2 + (WIDTH - 4) * (np.asarray(x) - first) / span, 0, WIDTH), 1)

    def line(kind: str, start: float, end: float, y: tuple[int, int] = (7, 7)) -> str:
        return f'<line class="{kind}" x1="{start}" x2="{end}" y1="{y[0]}" y2="{y[1]}"/>'

    def bar(value: float, error: float, low: float, high: float) -> Markup:
        if not np.isfinite(value):
            return Markup("–")
        zero, least, most, left, right, middle = place(
            [0.0, low, high, value - error, value + error, value]
        )
        return Markup(
            f'<svg class="drawing" viewBox="0 0 {WIDTH} 14" role="img" aria-label="{fixed(value, 3)}">'
            + line("zero", zero, zero, (0, 14))
            + line("interval", least, most)
            + line("error", left, right)
            + f'<circle cx="{middle}" cy="7" r="3.2"/></svg>'
        )

    return [bar(*each) for each in zip(values, errors, low, high, strict=True)]
