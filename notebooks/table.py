"""The page of what the notebooks claim and found, made from what is stored in them."""

import json
from pathlib import Path

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


def stored(name: str) -> list[Verdict]:
    """Read what a notebook shows at its end, and what it found at full size, if it was run so."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    outputs = [each["data"] for each in notebook.cells[-1]["outputs"] if "data" in each]
    found = [data["application/json"] for data in outputs if "application/json" in data]
    if len(found) != 1:
        raise ValueError(f"{name}.ipynb must end with one verdict and has {len(found)}: run it again")
    if full_record(name).exists():
        found.append(json.loads(full_record(name).read_text()))
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
        f"{sum(held for _, held in verdict.tests)} of {len(verdict.tests)} tests hold",
        f"{verdict.minutes:.1f}",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


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
