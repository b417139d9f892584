"""`dtda info` and `dtda report`: the contents of a study, as a table or on a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dtda_prob.cli.output import MOST_ROWS, Result, aligned, emit, json_option, say

if TYPE_CHECKING:
    import pandas as pd

EXISTING = click.Path(path_type=Path, file_okay=False, exists=True)
COUNTS = ["draws", "perturbations", "queries", "data"]


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
        lines = _table(table) if len(table) else ["Nothing yet."]
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
    from dtda_prob.report import write

    write(store, output)
    size = output.stat().st_size
    where = f"Written to {output} ({size / 1e6:.1f} MB). Open it in a browser:"
    result = {"store": store, "output": output, "bytes": size}
    emit(as_json, Result([f"{where} {output.resolve().as_uri()}"], result))


def _table(table: "pd.DataFrame") -> list[str]:
    from dtda_prob.numerals import size

    shown = table.assign(
        transform=table["transform"].str.partition("(")[0],  # without its settings
        finished=table["finished"].map(lambda share: "" if share == 1 else f"{share:.0%}"),
        diverging=table["diverging"].map(lambda number: number or ""),
        bytes=table["bytes"].map(size),
    ).drop(columns="seconds")
    shown[COUNTS] = shown[COUNTS].astype(object).where(shown[COUNTS] != 0, "")
    kept = [name for name in shown if (shown[name].astype(str) != "").any()]
    head = ["name", *("size" if name == "bytes" else name for name in kept)]
    return aligned([head, *shown[kept].reset_index().to_numpy().tolist()])


def _damage(store: Path, total: int, damaged: list[dict[str, Any]]) -> list[str]:
    if not damaged:
        return [f"Verified: none of {total} parts is damaged."]
    return [
        f"{len(damaged)} of {total} parts are damaged:",
        *aligned([(one["name"], one["part"], one["file"]) for one in damaged], MOST_ROWS),
        f"To discard them, in Python: dtda_prob.repair({str(store)!r}). Then run again the commands "
        "that made them.",
    ]
