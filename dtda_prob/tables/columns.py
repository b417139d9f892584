"""What a column holds: numbers, categories, dates, identifiers, or text that no model uses."""

import re
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from dtda_prob.numerals import count
from dtda_prob.tables.numbers import NO_NUMBER, has_decimal_commas, is_missing, parsed
from dtda_prob.tables.text import excerpt

Kind = Literal["number", "category", "date", "identifier", "text", "constant", "empty"]
USED = ("number", "category", "date")
"""Kinds that a model can use."""
MOST_LEVELS = 50
LEAST_NUMBERS = 0.8
"""Share of cells that are numbers, above which the others are odd and not a category."""
SHOWN = 4

_DATES = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})"
    r"|\d{1,2}[ -][a-z]{3,9}[ -](\d{4}|\d{2})|[a-z]{3,9} \d{1,2}, ?\d{4})([ T]\d{1,2}:\d{2}.*)?",
    re.IGNORECASE,
)
_IDENTIFIER = re.compile(r"(.*[ _.-])?(id|ids|uuid|guid|key|index|idx|nr|no|rownames)|.*[a-z]ID", re.I)


class Column(NamedTuple):
    """A column as it was understood.

    Attributes:
        name: from the header.
        kind: what it holds.
        values: by line of the file: numbers (dates as days since 1970), or text; missing are NaN.
        odd: cells that do not fit, by line; their values are missing.
        spelling: how the numbers are written, if it is not plainly.
    """

    name: str
    kind: Kind
    values: pd.Series
    odd: dict[int, str] = {}  # noqa: RUF012
    spelling: str = ""

    @property
    def levels(self) -> pd.Series:
        """Return how often each value occurs, the most frequent first."""
        return self.values.value_counts()

    @property
    def num_missing(self) -> int:
        """Return the number of cells without a value."""
        return int(self.values.isna().sum())

    def __str__(self) -> str:
        gaps = f", {self.num_missing:,} missing" if self.num_missing and self.kind != "empty" else ""
        return f"{self._described()}{self.spelling}{gaps}{self._odd()}"

    def _described(self) -> str:
        ranges = self.kind in ("number", "date")
        low, high = (self.values.min(), self.values.max()) if ranges else (0.0, 0.0)
        if self.kind == "number" and len(self.levels) == 2:
            return f"number: {' and '.join(f'{short(k)} ({n:,})' for k, n in self.levels.items())}"
        if self.kind == "number":
            return f"number, {short(low)} to {short(high)}"
        if self.kind == "date":
            first, last = (pd.Timestamp(days, unit="D").date() for days in (low, high))
            return f"date, {first} to {last}"
        if self.kind == "category":
            some = [f"{excerpt(str(k))[1:-1]} ({n:,})" for k, n in self.levels.iloc[:SHOWN].items()]
            more = len(self.levels) - len(some)
            return f"category: {', '.join(some)}{f' and {more} more' if more > 0 else ''}"
        if self.kind == "constant":
            return f"not used: {excerpt(str(self.values.dropna().iloc[0]))} in all rows"
        whys = {
            "identifier": "an identifier of the rows",
            "text": f"text with {count(self.values.nunique(), 'value')}",
            "empty": "empty",
        }
        return f"not used: {whys[self.kind]}"

    def _odd(self) -> str:
        if not self.odd:
            return ""
        line, cell = next(iter(self.odd.items()))
        more = f" and {len(self.odd) - 1:,} more" if len(self.odd) > 1 else ""
        return f"; {excerpt(cell)} in line {line}{more} taken as missing"


def short(number: Any) -> str:
    """Return a number in a few digits, without a power of ten where it is neither large nor small."""
    if number and not 1e-4 <= abs(number) < 1e7:
        return f"{number:.4g}"
    rounded = number if number == round(number) else float(f"{number:.4g}")
    return np.format_float_positional(rounded, trim="-")


def as_column(name: str, cells: pd.Series, decimal_comma: bool) -> Column:
    """Decide what a column holds from its cells, which are text by line."""
    present = cells[~is_missing(cells)]
    if present.empty:
        return Column(name, "empty", pd.Series(np.nan, cells.index))
    decimal_comma = has_decimal_commas([present], decimal_comma)
    numbers = parsed(present, decimal_comma)
    found = numbers.notna()
    words = present[~found & ~present.str.lower().isin(NO_NUMBER)]
    few = present.str.lower().nunique() <= _most_levels(len(cells))
    is_number = found.mean() >= LEAST_NUMBERS and not (few and len(words) > 0.05 * len(present))
    if is_number and not _is_code(present):
        odd = dict(zip(present.index[~found], present[~found], strict=True))
        values = numbers.reindex(cells.index)
        return Column(name, _number_kind(name, values), values, odd, _spelling(present, decimal_comma))
    dates = _dates(present)
    if dates is not None:
        return Column(name, "date", dates.reindex(cells.index))
    return _of_words(name, present.reindex(cells.index), few)


def _most_levels(number: int) -> int:
    return max(2, min(MOST_LEVELS, number // 4))


def _is_code(cells: pd.Series) -> bool:
    """Return whether digits are a code, such as a postal code that begins with 0."""
    return bool(cells.str.fullmatch(r"\d+").all() and cells.str.fullmatch(r"0\d+").any())


def _number_kind(name: str, values: pd.Series) -> Kind:
    known = values.dropna()
    if known.nunique() == 1:
        return "constant"
    whole = bool((known == known.round()).all())
    distinct = known.nunique() > 0.95 * len(known) and len(known) > 2
    if whole and distinct and _IDENTIFIER.fullmatch(name.strip()):
        return "identifier"
    is_running = whole and len(values) > 8 and bool((values.diff().iloc[1:] == 1).all())
    return "identifier" if is_running and not len(values) > len(known) else "number"


def _spelling(cells: pd.Series, decimal_comma: bool) -> str:
    """Return how numbers are written, where it is not plainly."""
    sample = cells.iloc[:1000]
    signs = {"%": "per cent", "$": "$", "€": "€", "£": "£", "¥": "¥"}
    words = [word for sign, word in signs.items() if sample.str.contains(sign, regex=False).any()]
    words += ["decimal commas"] if decimal_comma and sample.str.contains(",").any() else []
    return f" (in {', '.join(words)})" if words else ""


def _dates(cells: pd.Series) -> pd.Series | None:
    """Return dates as days since 1970, if all cells are dates."""
    if not cells.str.fullmatch(_DATES).all():
        return None
    dates = pd.to_datetime(
        cells, errors="coerce", format="mixed", dayfirst=_is_day_first(cells), utc=True
    )
    return None if dates.isna().any() else (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)


def _is_day_first(cells: pd.Series) -> bool:
    """Return whether days stand before months: if a first number must be a day, or points separate."""
    parts = cells.str.extract(r"^(\d{1,2})([-/.])(\d{1,2})[-/.]").dropna()
    first, second = (parts[place].astype(int) for place in (0, 2))
    return bool((first > 12).any() or ((parts[1] == ".").any() and not (second > 12).any()))


def _of_words(name: str, values: pd.Series, few: bool) -> Column:
    """Return a column of text: a category if its values are few, each in one spelling."""
    spellings = values.dropna().value_counts()
    by_word = spellings.groupby(spellings.index.str.lower(), sort=False)
    usual = by_word.idxmax()
    merged = values.dropna().str.lower().map(usual).reindex(values.index)
    if merged.nunique() == 1:
        return Column(name, "constant", merged)
    if few:
        variants = [word for word in spellings.index if word not in set(usual)]
        said = f" (with {', '.join(map(excerpt, variants[:SHOWN]))})" if variants else ""
        return Column(name, "category", merged, {}, said)
    unique = values.nunique() == values.notna().sum()
    return Column(name, "identifier" if unique and not _is_prose(values) else "text", values)


def _is_prose(values: pd.Series) -> bool:
    return bool(values.dropna().str.count(" ").median() > 2)
