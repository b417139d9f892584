"""Numbers with their errors, and rows of words."""

import math
from collections.abc import Sequence
from typing import Any

MOST_ROWS = 5
"""Rows that are listed of a table; --json has them all."""


def with_error(value: float, error: float) -> str:
    """Write a number with its error, to the digits that the error leaves.

    >>> with_error(0.012345, 0.00042)
    '0.01235 +- 0.00042'
    >>> with_error(5.0, float("nan"))
    '5 +- nan'
    """
    if not math.isfinite(error) or error <= 0:
        return f"{value:.3g} +- {error:.2g}"
    digits = 1 - math.floor(math.log10(error))
    if digits > 6 or digits < -5:
        return f"{value:.3g} +- {error:.1g}"
    return f"{value:.{max(0, digits)}f} +- {error:.{max(0, digits)}f}"


def aligned(rows: Sequence[Sequence[Any]], most: int | None = None) -> list[str]:
    """Set rows of words in columns, and say how many more there are than the most."""
    shown = [[str(word) for word in row] for row in rows[:most]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = [
        "  " + "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    left = len(rows) - len(shown)
    return [*lines, f"  ... and {left} more"] if left else lines
