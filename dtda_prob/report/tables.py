"""Tables of a page: columns with units, cells that sort by what they mean and not how it is written."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

WIDTH = 120
"""Units across the drawing of an error bar."""


class Bar(NamedTuple):
    """A number with its error and its interval, drawn on a scale that a table shares.

    Attributes:
        value: where the mark is, across the drawing.
        error: where one standard error either way ends.
        interval: where the interval ends.
        zero: where zero is.
    """

    value: float
    error: tuple[float, float]
    interval: tuple[float, float]
    zero: float


class Cell(NamedTuple):
    """What stands in a table.

    Attributes:
        text: what is read.
        sort: what rows are sorted by; the text itself if None.
        picture: the address of a thumbnail beside the text.
        bar: a drawing in the place of the text, which is then for those who do not see it.
        tone: how it is set: "good", "bad", "quiet", or plainly.
        link: the part of the page that it leads to.
    """

    text: str
    sort: float | str | None = None
    picture: str | None = None
    bar: Bar | None = None
    tone: str = ""
    link: str | None = None

    @property
    def key(self) -> str:
        """Give what rows are sorted by, as text; numbers that there are not come last."""
        if isinstance(self.sort, float | int) and not np.isfinite(self.sort):
            return ""
        return self.text if self.sort is None else str(self.sort)


class Column(NamedTuple):
    """What heads a column.

    Attributes:
        title: its name.
        unit: of its numbers.
        kind: "number", "text" or "bar", by which it is set and sorted.
        note: what it says, in a sentence.
        order: the way rows are in to begin with, if they are in that of this column.
    """

    title: str
    unit: str = ""
    kind: Literal["number", "text", "bar"] = "number"
    note: str = ""
    order: Literal["", "ascending", "descending"] = ""


class Table(NamedTuple):
    """Rows under columns.

    Attributes:
        caption: what the table holds.
        columns: of it.
        rows: a cell for each column.
        searchable: whether there are rows enough to look for some.
        note: what is left out of it, or how to read it.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    searchable: bool = False
    note: str = ""


def bars(values: Any, errors: Any, lower: Any, upper: Any) -> list[Bar | None]:
    """Draw numbers on one scale, which holds zero and all their intervals; None where there is none."""
    values, errors, lower, upper = (np.asarray(x, float) for x in (values, errors, lower, upper))
    errors = np.nan_to_num(errors)
    low = np.where(np.isfinite(lower), lower, values - errors)
    high = np.where(np.isfinite(upper), upper, values + errors)
    ends = np.concatenate([low, high, [0.0]])
    ends = ends[np.isfinite(ends)]
    first, span = ends.min(), np.ptp(ends) or 1.0

    def place(x: float) -> float:
        return round(float(np.clip(2 + (WIDTH - 4) * (x - first) / span, 0, WIDTH)), 1)

    def bar(i: int) -> Bar | None:
        if not np.isfinite(values[i]):
            return None
        ends = place(values[i] - errors[i]), place(values[i] + errors[i])
        return Bar(place(values[i]), ends, (place(low[i]), place(high[i])), place(0.0))

    return [bar(i) for i in range(len(values))]
