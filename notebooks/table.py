"""Build the page of claims and findings from the results stored in the notebooks."""

import hashlib
import json
from pathlib import Path

import jupytext
import nbformat
from claims import Verdict, shown

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "notebooks" / "index.md"
START, END = "<!-- from here on written by notebooks/run.py -->", "<!-- as far as here -->"
HEADER = ["| claim | in the paper | here | verdict | minutes |", "| --- | --- | --- | --- | --- |"]
HEADLINES = 4
"""Findings of a notebook shown in the table; the others are in the notebook, or below the table."""


def names() -> list[str]:
    """List the notebooks by name."""
    return sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))


def full_record(name: str) -> Path:
    """Return the file that keeps the verdict of a notebook at full size."""
    return FOLDER / "full" / f"{name}.json"


def code(name: str) -> str:
    """Return a digest of a notebook's code, without comments and text."""
    cells = jupytext.read(FOLDER / f"{name}.py").cells
    lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    told = "\n".join(line.rstrip() for line in lines if line.strip() and line.strip()[0] != "#")
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def keep(name: str, found: str, ran: str) -> None:
    """Write the verdict of a notebook at full size, with the digest of the code that ran."""
    record = {"code": ran, "verdict": json.loads(found)}
    full_record(name).parent.mkdir(exist_ok=True)
    full_record(name).write_text(json.dumps(record, indent=1) + "\n")


def stored(name: str) -> list[Verdict]:
    """Read the verdict at the end of a notebook, and its verdict at full size if there is one."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    outputs = [each["data"] for each in notebook.cells[-1]["outputs"] if "data" in each]
    found = [data["application/json"] for data in outputs if "application/json" in data]
    if len(found) != 1:
        raise ValueError(f"{name}.ipynb must end with one verdict and has {len(found)}: run it again")
    if full_record(name).exists():
        found.append(json.loads(full_record(name).read_text())["verdict"])
    return [Verdict(**each) for each in found]


def rows(name: str) -> list[str]:
    """Return the table's row for each size at which a notebook was run."""
    return [_row(name, verdict) for verdict in stored(name)]


def _row(name: str, verdict: Verdict) -> str:
    found = [f"{what}: **{shown(*value)}**" for what, *value in verdict.findings[:HEADLINES]]
    cells = [
        f"[{name}]({name}.md): {verdict.claim}<br>`{_command(name, verdict)}`",
        verdict.paper,
        "<br>".join(found),
        _held(name, verdict),
        f"{verdict.minutes:.1f}",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _held(name: str, verdict: Verdict) -> str:
    """Return how many tests hold, marked where the code has changed since they ran.

    At the default size a notebook keeps code and outputs together.
    """
    count = f"{sum(held for _, held in verdict.tests)} of {len(verdict.tests)} tests hold"
    old = verdict.size == "full" and json.loads(full_record(name).read_text())["code"] != code(name)
    return count + ", with earlier code" * old


def _command(name: str, verdict: Verdict) -> str:
    return f"uv run python notebooks/run.py {name}" + " --full" * (verdict.size == "full")


def full(name: str) -> list[str]:
    """Return the lines of a notebook's verdict at full size, if there is one."""
    found = [verdict for verdict in stored(name) if verdict.size == "full"]
    return [line for each in found for line in ("", f"### {name}", "", each.markdown())]


def _without_full() -> str:
    missing = [name for name in names() if not full_record(name).exists()]
    return f"Of these no result at full size is kept: {', '.join(missing)}."


def written() -> str:
    """Return the page for the stored results."""
    before, rest = PAGE.read_text().split(START)
    _, after = rest.split(END)
    table = [*HEADER, *(row for name in names() for row in rows(name))]
    sections = [line for name in names() for line in full(name)]
    lines = [START, "", *table, "", "## At full size", "", _without_full(), *sections, "", END]
    return before + "\n".join(lines) + after


def write() -> None:
    """Write the page."""
    PAGE.write_text(written())
