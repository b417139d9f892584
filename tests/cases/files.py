"""Small awkward files, as bytes, and how each is read, or what is said where it cannot be."""

import bz2
import gzip
import lzma
from typing import NamedTuple

ROWS = [
    ("1.5", "a", "10"),
    ("2.5", "b", "20"),
    ("3.5", "a", "31"),
    ("4.5", "b", "39"),
    ("5.5", "a", "52"),
]


class Case(NamedTuple):
    """A file, and what is expected of it.

    Attributes:
        content: bytes, or text in UTF-8.
        kinds: kind of each column, by name.
        values: of some cells, by column and line; None where missing.
        says: words of the notes, or of the columns' descriptions.
        target: options of `roles`.
        task: that is chosen.
        rows: whose target is known.
    """

    content: bytes | str
    kinds: dict[str, str] | None = None
    values: dict[tuple[str, int], object] | None = None
    says: tuple[str, ...] = ()
    target: str | None = None
    task: str = ""
    rows: int | None = None


def plain(separator: str = ",", header: str = "x,k,y", comma: str = ".", end: str = "\n") -> str:
    """The same five rows, written in one way or another."""
    lines = [header.replace(",", separator)]
    lines += [separator.join(row).replace(".", comma) for row in ROWS]
    return end.join(lines) + end


def column(*cells: str, name: str = "y") -> str:
    """A column of at least four rows, beside a running number with a fraction."""
    cells = cells if len(cells) > 3 else 2 * cells
    return f"x;{name}\n" + "".join(f"{i}.5;{cell}\n" for i, cell in enumerate(cells))


PLAIN = {"x": "number", "k": "category", "y": "number"}
SAME = {("x", 2): 1.5, ("k", 3): "b", ("y", 6): 52.0}
NUMBERS = ("1", "2", "3", "5", "8", "13", "21", "34")

READ = {
    "plain": Case(plain(), PLAIN, SAME, ("5 rows", "UTF-8"), task="regression"),
    "gzip": Case(gzip.compress(plain().encode()), PLAIN, SAME, ("gzip",)),
    "bzip2": Case(bz2.compress(plain().encode()), PLAIN, SAME, ("bzip2",)),
    "xz": Case(lzma.compress(plain().encode()), PLAIN, SAME, ("xz",)),
    "a feature that determines the target": Case(
        "x,y\n" + "".join(f"{i * i},{i}\n" for i in range(1, 9)),
        says=("orders the rows as the target does",),
    ),
    "byte order mark": Case(plain().encode("utf-8-sig"), PLAIN, SAME),
    "UTF-16 with a mark": Case(plain().encode("utf-16"), PLAIN, SAME, ("UTF-16",)),
    "UTF-16 without a mark": Case(plain().encode("utf-16-le"), PLAIN, SAME, ("UTF-16",)),
    "UTF-16, the other way": Case(plain().encode("utf-16-be"), PLAIN, SAME),
    "Windows-1252": Case(
        plain(header="größe,k,y").encode("cp1252"), {"größe": "number"}, says=("Windows-1252",)
    ),
    "semicolons": Case(plain(";"), PLAIN, SAME, ("semicolons",)),
    "tabs": Case(plain("\t"), PLAIN, SAME, ("tabs",)),
    "bars": Case(plain("|"), PLAIN, SAME, ("bars",)),
    "spaces after commas": Case(plain(", "), PLAIN, SAME),
    "Excel's line": Case("sep=;\n" + plain(";"), PLAIN, {("x", 3): 1.5}),
    "line ends of Windows": Case(plain(end="\r\n"), PLAIN, SAME),
    "line ends of old Macs": Case(plain(end="\r"), PLAIN, SAME),
    "decimal commas": Case(plain(";", comma=","), PLAIN, SAME, ("in decimal commas",)),
    "decimal commas and points for thousands": Case(
        column("1.234,5", "2.345,5", "999,25"), {"y": "number"}, {("y", 2): 1234.5, ("y", 4): 999.25}
    ),
    "thousands": Case(
        column("1,234", "2,345.50", "12"), {"y": "number"}, {("y", 2): 1234.0, ("y", 3): 2345.5}
    ),
    "thousands by spaces": Case(column("1 234", "2 345", "12"), values={("y", 2): 1234.0}),
    "thousands by apostrophes": Case(column("1'234", "2'345", "12"), values={("y", 3): 2345.0}),
    "currency": Case(
        column("$12.30", "$1,200", "-$3", "($4.50)"),
        {"y": "number"},
        {("y", 2): 12.3, ("y", 3): 1200.0, ("y", 4): -3.0, ("y", 5): -4.5},
        ("in $",),
    ),
    "euros behind": Case(column("3 €", "4 €", "5.5 EUR"), values={("y", 4): 5.5}, says=("in €",)),
    "per cent": Case(column("5.1%", "7 %", "12%"), values={("y", 3): 7.0}, says=("in per cent",)),
    "a true minus": Case(column("−3", "4", "5"), values={("y", 2): -3.0}),
    "exponents": Case(column("1e3", "2E-1", "3"), values={("y", 2): 1000.0, ("y", 3): 0.2}),
    "question marks": Case(
        column(*NUMBERS, "?", "?"), {"y": "number"}, {("y", 10): None}, ("2 missing",), rows=8
    ),
    "markers of missing values": Case(
        column(*NUMBERS, "n/a", "NA", "", "#N/A", "-", "None"), {"y": "number"}, rows=8
    ),
    "infinite": Case(column(*NUMBERS, "inf"), {"y": "number"}, {("y", 10): None}, rows=8),
    "a category None": Case(
        "k,y\n" + "None,1\nfew,2\nNone,3\nfew,4\nNone,5\n", {"k": "category"}, {("k", 2): "None"}
    ),
    "spaces in the header": Case(plain(header=" x , k, y "), PLAIN, SAME),
    "duplicates in the header": Case(
        plain(header="a,k,a"), {"a": "number", "a (2)": "number"}, says=("column 3 is called 'a (2)'",)
    ),
    "a blank name": Case(plain(header="x,,y"), {"x": "number", "column 2": "category"}),
    "no header": Case(
        plain().split("\n", 1)[1],
        {"column 1": "number", "column 2": "category", "column 3": "number"},
        {("column 1", 1): 1.5},
        ("there is no header line",),
    ),
    "years as names": Case(
        "2019,2020\n" + "1.5,2.5\n3,4\n5,6\n7,8\n", {"2019": "number", "2020": "number"}
    ),
    "names of rows without a name": Case(
        "x,y\n" + "".join(f"r{i},{i}.5,{i * i}\n" for i in range(9)),
        {"row": "identifier", "x": "number", "y": "number"},
        says=("names of the rows",),
    ),
    "a separator at the end": Case(plain().replace("\n", ",\n"), PLAIN, SAME),
    "a separator at the end of rows": Case(
        "x,k,y\n" + plain().split("\n", 1)[1].replace("\n", ",\n"), PLAIN, SAME
    ),
    "title and comments": Case(
        "# source: a, b\nReport\n\n" + plain(), PLAIN, {("x", 5): 1.5}, ("line 1 is passed over",)
    ),
    "empty lines": Case(plain(end="\n\n"), PLAIN, {("x", 3): 1.5, ("y", 11): 52.0}),
    "newlines in cells": Case(
        'x,t,y\n1.5,"two\nlines",1\n2.5,b,2\n3.5,c,4\n4.5,d,5\n', {"t": "identifier"}, {("x", 4): 2.5}
    ),
    "one number column": Case(column(*NUMBERS), {"x": "number", "y": "number"}, task="regression"),
    "running numbers": Case(
        "n,x,y\n" + "".join(f"{i + 1000},{i % 4}.5,{i}.25\n" for i in range(12)),
        {"n": "identifier"},
        says=("an identifier of the rows",),
    ),
    "an ID": Case(
        "CustomerID,x,y\n" + "".join(f"{7919 * i % 1000},{i % 4}.5,{i}.25\n" for i in range(12)),
        {"CustomerID": "identifier"},
    ),
    "postal codes": Case(
        "zip,y\n" + "".join(f"0{1234 + i % 2},{i}.5\n" for i in range(9)),
        {"zip": "category"},
        {("zip", 2): "01234"},
    ),
    "dates": Case(
        "when,y\n2024-01-02,1.5\n2024-02-03,2.5\n2024-03-04,3.5\n2024-03-05,4\n",
        {"when": "date"},
        {("when", 2): 19724.0},
        ("date, 2024-01-02 to 2024-03-05",),
    ),
    "days before months": Case(
        "when,y\n1.2.2024,1.5\n13.2.2024,2.5\n2.3.2024,3.5\n3.3.24,4\n",
        {"when": "date"},
        says=("2024-02-01 to 2024-03-03",),
    ),
    "0 and 1": Case(column(*"01011010"), {"y": "number"}, says=("0 (4)",), task="classification"),
    "yes and no in four spellings": Case(
        column("Yes", "no", "yes ", "YES", "no", "No", "no", "Yes"),
        {"y": "category"},
        {("y", 4): "Yes", ("y", 7): "no"},
        ("with",),
        task="classification",
    ),
    "one odd cell in the target": Case(
        column(*NUMBERS, "n/a?"),
        {"y": "number"},
        {("y", 10): None},
        ("'n/a?' in line 10 taken as missing",),
        task="regression",
        rows=8,
    ),
    "a missing target": Case(
        column(*NUMBERS, ""), says=("1 row without a target",), task="regression", rows=8
    ),
    "the usual name of a target": Case(
        "target,x\n" + "".join(f"{i % 3}.5,{i * i}\n" for i in range(9)), target="target"
    ),
    "empty and constant columns": Case(
        "e,c,x,y\n" + "".join(f",7,{i % 4}.5,{i}.25\n" for i in range(9)),
        {"e": "empty", "c": "constant", "x": "number"},
        says=("not used: empty", "'7.0' in all rows"),
    ),
    "levels such as 3+": Case(
        column(*(f"{i % 3}" if i % 4 else "3+" for i in range(16))), {"y": "category"}
    ),
    "text that differs": Case(
        "t,x,y\n" + "".join(f"some words that differ {i},{i % 4}.5,{i}.25\n" for i in range(9)),
        {"t": "text"},
    ),
}

REFUSED = {
    "nothing": ("", "is empty"),
    "a header alone": ("x,y\n", "no row below it"),
    "a cell too many": (plain() + "6.5,a,60,7\n", "line 7: 4 cells under a header of 3: '6.5,a,60,7'"),
    "a cut-off line": (plain() + "6.5,a\n", "line 7: 2 cells"),
    "an open quotation mark": (plain() + '6.5,"a,60\n7.5,b,70\n', "line 7: '6.5,\"a,60'"),
    "a quotation mark in a quoted cell": ('x,y\n1,2\n"5" pipe",3\n', "line 3:"),
    "NUL characters": (plain() + "6.5,\0\0,60\n", "line 7: holds a NUL character"),
    "a cut-off gzip": (gzip.compress(plain().encode())[:30], "damaged gzip"),
    "a cut-off bzip2": (bz2.compress(plain().encode())[:30], "damaged bzip2"),
    "no encoding": (plain().encode() + b"6.5,\x81,60\n", "line 7: byte 0x81"),
    "a workbook": (b"PK\x03\x04 and so on", "an Excel workbook"),
    "half a UTF-16": (plain().encode("utf-16")[:-1], "damaged UTF-16"),
}

UNUSED = {
    "an unknown column": (plain(), {"target": "z"}, "no column is called 'z'; there are 'x', 'k', 'y'"),
    "a name without a header": (plain().split("\n", 1)[1], {"target": "y"}, "Is there no header line?"),
    "a constant target": ("x,y\n" + "1.5,2\n2.5,2\n3.5,2\n4.5,2\n", {"target": "y"}, "one value"),
    "few rows": ("x,y\n1.5,2\n2.5,3\n", {"target": "y"}, "known in 2 rows"),
    "nothing to predict from": (
        "id,y\n" + "u,2.5\nv,3\nw,4\nx,4.5\n",
        {"target": "y"},
        "no column to predict 'y' from",
    ),
    "a class a row": (plain(), {"target": "x", "task": "classification"}, "5 values in 5 rows"),
    "a regression of words": (
        plain(),
        {"target": "k", "task": "regression"},
        "'k' is no number in 5 rows, such as 'a' in line 2",
    ),
    "a date": ("when,x\n" + "2024-01-02,1\n" * 3 + "2024-01-03,4\n", {"target": "when"}, "date"),
}
