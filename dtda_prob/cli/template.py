"""Experiment files to start from: templates, Python themselves, with other values of constants."""

import os
import pprint
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from dtda_prob.cli.table import Columns

WIDTH = 100


def digits(file: Path) -> str:
    """Write the experiment on embedded data."""
    return _addressed(_text("digits"), file)


def of_table(file: Path, csv: Path, target: str, label: str | None, columns: Columns) -> str:
    """Write an experiment on a table, to a file at some place."""
    text = _text("regression" if columns.is_number else "classification")
    constants = {
        "CSV": _where(file, csv),
        "SEPARATOR": columns.separator,
        "TARGET": target,
        "LABEL": label,
        "NUMBERS": columns.numbers,
        "CATEGORIES": columns.categories,
        "LEFT_OUT": columns.left_out,
        "SKIP_MISSING": columns.num_skipped > 0,
        "NUM_QUERIES": min(10, columns.num_rows // 4),
    }
    return _addressed(with_constants(text, constants), file)


def with_constants(text: str, constants: Mapping[str, Any]) -> str:
    """Give other values to constants that a text of Python assigns on a line each."""
    for name, value in constants.items():
        line = re.compile(rf"^({name} = (?:Path\(__file__\)\.parent / )?).*$", re.MULTILINE)
        literal = pprint.pformat(value, width=WIDTH, compact=True).replace("\n", "\n ")
        text, count = line.subn(lambda found, new=literal: found[1] + new, text)
        assert count == 1, name
    return text


def _where(file: Path, csv: Path) -> str:
    """Give the table's path from the experiment's folder if it lies in it, its whole path if not."""
    folder, table = file.resolve().parent, csv.resolve()
    return table.relative_to(folder).as_posix() if table.is_relative_to(folder) else os.fspath(table)


def _addressed(text: str, file: Path) -> str:
    return text.replace("EXPERIMENT", os.fspath(file))


def _text(name: str) -> str:
    return (files("dtda_prob.cli") / "templates" / f"{name}.py").read_text(encoding="utf-8")
