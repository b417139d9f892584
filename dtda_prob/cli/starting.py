"""`dtda new`, `dtda demo` and `dtda completion`: before there is a study."""

from pathlib import Path

import click

from dtda_prob.cli.caching import keep_compilations
from dtda_prob.cli.output import emit
from dtda_prob.cli.table import Columns

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="Example: dtda new --csv data.csv --target price --label name   "
    "Without --csv: an experiment on embedded data."
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default="experiment.py")
@click.option(
    "--csv", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A table of your own."
)
@click.option("--target", help="The column to predict: numbers are regressed on, others classified.")
@click.option("--label", help="The column that names the rows.  [default: their numbers]")
@click.option(
    "--missing",
    type=click.Choice(["refuse", "rows", "columns"]),
    default="refuse",
    show_default=True,
    help="What is left out where values are missing.",
)
def new(file: Path, csv: Path | None, target: str | None, label: str | None, missing: str) -> None:
    """Write a commented experiment FILE to start from."""
    if (csv is None) != (target is None) or (csv is None and label is not None):
        raise click.UsageError("give --csv and --target together (and --label, if rows have names)")
    if file.exists():
        raise click.ClickException(f"{file} exists; name another file, or remove it")
    if file.suffix != ".py":
        raise click.BadParameter(f"{str(file)!r} must end in .py", param_hint="FILE")
    from dtda_prob.cli import table, template

    if csv is None or target is None:
        text, lines = template.digits(file), ["a small network on handwritten digits"]
    else:
        columns = table.look_at(csv, target, label, missing)  # ty: ignore[invalid-argument-type]
        text = template.of_table(file, csv, target, label, columns)
        lines = _described(columns, target)
    with file.open("x", encoding="utf-8") as out:
        out.write(text)
    said = [f"Written to {file}: {lines[0]}.", *lines[1:], "Read it, change what you like; then:"]
    emit(False, said, {}, ["dtda", "sample", str(file), "study.zarr"])


@click.command(epilog="Example: dtda demo --draws 16")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to, or to go on in.  [default: the first free dtda-demo-N]",
)
@click.option("--draws", default=64, show_default=True, help="Models to train, a multiple of 4.")
@click.option("--seed", default=0, show_default=True, help="Seed of all randomness.")
def demo(output: Path | None, draws: int, seed: int) -> None:
    """Run the whole idea on handwritten digits, in about a minute."""
    if draws < 8 or draws % 4:
        raise click.BadParameter(f"{draws} is not a multiple of 4 from 8 on", param_hint="--draws")
    if output is not None and output.exists() and not (output / "study.zarr").exists():
        raise click.BadParameter(f"{output} exists; name a new folder", param_hint="--output")
    keep_compilations()
    from dtda_prob.demo import run

    run(output or free_folder(), draws, seed, click.echo)


@click.command(
    epilog="Example: dtda completion bash >> ~/.bashrc   or: dtda completion fish > "
    "~/.config/fish/completions/dtda.fish"
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a SHELL complete commands and options."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "dtda", "_DTDA_COMPLETE").source())


def free_folder() -> Path:
    """Give the first folder for a demonstration that is not there yet."""
    number = 1
    while (path := Path(f"dtda-demo-{number}")).exists():
        number += 1
    return path


def _described(columns: "Columns", target: str) -> list[str]:
    kind = "a linear regression" if columns.is_number else "a logistic regression"
    features = len(columns.numbers) + len(columns.categories)
    lines = [f"{kind} of {target!r} on {features} columns, {columns.num_rows} rows"]
    total = columns.num_rows + columns.num_skipped
    if columns.num_skipped:
        lines.append(f"  left out, since values are missing: {columns.num_skipped} of {total} rows")
    if columns.left_out:
        listed = ", ".join(map(repr, columns.left_out))
        lines.append(f"  left out (empty, lacking values, or text that differs in most rows): {listed}")
    return lines
