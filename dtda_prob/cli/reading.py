"""`dtda info` and `dtda report`: what a study holds, on a line or on a page."""

from pathlib import Path
from typing import Any

import click

from dtda_prob.cli.options import json_option
from dtda_prob.cli.output import emit, say
from dtda_prob.cli.wording import MOST_ROWS, aligned

EXISTING = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command(epilog="Example: dtda info study.zarr --verify")
@click.argument("store", type=EXISTING)
@click.option("--verify", is_flag=True, help="Read everything again, and compare it with checksums.")
@json_option
def info(store: Path, verify: bool, as_json: bool) -> None:
    """Say what a study holds: a line for each name."""
    from dtda_prob.storage import contents
    from dtda_prob.storage import verify as check

    table = contents(store)
    lines = [table.to_string(float_format="{:.3g}".format)] if len(table) else ["Nothing yet."]
    result: dict[str, Any] = {"store": store, "contents": table.reset_index().to_dict("records")}
    damaged = []
    if verify:
        say("Reading everything again ...")
        found = check(store).reset_index()
        damaged = found[found["status"] == "damaged"].to_dict("records")
        lines += _damage_in_words(store, len(found), damaged)
        result |= {"verified": len(found), "damaged": damaged}
    emit(as_json, lines, result, ["dtda", "report", str(store)])
    if damaged:
        click.get_current_context().exit(1)


@click.command(epilog="Example: dtda report study.zarr --output report.html")
@click.argument("store", type=EXISTING)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="report.html",
    show_default=True,
    help="The page to write, or to replace.",
)
@json_option
def report(store: Path, output: Path, as_json: bool) -> None:
    """Write a study as one page of HTML, which opens from disk."""
    from dtda_prob.report import write

    write(store, output)
    size = output.stat().st_size
    lines = [
        f"Written to {output} ({size / 1e6:.1f} MB). Open it in a browser: {output.resolve().as_uri()}"
    ]
    emit(as_json, lines, {"store": store, "output": output, "bytes": size})


def _damage_in_words(store: Path, total: int, damaged: list[dict[str, Any]]) -> list[str]:
    if not damaged:
        return [f"Verified: none of {total} shards is damaged."]
    return [
        f"{len(damaged)} of {total} shards are damaged:",
        *aligned([(one["name"], one["shard"]) for one in damaged], MOST_ROWS),
        f"To give them up, in Python: dtda_prob.repair({str(store)!r}). The commands that made them "
        "then draw them again.",
    ]
