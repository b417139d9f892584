"""A table from a file: its columns as they were understood, and what was done to read it."""

from collections import Counter
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dtda_prob.tables.columns import Column, as_column
from dtda_prob.tables.numbers import has_decimal_commas, is_missing, parsed
from dtda_prob.tables.text import Lines, excerpt, read_lines

SAMPLE = 200
"""Records that decide how wide a table is, and whether it has a header."""
YEARS = r"(19|20)\d\d"


class Table(NamedTuple):
    """A table as it was understood.

    Attributes:
        path: of the file.
        cells: as they stand in the file, by line.
        columns: by name.
        notes: what was done to read the file.
    """

    path: Path
    cells: pd.DataFrame
    columns: dict[str, Column]
    notes: list[str]

    @property
    def frame(self) -> pd.DataFrame:
        """Return the values of all columns, by line."""
        return pd.DataFrame({name: column.values for name, column in self.columns.items()})

    def column(self, name: str) -> Column:
        """Return a column.

        Raises:
            ValueError: if no column has this name.
        """
        if name not in self.columns:
            listed = ", ".join(map(repr, self.columns))
            hint = ". Is there no header line?" if "column 1" in self.columns else ""
            raise ValueError(f"{self.path}: no column is called {name!r}; there are {listed}{hint}")
        return self.columns[name]


def read_table(path: str | PathLike) -> Table:
    """Read a table from a file of separated values, as people save them.

    Compression by gzip, encodings, separators, decimal commas, thousands separators, currencies, per
    cent, markers of missing values, a missing header, spaces and duplicates in it, identifiers and
    dates are recognised; `notes` and the columns say what was taken for what.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it cannot be understood; the message names the line and what stands there.
    """
    path = Path(path)
    lines = read_lines(path)
    if not lines.records:
        raise ValueError(f"{path} is empty: there is no header and no row")
    notes = [", ".join(lines.form)]
    lines = _aligned(_from_header(lines, notes), notes)
    width = len(lines.records[0])
    rows = [_fitted(path, *pair, width) for pair in zip(lines.starts, lines.records, strict=True)]
    names, first = _names(rows, notes)
    if not rows[first:]:
        raise ValueError(f"{path} has a header and no row below it")
    index = pd.Index(lines.starts[first:], name="line")
    cells = pd.DataFrame(rows[first:], index, names, dtype=str)
    unnamed = [name for name, head in zip(names, rows[0], strict=True) if not head]
    cells = cells.drop(columns=[name for name in unnamed if (cells[name] == "").all()])
    decimal_comma = has_decimal_commas([cells[name] for name in cells])
    columns = {name: as_column(name, cells[name], decimal_comma) for name in map(str, cells)}
    return Table(path, cells, columns, notes)


def _width(records: list[list[str]]) -> int:
    """Return the number of cells that most records have."""
    return max(Counter(map(len, records[:SAMPLE])).items(), key=lambda pair: pair[::-1])[0]


def _from_header(lines: Lines, notes: list[str]) -> Lines:
    """Pass over comments and titles before the header."""
    width = _width(lines.records)
    for first, record in enumerate(lines.records):
        is_comment = record[0].startswith("#") and len(record) != width
        if not is_comment and (len(record) >= width or len(record) == width - 1 > 1):
            return lines._replace(starts=lines.starts[first:], records=lines.records[first:])
        notes.append(f"line {lines.starts[first]} is passed over: {excerpt(','.join(record))}")
    return lines


def _aligned(lines: Lines, notes: list[str]) -> Lines:
    """Mend a header with one name less than there are cells: for row names, or an empty last cell."""
    header, *body = lines.records
    if {len(record) for record in body} != {len(header) + 1}:
        return lines
    if all(record[len(header) :] == [""] for record in body):
        return lines._replace(records=[header, *(record[:-1] for record in body)])
    notes.append("the first column has no name: it is taken as the names of the rows")
    return lines._replace(records=[["row", *header], *body])


def _fitted(path: Path, line: int, record: list[str], width: int) -> list[str]:
    """Return a record of as many cells as the header has."""
    while len(record) > width and not record[-1]:
        record = record[:-1]
    if len(record) != width:
        cells = "1 cell" if len(record) == 1 else f"{len(record)} cells"
        raise ValueError(
            f"{path}, line {line}: {cells} under a header of {width}: {excerpt(','.join(record))}. Is "
            "a separator missing, or a cell that holds one not quoted?"
        )
    return record


def _names(rows: list[list[str]], notes: list[str]) -> tuple[list[str], int]:
    """Return the names of the columns, each once, and the position of the first row."""
    header = rows[0]
    if not _has_header(header, pd.DataFrame(rows[1:SAMPLE], dtype=str)):
        names = [f"column {place}" for place in range(1, len(header) + 1)]
        notes.append(f"there is no header line: the columns are called {names[0]!r} to {names[-1]!r}")
        return names, 0
    names: list[str] = []
    for place, name in enumerate(header, 1):
        named, again = name or f"column {place}", 2
        while named in names:
            named, again = f"{name} ({again})", again + 1
        if name and named != name:
            notes.append(f"column {place} is called {named!r}, since another is called {name!r}")
        names.append(named)
    return names, 1


def _has_header(header: list[str], body: pd.DataFrame) -> bool:
    """Return whether the first line holds names: text above numbers, or years as names."""
    numeric = [
        head
        for head, (_, cells) in zip(header, body.items(), strict=False)
        if parsed(cells[~is_missing(cells)]).notna().mean() > 0.5
    ]
    if not numeric:
        return True
    heads = pd.Series(numeric, dtype=str)
    are_years = heads.str.fullmatch(YEARS).all() and not body.stack().str.fullmatch(YEARS).all()
    return bool(are_years) or bool(parsed(heads).isna().any())
