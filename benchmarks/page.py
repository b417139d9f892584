"""A benchmark's page: what was asked, what was measured, with which versions and seed."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType

import jax
import pandas as pd
from jax.experimental.compilation_cache import compilation_cache

# Seconds include compilation, whatever a run has left on disk, and whatever was imported before.
jax.config.update("jax_enable_compilation_cache", False)
compilation_cache.reset_cache()

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"


def write(name: str, title: str, doc: str | None, parts: Sequence[FunctionType], seed: int) -> None:
    """Run the parts, print their tables and write them to a page, each under its own docstring."""
    start = time.perf_counter()
    lines = [f"# {title}", "", (doc or "").strip(), ""]
    for part in parts:
        lines += [_heading(part), "", section(part), ""]
    lines.append(circumstances(seed, start))
    (FOLDER / f"{name}.md").write_text("\n".join(lines) + "\n")


def write_some(
    name: str,
    title: str,
    doc: str | None,
    parts: Sequence[FunctionType],
    chosen: Sequence[FunctionType],
    seed: int,
) -> None:
    """Run the chosen parts and put them in the place of theirs; each has circumstances of its own."""
    path = FOLDER / f"{name}.md"
    for part in chosen:
        start = time.perf_counter()
        text = f"{section(part)}\n\n{circumstances(seed, start)}"
        before = path.read_text().split("\n## ")[1:] if path.exists() else []
        sections = {f"## {each.split('\n')[0]}": each.split("\n", 1)[1].strip() for each in before}
        sections[_heading(part)] = text
        known = [each for each in map(_heading, parts) if each in sections]
        body = "\n\n".join(f"{each}\n\n{sections[each]}" for each in known)
        path.write_text(f"# {title}\n\n{(doc or '').strip()}\n\n{body}\n")


def tables(name: str) -> dict[str, pd.DataFrame]:
    """Return the table of each section of a page, with its first column as index."""
    sections = (FOLDER / f"{name}.md").read_text().split("\n## ")[1:]
    return {each.split("\n")[0]: _table(each) for each in sections}


def _table(text: str) -> pd.DataFrame:
    lines = [line[1:-1].split("|") for line in text.split("\n") if line.startswith("|")]
    names, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return pd.DataFrame(rows, columns=names).set_index(names[0]).map(_as_number)


def _as_number(cell: str) -> float | str:
    try:
        return float(cell or "nan")
    except ValueError:
        return cell


def section(part: FunctionType) -> str:
    """Run a part, print its table and return it under its own docstring."""
    table = without_nan(part().reset_index().to_markdown(floatfmt=".4g", index=False))
    text = "\n".join(line.strip() for line in (part.__doc__ or "").strip().split("\n"))
    print(table, flush=True)
    return f"{text}\n\n{table}"


def without_nan(table: str) -> str:
    """Leave the cells of a table empty that hold no number."""
    return re.sub(r"(?<=\|)( *)nan( *)(?=\|)", r"\1   \2", table)


def _heading(part: FunctionType) -> str:
    return f"## {part.__name__.replace('_', ' ').capitalize()}"


def circumstances(seed: int, start: float) -> str:
    """Return the last line of a page: seed, versions, the code that was measured, and seconds."""
    versions = f"jax {jax.__version__}, Python {platform.python_version()}, {jax.default_backend()}"
    if flags := os.environ.get("XLA_FLAGS"):
        versions += f", `XLA_FLAGS={flags}`"
    seconds = time.perf_counter() - start
    return f"Seed {seed}; {versions}; code of {commit()}; {seconds:.0f} seconds in all."


def commit() -> str:
    """Return date and name of the commit that is checked out, and whether files differ from it."""
    name = _git("log", "-1", "--format=%cs (%h)") or "unknown date"
    return name + (", changed since" if _git("status", "--porcelain", "--", "../../dtda_prob") else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    return done.stdout.strip()
