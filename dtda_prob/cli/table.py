"""Decide how to use the columns of a user's CSV file."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    import pandas as pd

MISSING = ("refuse", "rows", "columns")
SEPARATORS = (",", ";", "\t", "|")
LEAST_ROWS = 4
MOST_VALUES = 20
"""Values that a categorical column may have, and at most half as many as there are rows."""
MOST_CLASSES = 50


class Columns(NamedTuple):
    """How each column of a table is used.

    Attributes:
        separator: between columns.
        numbers: numeric columns.
        categories: columns with few values.
        left_out: all others, except the target and the label.
        num_rows: rows that are complete in the columns that are used.
        num_skipped: rows that are not.
        is_number: whether the target is numeric.
        classes: values of the target, if it is not.
    """

    separator: str
    numbers: list[str]
    categories: list[str]
    left_out: list[str]
    num_rows: int
    num_skipped: int
    is_number: bool
    classes: list[str]


def read_columns(file: Path, target: str, label: str | None, missing: str) -> Columns:
    """Decide how each column is used.

    Raises:
        click.ClickException: if the file cannot be read, has too few rows or no column to predict from,
            values are missing and `missing` is "refuse", or the target fits neither a regression nor a
            classification.
        click.BadParameter: for an unknown column.
    """
    separator, table = _read(file)
    for name, option in (target, "--target"), (label, "--label"):
        if name is not None and name not in table.columns:
            listed = ", ".join(map(repr, table.columns))
            message = f"no column is called {name!r}; there are {listed}"
            raise click.BadParameter(message, param_hint=option)
    others = [name for name in table.columns if name not in (target, label)]
    used = [name for name in others if not _is_left_out(table[name])]
    gaps = _is_missing(table[[target, *used]]).sum()
    if missing == "columns":
        used = [name for name in used if not gaps[name]]
    gaps = gaps[[target, *used]][lambda count: count > 0]
    if len(gaps) and missing != "rows":
        raise click.ClickException(_about_gaps(gaps.to_dict(), len(table), target))
    complete = table[~_is_missing(table[[target, *used]]).any(axis=1)]
    _check_rows(complete, used, target)
    numbers, is_number = [name for name in used if _is_number(table[name])], _is_number(table[target])
    return Columns(
        separator,
        numbers,
        [name for name in used if name not in numbers],
        [name for name in others if name not in used],
        len(complete),
        len(table) - len(complete),
        is_number,
        [] if is_number else _classes(complete[target]),
    )


def _read(file: Path) -> "tuple[str, pd.DataFrame]":
    """Read a table, whose separator is the most frequent in its first line."""
    import pandas as pd

    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8-sig") as lines:
            separator = max(SEPARATORS, key=lines.readline().count)
        return separator, pd.read_csv(file, sep=separator)
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file} is not UTF-8: save it as CSV in UTF-8 ({error})") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        message = f"{file} cannot be read as a CSV in UTF-8 with a header line: {error}"
        raise click.ClickException(message) from error


def _is_number(column: "pd.Series") -> bool:
    import pandas as pd

    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _is_left_out(column: "pd.Series") -> bool:
    """Return whether a column is empty, or text that differs in most rows."""
    num_values = column.nunique()
    if num_values == 0 or str(column.name).startswith("Unnamed: "):
        return True
    return not _is_number(column) and num_values > min(MOST_VALUES, len(column) / 2)


def _is_missing(table: "pd.DataFrame") -> "pd.DataFrame":
    return table.isna() | table.isin([float("inf"), -float("inf")])


def _about_gaps(gaps: dict, num_rows: int, target: str) -> str:
    listed = ", ".join(f"{name!r} ({count} of {num_rows} rows)" for name, count in gaps.items())
    columns = "" if target in gaps else ", --missing columns leaves these columns out"
    return (
        f"values are missing, or infinite, in {listed}. Fill them in, or choose: "
        f"--missing rows leaves these rows out{columns}"
    )


def _check_rows(complete: "pd.DataFrame", used: Sequence[str], target: str) -> None:
    if len(complete) < LEAST_ROWS:
        raise click.ClickException(
            f"{len(complete)} complete rows are too few to train on some and predict others; "
            f"{LEAST_ROWS} or more are needed"
        )
    if not used:
        raise click.ClickException(
            "there is no column to predict from: each is the target, the label, empty, or text that is "
            "different in most rows"
        )
    if complete[target].nunique() < 2:
        raise click.ClickException(f"{target!r} has one value in all rows: there is nothing to predict")


def _classes(target: "pd.Series") -> list[str]:
    """Return the classes of a target, unless it is a column of numbers with some text."""
    import pandas as pd

    classes = sorted(target.astype(str).unique())
    numbers = pd.to_numeric(target, errors="coerce")
    text = target[numbers.isna()]
    if 0 < len(text) < len(target) / 2:
        some = f"{text.iloc[0]!r} in line {text.index[0] + 2}"
        raise click.ClickException(
            f"{target.name!r} is numeric except in {len(text)} of {len(target)} rows ({some}): correct "
            "or remove these values"
        )
    if len(classes) > min(MOST_CLASSES, len(target) / 2):
        some = ", ".join(map(repr, classes[:3]))
        raise click.ClickException(
            f"{target.name!r} is text with {len(classes)} values in {len(target)} rows ({some}, ...). "
            "Write numbers without thousands separators, decimal commas or units. There may be at most "
            f"{MOST_CLASSES} classes, of two rows on average"
        )
    return classes
