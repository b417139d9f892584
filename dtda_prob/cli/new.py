"""`dtda new`: experiment files to start from; templates are Python, with constants replaced."""

import os
import pprint
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from dtda_prob.cli.output import Result, emit
from dtda_prob.cli.table import MISSING, Columns, read_columns

WIDTH = 100


@click.command(
    epilog="Example: dtda new --csv data.csv --target price --label name   "
    "Without --csv: an experiment on embedded data."
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default="experiment.py")
@click.option(
    "--csv", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A table of your own."
)
@click.option(
    "--target", help="The column to predict: numbers by regression, others by classification."
)
@click.option("--label", help="The column that names the rows.  [default: their numbers]")
@click.option(
    "--missing",
    type=click.Choice(MISSING),
    default="refuse",
    show_default=True,
    help="What to leave out if values are missing.",
)
def new(file: Path, csv: Path | None, target: str | None, label: str | None, missing: str) -> None:
    """Write a commented experiment FILE to start from."""
    if (csv is None) != (target is None) or (csv is None and label is not None):
        raise click.UsageError("pass --csv and --target together (and --label, if rows have names)")
    if file.exists():
        raise click.ClickException(f"{file} exists; name another file, or remove it")
    if file.suffix != ".py":
        raise click.BadParameter(f"{str(file)!r} must end in .py", param_hint="FILE")
    if csv is None or target is None:
        text, lines = from_template(file, "digits"), ["a small network on handwritten digits"]
    else:
        columns = read_columns(csv, target, label, missing)
        text, lines = of_table(file, csv, target, label, columns), _described(columns, target)
    with file.open("x", encoding="utf-8") as out:
        out.write(text)
    said = [f"Written to {file}: {lines[0]}.", *lines[1:], "Read it, change what you like; then:"]
    emit(False, Result(said, {}, ["dtda", "sample", str(file), "study.zarr"]))


def of_table(file: Path, csv: Path, target: str, label: str | None, columns: Columns) -> str:
    """Return an experiment on a table."""
    constants = {
        "CSV": _relative(csv, file),
        "SEPARATOR": columns.separator,
        "TARGET": target,
        "LABEL": label,
        "NUMBERS": columns.numbers,
        "CATEGORIES": columns.categories,
        "LEFT_OUT": columns.left_out,
        "SKIP_MISSING": columns.num_skipped > 0,
        "NUM_QUERIES": min(10, columns.num_rows // 4),
    }
    name = "regression" if columns.is_number else "classification"
    return from_template(file, name, constants)


def from_template(file: Path, name: str, constants: Mapping[str, Any] | None = None) -> str:
    """Return a template with the path of the file in its docstring, and other values of constants."""
    text = (files("dtda_prob.cli") / "templates" / f"{name}.py").read_text(encoding="utf-8")
    docstring, quotes, code = text.rpartition('\n"""\n\n')
    path = os.fspath(file).replace("\\", "\\\\").replace('"', '\\"')
    for constant, value in (constants or {}).items():
        code = _with_constant(code, constant, value)
    return docstring.replace("EXPERIMENT", path) + quotes + code


def _with_constant(code: str, name: str, value: Any) -> str:
    """Replace a constant that is assigned on a line of its own."""
    line = re.compile(rf"^({name} = (?:Path\(__file__\)\.parent / )?).*$", re.MULTILINE)
    literal = pprint.pformat(value, width=WIDTH, compact=True).replace("\n", "\n ")
    code, count = line.subn(lambda match: match[1] + literal, code, count=1)
    assert count == 1, name
    return code


def _relative(csv: Path, file: Path) -> str:
    """Return the table's path relative to the experiment's folder if inside, else its whole path."""
    folder, table = file.resolve().parent, csv.resolve()
    return table.relative_to(folder).as_posix() if table.is_relative_to(folder) else os.fspath(table)


def _described(columns: Columns, target: str) -> list[str]:
    kind = "a linear regression" if columns.is_number else "a logistic regression"
    number = len(columns.numbers) + len(columns.categories)
    features = f"{number} column{'s' if number != 1 else ''}"
    lines = [f"{kind} of {target!r} on {features}, {columns.num_rows} rows"]
    if not columns.is_number:
        lines.append(f"  classes: {', '.join(columns.classes)}")
    if columns.num_skipped:
        total = columns.num_rows + columns.num_skipped
        lines.append(f"  omitted, since values are missing: {columns.num_skipped} of {total} rows")
    if columns.left_out:
        listed = ", ".join(map(repr, columns.left_out))
        lines.append(f"  omitted (empty, values missing, or text that differs in most rows): {listed}")
    return lines
