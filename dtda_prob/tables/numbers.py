"""Numbers as people write them: with currency, per cent, thousands separators, decimal commas."""

import re

import numpy as np
import pandas as pd

MISSING = frozenset(
    (
        *("", "na", "n/a", "n.a.", "nan", "<na>", "null", "(null)", "nil", "?", "-", "--", "."),
        *("#n/a", "#na", "#div/0!", "#value!", "#ref!", "#num!", "#null!"),
    )
)
"""Cells that say that a value is missing, in lower case."""
NO_NUMBER = frozenset(("none", "missing", "unknown", "not available", "nd", "n.d."))
"""Cells that say so among numbers; among words, they are words."""

_CURRENCY = r"(?:[$€£¥₹]|USD|EUR|GBP|CHF|JPY)"
_SPACES = "\u00a0\u202f '’"


def _pattern(point: str, comma: str) -> re.Pattern:
    group = rf"\d{{1,3}}(?:[{comma}{_SPACES}]\d{{3}})+"
    digits = rf"(?:(?:{group}|\d+)(?:{point}\d*)?|{point}\d+)(?:e[-+]?\d+)?"
    amount = rf"{_CURRENCY}?\s*([-+−]?)\s*{_CURRENCY}?\s*({digits})\s*(?:%|{_CURRENCY})?"
    return re.compile(rf"([-+−(]?)\s*{amount}\)?", re.IGNORECASE)


WITH_POINT, WITH_COMMA = _pattern(r"\.", ","), _pattern(",", r"\.")


def is_missing(cells: pd.Series) -> pd.Series:
    """Return which cells say that a value is missing."""
    return cells.str.lower().isin(MISSING)


def parsed(cells: pd.Series, decimal_comma: bool = False) -> pd.Series:
    """Return cells as numbers; NaN for what is no number, and for what is not finite.

    >>> cells = pd.Series(["$1,234.50", "(3)", "5 %", "n/a?"])
    >>> parsed(cells).tolist()
    [1234.5, -3.0, 5.0, nan]
    >>> parsed(pd.Series(["1.234,5", "0,25"]), decimal_comma=True).tolist()
    [1234.5, 0.25]
    """
    if decimal_comma:
        numbers = pd.Series(np.nan, cells.index)
    else:
        numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    left = cells[numbers.isna()]
    numbers[left.index] = [_number(cell, decimal_comma) for cell in left]
    return numbers.where(np.isfinite(numbers))


def _number(cell: str, decimal_comma: bool) -> float:
    found = (WITH_COMMA if decimal_comma else WITH_POINT).fullmatch(cell)
    if found is None:
        return np.nan
    before, after, digits = found.groups()
    if (before == "(") != cell.endswith(")"):
        return np.nan
    point, comma = (",", ".") if decimal_comma else (".", ",")
    plain = re.sub(rf"[{re.escape(comma)}{_SPACES}]", "", digits).replace(point, ".")
    negative = before in ("-", "−", "(") or after in ("-", "−")
    return -float(plain) if negative else float(plain)


def has_decimal_commas(columns: list[pd.Series], if_even: bool = False) -> bool:
    """Return whether decimal commas make numbers of more columns than decimal points do."""
    votes = 0
    for cells in columns:
        sample = cells[~is_missing(cells)].iloc[:1000]
        point, comma = (parsed(sample, style).notna().sum() for style in (False, True))
        votes += int(comma > point) - int(point > comma)
    return votes > 0 or (votes == 0 and if_even)
