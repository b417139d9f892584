"""A user's CSV, looked at before an experiment is written for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

if TYPE_CHECKING:
    import pandas as pd

Missing = Literal["refuse", "rows", "columns"]

SEPARATORS = (",", ";", "\t", "|")
LEAST_ROWS = 4
MOST_VALUES = 20
"""Values that a column of categories may have, and no more than half as many as there are rows."""


class Columns(NamedTuple):
    """What each column of a table is taken for.

    Attributes:
        separator: between columns.
        numbers: columns of numbers.
        categories: columns with few values.
        left_out: all others, but for the target and the label.
        num_rows: rows that are complete in the columns that are used.
        num_skipped: rows that are not.
        is_number: whether the target is one.
    """

    separator: str
    numbers: list[str]
    categories: list[str]
    left_out: list[str]
    num_rows: int
    num_skipped: int
    is_number: bool


def look_at(file: Path, target: str, label: str | None, missing: Missing) -> Columns:
    """Decide what each column is taken for.

    Raises:
        click.ClickException: if the file cannot be read, has too few rows or nothing to predict from,
            or values are missing and nothing was said about them.
        click.BadParameter: for a column that there is not.
    """
    separator = _separator(file)
    table = _read(file, separator)
    _check_column(table, target, "--target")
    if label is not None:
        _check_column(table, label, "--label")
    others = [name for name in table.columns if name not in (target, label)]
    used = [name for name in others if not _is_left_out(table[name])]
    gaps = {name: int(_is_missing(table[name]).sum()) for name in [target, *used]}
    gaps = {name: count for name, count in gaps.items() if count}
    if missing == "columns":
        used = [name for name in used if name not in gaps]
        gaps = {name: count for name, count in gaps.items() if name == target}
    if gaps and missing != "rows":
        raise click.ClickException(_about_gaps(gaps, len(table), target))
    complete = table[~_any_missing(table, [target, *used])]
    _check_rows(complete, used, target)
    numbers = [name for name in used if _is_number(table[name])]
    return Columns(
        separator,
        numbers,
        [name for name in used if name not in numbers],
        [name for name in others if name not in used],
        len(complete),
        len(table) - len(complete),
        _is_number(table[target]),
    )


def _separator(file: Path) -> str:
    """Choose what the first line has most of."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            head = lines.readline()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file} is not UTF-8: save it as CSV in UTF-8 ({error})") from error
    return max(SEPARATORS, key=head.count)


def _read(file: Path, separator: str) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_csv(file, sep=separator)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise click.ClickException(
            f"{file} cannot be read as a CSV in UTF-8 with a header line: {error}"
        ) from error


def _check_column(table: "pd.DataFrame", name: str, option: str) -> None:
    if name not in table.columns:
        listed = ", ".join(map(repr, table.columns))
        raise click.BadParameter(f"no column is called {name!r}; there are {listed}", param_hint=option)


def _is_number(column: "pd.Series") -> bool:
    import pandas as pd

    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _is_left_out(column: "pd.Series") -> bool:
    """Say whether a column tells rows apart and nothing else, or is empty."""
    num_values = column.nunique()
    if num_values == 0 or str(column.name).startswith("Unnamed: "):
        return True
    return not _is_number(column) and num_values > min(MOST_VALUES, len(column) / 2)


def _is_missing(column: "pd.Series") -> "pd.Series":
    import numpy as np

    return column.isna() | column.isin([np.inf, -np.inf])


def _any_missing(table: "pd.DataFrame", names: Sequence[str]) -> "pd.Series":
    return table[[*names]].apply(_is_missing).any(axis=1)


def _about_gaps(gaps: dict[str, int], num_rows: int, target: str) -> str:
    listed = ", ".join(f"{name!r} ({count} of {num_rows} rows)" for name, count in gaps.items())
    columns = "" if target in gaps else ", --missing columns leaves these columns out"
    return (
        f"values are missing, or infinite, in {listed}. Fill them in, or say what to do: "
        f"--missing rows leaves these rows out{columns}"
    )


def _check_rows(complete: "pd.DataFrame", used: Sequence[str], target: str) -> None:
    if len(complete) < LEAST_ROWS:
        raise click.ClickException(
            f"{len(complete)} complete rows are too few to train on some and ask about others; "
            f"{LEAST_ROWS} are needed at least"
        )
    if not used:
        raise click.ClickException(
            "there is no column to predict from: each is the target, the label, empty, or text that is "
            "different in most rows"
        )
    if complete[target].nunique() < 2:
        raise click.ClickException(f"{target!r} has one value in all rows: there is nothing to predict")
