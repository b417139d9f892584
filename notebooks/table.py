"""The table of what the notebooks claim and found, made from what is stored in them."""

import json
from pathlib import Path

import nbformat
from claims import Verdict, shown

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "notebooks" / "index.md"
START, END = "<!-- from here on written by notebooks/run.py -->", "<!-- as far as here -->"
HEADER = [
    "| notebook | claim | in the paper | here | verdict | command | minutes |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]


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
    """Write a row for each size at which a notebook was run."""
    return [_row(name, verdict) for verdict in stored(name)]


def _row(name: str, verdict: Verdict) -> str:
    command = f"uv run python notebooks/run.py {name}" + " --full" * (verdict.size == "full")
    found = [f"{what}: {shown(*value)}" for what, *value in verdict.findings]
    cells = [
        f"[{name}]({name}.md)",
        verdict.claim,
        verdict.paper,
        "<br>".join(found),
        verdict.word(),
        f"`{command}`",
        f"{verdict.minutes:.1f}",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def written() -> str:
    """Write the page with the table as the stored results have it."""
    before, rest = PAGE.read_text().split(START)
    _, after = rest.split(END)
    table = [START, "", *HEADER, *(row for name in names() for row in rows(name)), "", END]
    return before + "\n".join(table) + after


def write() -> None:
    """Bring the page's table up to date."""
    PAGE.write_text(written())
