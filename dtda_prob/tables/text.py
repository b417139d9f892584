"""Lines of cells from a file as people save it: compressed, in several encodings and separators."""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SAMPLE = 200
"""Lines that decide between separators."""
EXCERPT = 40
COMPRESSED = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"BZh": ("bzip2", bz2.decompress),
    b"\xfd7zXZ": ("xz", lzma.decompress),
}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by the byte order mark; marks of UTF-32 begin like marks of UTF-16."""
OTHERS = {
    b"PK\x03\x04": "an Excel workbook or another ZIP archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite": "an SQLite database",
    b"%PDF": "a PDF",
}


class Lines(NamedTuple):
    """The records of a file: where each begins, its cells, and what was noticed.

    Attributes:
        starts: the line at which each record begins; the first line of a file is 1.
        records: the cells of each record, stripped of spaces; empty records are left out.
        form: encoding, compression and separator, where they are worth a word.
    """

    starts: list[int]
    records: list[list[str]]
    form: list[str]


def read_lines(path: Path) -> Lines:
    """Read the records of a file of separated values.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no text, is damaged, or a quotation mark is not closed.
    """
    text, form = _decoded(path, path.read_bytes())
    separator, skipped = _separator(text)
    starts, records = [], []
    for start, record in _records(path, text, separator):
        if start > skipped and any(record):
            starts.append(start)
            records.append(record)
    return Lines(starts, records, [*form, f"separated by {SEPARATORS.get(separator, repr(separator))}"])


def excerpt(text: str) -> str:
    """Return the beginning of a text for a message."""
    return repr(text if len(text) <= EXCERPT else f"{text[: EXCERPT - 3]}...")


def _decoded(path: Path, content: bytes) -> tuple[str, list[str]]:
    """Return the text of a file, and how it is stored."""
    form = []
    for start, (kind, decompress) in COMPRESSED.items():
        if content.startswith(start):
            form.append(kind)
            try:
                content = decompress(content)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise ValueError(f"{path} is a damaged {kind} file: {error}") from error
    for start, kind in OTHERS.items():
        if content.startswith(start):
            raise ValueError(f"{path} is {kind}: save the table as CSV")
    text, encoding = _as_text(path, content)
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{path}, line {line}: holds a NUL character; the file is damaged, or no text")
    return text, [*form, encoding]


def _as_text(path: Path, content: bytes) -> tuple[str, str]:
    """Decode bytes by their mark, or as UTF-8, or else as Windows-1252."""
    marked = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    encoding = marked or _without_mark(content)
    try:
        return content.decode(encoding), encoding.upper().removesuffix("-SIG")
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(f"{path} is damaged {encoding.upper()}: {error}") from error
    try:
        return content.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise ValueError(
            f"{path}, line {line}: byte 0x{byte:02x} is neither UTF-8 nor Windows-1252; save the "
            "table as CSV in UTF-8"
        ) from error


def _without_mark(content: bytes) -> str:
    """Recognise UTF-16 by its zero bytes: every other one, in text of western letters and digits."""
    sample = content[:1000]
    low, high = sample[0::2].count(0), sample[1::2].count(0)
    if max(low, high) < len(sample) / 4 or min(low, high) > len(sample) / 20:
        return "utf-8"
    return "utf-16-le" if high > low else "utf-16-be"


def _separator(text: str) -> tuple[str, int]:
    """Return the separator, and how many lines only say so, as Excel's `sep=;` does."""
    said = re.match(r'"?sep=(.)"?\r?\n', text, re.IGNORECASE)
    if said:
        return said[1], 1
    lines = [line for line in islice(io.StringIO(text, newline=None), SAMPLE) if line.strip()]
    return max(SEPARATORS, key=lambda separator: _fit(lines, separator)), 0


def _fit(lines: list[str], separator: str) -> tuple[bool, float, int]:
    """Rate a separator: whether it separates, how evenly, and into how many cells."""
    widths = Counter(map(len, csv.reader(lines, delimiter=separator)))
    width, number = max(widths.items(), key=lambda pair: pair[::-1], default=(0, 0))
    return width > 1, number / max(1, widths.total()), width


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line at which each record begins, and its cells."""
    lines = io.StringIO(text, newline=None)
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    start = 1
    try:
        for record in reader:
            yield start, [cell.strip() for cell in record]
            start = reader.line_num + 1
    except csv.Error as error:
        there = next(islice(io.StringIO(text, newline=None), start - 1, None), "").strip()
        raise ValueError(
            f"{path}, line {start}: {excerpt(there)} cannot be read ({error}). Is a quotation mark not "
            "closed, or not doubled inside a quoted cell?"
        ) from error
