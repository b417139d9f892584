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
from dtda_prob.cli.table import (
    MISSING,
    Uses,
    completed_by_columns,
    described,
    read_known,
    target_option,
    task_option,
    uses_of,
)

WIDTH = 100


@click.command(
    epilog="Example: dtda new --csv data.csv --target price --label name   "
    "Without --csv: an experiment on embedded data."
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default="experiment.py")
@click.option(
    "--csv", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A table of your own."
)
@target_option
@task_option
@click.option(
    "--label",
    shell_complete=completed_by_columns,
    help="The column that names the rows.  [default: their lines in the file]",
)
@click.option(
    "--missing",
    type=click.Choice(MISSING),
    default="refuse",
    show_default=True,
    help="What to leave out if numbers are missing; rows without a target always are.",
)
def new(
    file: Path, csv: Path | None, target: str | None, task: str | None, label: str | None, missing: str
) -> None:
    """Write a commented experiment FILE to start from."""
    if csv is None and (target or task or label):
        raise click.UsageError("--target, --task and --label describe a table: pass --csv as well")
    if file.exists():
        raise click.ClickException(f"{file} exists; name another file, or remove it")
    if file.suffix != ".py":
        raise click.BadParameter(f"{str(file)!r} must end in .py", param_hint="FILE")
    if csv is None:
        text, lines = from_template(file, "digits"), ["a small network on handwritten digits."]
    else:
        from dtda_prob.tables import roles

        chosen = roles(read_known(csv, target, label), target, task, label)  # ty: ignore[invalid-argument-type]
        uses = uses_of(chosen, missing)
        text, lines = of_table(file, csv, uses), _described(uses)
    with file.open("x", encoding="utf-8") as out:
        out.write(text)
    said = [f"Written to {file}: {lines[0]}", *lines[1:], "Read it, change what you like; then:"]
    emit(False, Result(said, {}, ["dtda", "sample", str(file), "study.zarr"]))


def of_table(file: Path, csv: Path, uses: Uses) -> str:
    """Return an experiment on a table."""
    roles = uses.roles
    constants = {
        "CSV": _relative(csv, file),
        "TARGET": roles.target.name,
        "LABEL": roles.label and roles.label.name,
        "NUMBERS": uses.numbers,
        "CATEGORIES": uses.categories,
        "LEFT_OUT": uses.left_out,
        "NUM_QUERIES": min(10, uses.num_rows // 4),
    }
    return from_template(file, roles.task, constants)


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


def _described(uses: Uses) -> list[str]:
    from dtda_prob.numerals import count

    roles, number = uses.roles, len(uses.numbers) + len(uses.categories)
    kind = "linear" if roles.task == "regression" else "logistic"
    head = f"a {kind} regression of {roles.target.name!r} on {count(number, 'column')}"
    lines = [f"{head}, {count(uses.num_rows, 'row')}.", *described(roles)]
    lost = len(roles.lines) - uses.num_rows
    lines += [f"Omitted, since numbers are missing: {count(lost, 'row')}."] if lost else []
    known = {roles.target.name, *uses.numbers, *uses.categories}
    gaps = [one.name for one in roles.features if one.name not in known]
    lines += [f"Omitted, since numbers are missing: {', '.join(map(repr, gaps))}."] if gaps else []
    return lines
