"""`dtda check`: which rows of a table look wrong."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dtda_prob.cli.output import INTERRUPTED, Result, definitions, emit, json_option, say
from dtda_prob.cli.table import described, read_known, target_option, task_option

if TYPE_CHECKING:
    from dtda_prob.suspects import Checked

OUTPUT = click.Path(path_type=Path, dir_okay=False, writable=True)


@click.command(epilog="Example: dtda check data.csv --target price --csv ranked.csv --html report.html")
@click.argument("table", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@target_option
@task_option
@click.option("--csv", type=OUTPUT, help="Write every row once, the most suspicious first.")
@click.option("--html", type=OUTPUT, help="Write a page to look at.")
@click.option("--top", default=10, show_default=True, help="Rows to print.")
@click.option("--seed", default=0, show_default=True, help="Seed of all randomness.")
@click.option("--draws", default=8, show_default=True, help="Models for each part of the rows; even.")
@json_option
def check(
    table: Path, target: str | None, task: str | None, as_json: bool, top: int, **given: Any
) -> None:
    """List the rows of a TABLE that look wrong.

    Models of one column are trained without a part of the rows, for each part in turn, and judge the
    rows that they have not seen. Numbers far from all others, and text among numbers, count as well.
    """
    for option in ("csv", "html"):
        _check_output(table, given[option], option)
    say(f"Reading {table} ...")
    from dtda_prob.tables import roles

    read = read_known(table, target)
    chosen = roles(read, target, task)  # ty: ignore[invalid-argument-type]
    for line in described(chosen):
        say(line)
    say("Training models that have not seen the rows they judge ...")
    import dtda_prob as dtda

    how: dict[str, Any] = {"target": chosen.target.name, "task": chosen.task}
    try:
        with redirect_stdout(sys.stderr):
            found = dtda.check(read, **how, seed=given["seed"], num_draws=given["draws"])
    except KeyboardInterrupt:
        say("Interrupted. Nothing is written; the same command begins again.")
        click.get_current_context().exit(INTERRUPTED)
    lines = _lines(found, top)
    if given["csv"] is not None:
        lines.append(f"Every row is in {found.to_csv(given['csv'])}, the most suspicious first.")
    if given["html"] is not None:
        page = dtda.report.write_checked(found, given["html"])
        lines.append(f"Open in a browser: {page.resolve().as_uri()}")
    emit(as_json, Result(lines, _data(found, top, given)))


def _check_output(table: Path, path: Path | None, option: str) -> None:
    """Refuse a file that cannot be written, before anything is computed, and the table itself."""
    if path is None:
        return
    if path.exists() and path.samefile(table):
        raise click.BadParameter(f"{path} is the table itself; name another", param_hint=f"--{option}")
    if not path.resolve().parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}", param_hint=f"--{option}")


def _lines(found: "Checked", top: int) -> list[str]:
    from dtda_prob.numerals import count, plain

    rows = found.rows.iloc[:top]
    head = (
        f"The most suspicious of {count(len(found.rows), 'row')}, by "
        f"{count(found.num_models, 'model')}:"
    )
    pairs = zip(rows["line"], rows["why"], strict=True)
    return [head, *definitions([(f"line {line}", plain(why)) for line, why in pairs])]


def _data(found: "Checked", top: int, given: dict[str, Any]) -> dict[str, Any]:
    return {
        "target": found.roles.target.name,
        "task": found.roles.task,
        "models": found.num_models,
        "csv": given["csv"],
        "html": given["html"],
        "rows": found.rows.iloc[:top].reset_index().to_dict("records"),
    }
