"""A benchmark's page: what was asked, what was measured, with which versions and seed."""

import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType

import jax

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"


def write(name: str, title: str, doc: str | None, parts: Sequence[FunctionType], seed: int) -> None:
    """Run the parts, print their tables and write them to a page, each under its own docstring."""
    start = time.perf_counter()
    lines = [f"# {title}", "", (doc or "").strip(), ""]
    for part in parts:
        table = part().reset_index().to_markdown(floatfmt=".4g", index=False)
        text = "\n".join(line.strip() for line in (part.__doc__ or "").strip().split("\n"))
        lines += [f"## {part.__name__.replace('_', ' ').capitalize()}", "", text, "", table, ""]
        print(table, flush=True)
    lines.append(circumstances(seed, start))
    (FOLDER / f"{name}.md").write_text("\n".join(lines) + "\n")


def circumstances(seed: int, start: float) -> str:
    """Return the last line of a page: seed, versions, the code that was measured, and seconds."""
    versions = f"jax {jax.__version__}, Python {platform.python_version()}, {jax.default_backend()}"
    seconds = time.perf_counter() - start
    return f"Seed {seed}; {versions}; code of {commit()}; {seconds:.0f} seconds in all."


def commit() -> str:
    """Return date and name of the commit that is checked out, and whether files differ from it."""
    name = _git("log", "-1", "--format=%cs (%h)") or "unknown date"
    return name + (", changed since" if _git("status", "--porcelain", "--", "../../dtda_prob") else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    return done.stdout.strip()
