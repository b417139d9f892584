"""`dtda info` and `dtda report`: the contents of a study, as a table or on a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dtda_prob.cli.output import (
    LONGEST,
    MOST_ROWS,
    Result,
    aligned,
    definitions,
    emit,
    json_option,
    say,
)

if TYPE_CHECKING:
    import pandas as pd

EXISTING = click.Path(path_type=Path, file_okay=False, exists=True)
LONGEST_STORED = 36
"""Characters of the name of a result."""
COUNTED = {
    "draws": ("draw",),
    "perturbations": ("perturbation",),
    "queries": ("query", "queries"),
    "data": ("example",),
}
"""Columns of a table of contents, and what they count."""


@click.command(epilog="Example: dtda info study.zarr --verify")
@click.argument("store", type=EXISTING)
@click.option("--verify", is_flag=True, help="Read everything again and compare it with checksums.")
@json_option
def info(store: Path, verify: bool, as_json: bool) -> None:
    """List the contents of a study, one line per name."""
    import dtda_prob as dtda
    from dtda_prob.storage import readable

    with readable(store):
        table = dtda.contents(store)
        pairs = [(str(name), _described(row)) for name, row in table.iterrows()]
        lines = definitions(pairs, LONGEST_STORED) if pairs else ["Nothing yet."]
    result: dict[str, Any] = {"store": store, "contents": table.reset_index().to_dict("records")}
    damaged = []
    if verify:
        say("Reading everything again ...")
        with readable(store):
            read = dtda.verify(store).reset_index()
        damaged = read[read["status"] == "damaged"].to_dict("records")
        lines += _damage(store, len(read), damaged)
        result |= {"verified": len(read), "damaged": damaged}
    emit(as_json, Result(lines, result, ["dtda", "report", str(store)]))
    if damaged:
        click.get_current_context().exit(1)


@click.command(epilog="Example: dtda report study.zarr --output report.html")
@click.argument("store", type=EXISTING)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="report.html",
    show_default=True,
    help="The page to write or replace.",
)
@json_option
def report(store: Path, output: Path, as_json: bool) -> None:
    """Write a study as one HTML page, which opens from disk."""
    say(f"Reading {store} ...")
    from dtda_prob.report import write

    write(store, output)
    size = output.stat().st_size
    where = f"Written to {output} ({size / 1e6:.1f} MB). Open it in a browser:"
    result = {"store": store, "output": output, "bytes": size}
    emit(as_json, Result([f"{where} {output.resolve().as_uri()}"], result))


def _described(row: "pd.Series") -> str:
    """Return what a part of a study is, how large, and what is wrong with it."""
    from dtda_prob.numerals import clip, count, size

    transform = str(row["transform"]).partition("(")[0]  # without its settings
    source = f"{row['measure']} by {transform}".removesuffix(" by ").removeprefix(" by ")
    numbers = [count(int(row[name]), *words) for name, words in COUNTED.items() if row[name]]
    faults = [f"{row['finished']:.0%} finished"] if row["finished"] < 1 else []
    faults += [f"{count(int(row['diverging']), 'draw')} diverged"] if row["diverging"] else []
    parts = [source, *([", ".join(numbers)] if numbers else []), *faults, size(row["bytes"])]
    return f"{clip(row['kind'], LONGEST)}: {'; '.join(clip(one, LONGEST) for one in parts if one)}"


def _damage(store: Path, total: int, damaged: list[dict[str, Any]]) -> list[str]:
    if not damaged:
        return [f"Verified: none of {total} parts is damaged."]
    return [
        f"{len(damaged)} of {total} parts are damaged:",
        *aligned([(one["name"], one["part"], one["file"]) for one in damaged], MOST_ROWS),
        f"To discard them, in Python: dtda_prob.repair({str(store)!r}). Then run again the commands "
        "that made them.",
    ]
