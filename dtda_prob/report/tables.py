"""Tables of a page: columns that are sorted by their values and shown as text."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from dtda_prob.numerals import NONE, brief, clip, fixed

MOST_ROWS = 200
"""Of a table on the page."""
LONGEST = 80
"""Characters of a cell."""
WIDTH = 120
"""Units across the drawing of an error bar."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        values: what rows are sorted by.
        shown: the texts or markup in the place of the values, if they are not shown as they are.
        note: a sentence about the column.
    """

    values: Any
    shown: Sequence[str] | None = None
    note: str = ""

    @property
    def kind(self) -> str:
        """Return "number" or "text"."""
        return "number" if np.asarray(self.values).dtype.kind in "biuf" else "text"

    @property
    def shows_anything(self) -> bool:
        """Return whether any cell has a text other than a dash; a column without rows is shown."""
        texts = [text for _, _, text in self.cells()]
        return not texts or any(text not in ("", NONE) for text in texts)

    def cells(self) -> Iterator[tuple[str, str, str]]:
        """Yield kind, sort key and text of each cell."""
        for value, text in zip(self.values, self.shown or self.values, strict=True):
            yield self.kind, _key(value), _text(text)


class Table(NamedTuple):
    """Columns by name, what the rows are, and a sentence below them."""

    caption: str
    given: Mapping[str, Column]
    note: str = ""

    @property
    def columns(self) -> dict[str, Column]:
        """Return the columns that have something to show in any row."""
        return {name: column for name, column in self.given.items() if column.shows_anything}

    @property
    def num_rows(self) -> int:
        """Return the number of rows, of which the page shows the first."""
        return len(next(iter(self.given.values())).values)

    @property
    def notes(self) -> dict[str, str]:
        """Return the sentences about columns."""
        return {name: column.note for name, column in self.columns.items() if column.note}

    @property
    def notes_below(self) -> str:
        """Return the note, and how many rows are left out."""
        left_out = self.num_rows - MOST_ROWS
        return f"{self.note} {left_out:,} more rows are not shown." if left_out > 0 else self.note

    def heads(self) -> Iterator[tuple[str, str, str]]:
        """Yield name, kind and initial order of each column."""
        for i, (name, column) in enumerate(self.columns.items()):
            values = list(column.values)
            yield name, column.kind, "" if i or values != sorted(values) else "ascending"

    def rows(self) -> Iterator[tuple[tuple[str, str, str], ...]]:
        """Yield kind, sort key and text of the cells of each row."""
        columns = (column.cells() for column in self.columns.values())
        return islice(zip(*columns, strict=True), MOST_ROWS)


def _key(value: Any) -> str:
    """Return what a cell is sorted by; values that are not finite come last."""
    if isinstance(value, str):
        return clip(value, LONGEST)
    return str(value) if np.isfinite(value) else ""


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if isinstance(value, Markup) else clip(value, LONGEST)
    return f"{value:,}" if isinstance(value, int | np.integer) else brief(value, 4)


def marked(good: Any, text: str) -> Markup:
    """Return a text that is marked as good or bad."""
    return Markup('<span class="{}">{}</span>').format("good" if good else "bad", text)


def bars(values: Any, errors: Any, lower: Any, upper: Any) -> list[Markup]:
    """Draw numbers with errors and intervals on one scale, which holds zero."""
    values, errors, lower, upper = (np.asarray(x, float) for x in (values, errors, lower, upper))
    errors = np.nan_to_num(errors)
    low = np.where(np.isfinite(lower), lower, values - errors)
    high = np.where(np.isfinite(upper), upper, values + errors)
    ends = np.concatenate([low, high, [0.0]])
    ends = ends[np.isfinite(ends)]
    each = np.stack([np.zeros_like(values), low, high, values - errors, values + errors, values], -1)
    places = np.clip(2 + (WIDTH - 4) * (each - ends.min()) / (np.ptp(ends) or 1.0), 0, WIDTH).round(1)
    return [
        _bar(fixed(value, 3), *place) if np.isfinite(value) else Markup(NONE)
        for value, place in zip(values, places.tolist(), strict=True)
    ]


def _bar(
    label: str, zero: float, low: float, high: float, left: float, right: float, middle: float
) -> Markup:
    lines = ("zero", zero, zero, 0, 14), ("interval", low, high, 7, 7), ("error", left, right, 7, 7)
    drawn = "".join(
        f'<line class="{kind}" x1="{start}" x2="{end}" y1="{top}" y2="{bottom}"/>'
        for kind, start, end, top, bottom in lines
    )
    return Markup(
        f'<svg class="drawing" viewBox="0 0 {WIDTH} 14" role="img" aria-label="{label}">{drawn}'
        f'<circle cx="{middle}" cy="7" r="3.2"/></svg>'
    )
