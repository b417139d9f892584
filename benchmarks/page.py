"""A benchmark's page: what was asked, what was measured, with which versions and seed."""

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import pandas as pd

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"

Part = Callable[[], pd.DataFrame]


def write(name: str, title: str, doc: str | None, parts: Sequence[Part], seed: int) -> None:
    """Run the parts, print their tables and write them to a page, each under its own docstring."""
    start = time.perf_counter()
    lines = [f"# {title}", "", (doc or "").strip(), ""]
    for part in parts:
        table = part().reset_index().to_markdown(floatfmt=".4g", index=False)
        text = "\n".join(line.strip() for line in (part.__doc__ or "").strip().split("\n"))
        lines += [f"## {part.__name__.replace('_', ' ').capitalize()}", "", text, "", table, ""]
        print(table, flush=True)
    versions = f"jax {jax.__version__}, Python {platform.python_version()}, {jax.default_backend()}"
    lines.append(f"Seed {seed}; {versions}; {time.perf_counter() - start:.0f} seconds in all.")
    (FOLDER / f"{name}.md").write_text("\n".join(lines) + "\n")
