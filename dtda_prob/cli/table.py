"""Decide how `dtda new` uses the columns of a user's table."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from dtda_prob.cli.output import definitions

if TYPE_CHECKING:
    from dtda_prob.tables import Column, Roles, Table

MISSING = ("refuse", "rows", "columns")
TASKS = ("regression", "classification")
MOST_LISTED = 30
"""Columns that are listed."""


def completed_by_columns(context: click.Context, option: click.Parameter, begun: str) -> list[str]:
    """Return the columns that complete an option, if the table is named before it."""
    from dtda_prob.tables import read_table

    # An option that lacks its value ends the parsing, so that what came before it is in `args`.
    given = context.params.get("csv"), context.params.get("table"), *context.args
    file = next(filter(None, given), None)
    try:
        names = read_table(file).columns if file else ()
    except (OSError, ValueError):
        return []
    return [name for name in names if name.startswith(begun)]


target_option = click.option(
    "--target",
    shell_complete=completed_by_columns,
    help="The column to predict.  [default: one called target, y, ..., or the last]",
)
task_option = click.option(
    "--task", type=click.Choice(TASKS), help="How to predict it.  [default: by what it holds]"
)


class Uses(NamedTuple):
    """How each column of a table is used.

    Attributes:
        roles: which column is predicted, how.
        numbers: names of the columns that enter as numbers.
        categories: names of the columns that enter as categories.
        left_out: names of all others, except the target and the label.
        num_rows: rows that are complete in what is used.
    """

    roles: "Roles"
    numbers: list[str]
    categories: list[str]
    left_out: list[str]
    num_rows: int


def read_known(file: Path, target: str | None, label: str | None = None) -> "Table":
    """Read a table that has these columns.

    Raises:
        click.BadParameter: for an unknown column.
        ValueError: if the table cannot be read.
    """
    from dtda_prob.tables import read_table

    table = read_table(file)
    for name, option in (target, "--target"), (label, "--label"):
        if name is not None:
            try:
                table.column(name)
            except ValueError as error:
                raise click.BadParameter(str(error), param_hint=option) from error
    return table


def uses_of(chosen: "Roles", missing: str) -> Uses:
    """Decide how each column is used, where some values may be missing.

    Raises:
        click.ClickException: if numbers are missing and `missing` is "refuse", or few rows are left.
    """
    numbers = [one for one in chosen.features if one.kind != "category"]
    gaps = {one.name: int(one.values[chosen.lines].isna().sum()) for one in numbers}
    gaps = {name: number for name, number in gaps.items() if number}
    if gaps and missing == "refuse":
        raise click.ClickException(_about_gaps(gaps, numbers, chosen))
    kept = [one for one in numbers if missing != "columns" or one.name not in gaps]
    complete = chosen.table.frame.loc[chosen.lines, [one.name for one in kept]].notna().all(axis=1)
    categories = [one.name for one in chosen.features if one.kind == "category"]
    _check_complete(int(complete.sum()), kept, categories)
    used = {chosen.target.name, *categories, *(one.name for one in kept)}
    used |= {chosen.label.name} if chosen.label else set()
    left_out = [name for name in chosen.table.columns if name not in used]
    return Uses(chosen, [one.name for one in kept], categories, left_out, int(complete.sum()))


def described(chosen: "Roles") -> list[str]:
    """Return what each column was taken for."""
    pairs = chosen.described()
    left = len(pairs) - MOST_LISTED
    return definitions(pairs[:MOST_LISTED] + ([("...", f"and {left} more")] if left > 0 else []))


def _about_gaps(gaps: dict[str, int], numbers: "list[Column]", chosen: "Roles") -> str:
    """Return which numbers are missing, and how many rows each column costs."""
    total = len(chosen.lines)
    known = chosen.table.frame.loc[chosen.lines, [one.name for one in numbers]].notna()
    order = sorted(gaps, key=lambda name: -gaps[name])
    listed = ", ".join(f"{name!r} ({gaps[name]} of {total} rows)" for name in order)
    all_rows = int(known.all(axis=1).sum())
    without = int(known.drop(columns=order[0]).all(axis=1).sum())
    costly = f"; without {order[0]!r} alone it would keep {without}" if len(gaps) > 1 else ""
    return (
        f"values are missing in {listed}. Fill them in, or choose: --missing columns leaves these "
        f"columns out; --missing rows leaves these rows out, and keeps {all_rows} of {total}{costly}"
    )


def _check_complete(number: int, numbers: "list[Column]", categories: list[str]) -> None:
    from dtda_prob.tables.roles import LEAST_ROWS

    if number < LEAST_ROWS:
        raise click.ClickException(
            f"{number} complete rows are too few to train on some and predict others; {LEAST_ROWS} or "
            "more are needed"
        )
    if not numbers and not categories:
        raise click.ClickException("no column to predict from is complete; try --missing rows")
