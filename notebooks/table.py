"""The page of what the notebooks claim and found, made from what is stored in them."""

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
"""How many findings stand in the table; the others are in the notebook, or below."""


def names() -> list[str]:
    """List the notebooks by name."""
    return sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))


def full_record(name: str) -> Path:
    """Say where what a notebook found at full size is kept."""
    return FOLDER / "full" / f"{name}.json"


def code(name: str) -> str:
    """Give the digest of a notebook's code, without its comments and its text."""
    cells = jupytext.read(FOLDER / f"{name}.py").cells
    lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    told = "\n".join(line.rstrip() for line in lines if line.strip() and line.strip()[0] != "#")
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def keep(name: str, found: str, ran: str) -> None:
    """Keep what a notebook found at full size, with the digest of the code that ran."""
    record = {"code": ran, "verdict": json.loads(found)}
    full_record(name).parent.mkdir(exist_ok=True)
    full_record(name).write_text(json.dumps(record, indent=1) + "\n")


def stored(name: str) -> list[Verdict]:
    """Read what a notebook shows at its end, and what it found at full size, if it was run so."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    outputs = [each["data"] for each in notebook.cells[-1]["outputs"] if "data" in each]
    found = [data["application/json"] for data in outputs if "application/json" in data]
    if len(found) != 1:
        raise ValueError(f"{name}.ipynb must end with one verdict and has {len(found)}: run it again")
    if full_record(name).exists():
        found.append(json.loads(full_record(name).read_text())["verdict"])
    return [Verdict(**each) for each in found]


def rows(name: str) -> list[str]:
    """Write the table's row for each size at which a notebook was run."""
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
    """Count the tests that hold, and say so where they are of code that has changed since.

    At its own size a notebook keeps code and outputs together.
    """
    count = f"{sum(held for _, held in verdict.tests)} of {len(verdict.tests)} tests hold"
    old = verdict.size == "full" and json.loads(full_record(name).read_text())["code"] != code(name)
    return count + ", with earlier code" * old


def _command(name: str, verdict: Verdict) -> str:
    return f"uv run python notebooks/run.py {name}" + " --full" * (verdict.size == "full")


def full(name: str) -> list[str]:
    """Write all that a notebook found at full size, if it was run so."""
    found = [verdict for verdict in stored(name) if verdict.size == "full"]
    return [line for each in found for line in ("", f"### {name}", "", each.markdown())]


def written() -> str:
    """Write the page as the stored results have it."""
    before, rest = PAGE.read_text().split(START)
    _, after = rest.split(END)
    table = [*HEADER, *(row for name in names() for row in rows(name))]
    sections = [line for name in names() for line in full(name)]
    lines = [START, "", *table, "", "## At full size", *sections, "", END]
    return before + "\n".join(lines) + after


def write() -> None:
    """Bring the page up to date."""
    PAGE.write_text(written())
