"""Measure what faults do to a study, and what remains: kills, lost workers and schedulers, full disks.

Run with `uv run python benchmarks/faults.py`, or a part of it by its name: `kills`, `cluster`,
`scheduler`, `devices`, `disk`. Each prints its table, writes its section of
`docs/benchmarks/faults.md`, and ends with an error if a claim does not hold. The training is the
demonstration: handwritten digits, a perceptron 64-64-10, 20 epochs, the losses of 40 test digits.
"""

import os
import platform
import re
import subprocess
import sys
import time
from importlib import import_module
from inspect import cleandoc

from page import FOLDER, commit
from trials.processes import ONE_THREAD

PARTS = ("kills", "cluster", "scheduler", "devices", "disk")
SETTINGS = {"cluster": ONE_THREAD}
"""Of the environment, for a part and the processes that it starts; before any array is made."""
PAGE = FOLDER / "faults.md"


def main(names: list[str]) -> int:
    """Run a part here, or several in processes of their own; give the exit code."""
    if len(names) == 1:
        return _run(names[0])
    codes = [subprocess.run([sys.executable, __file__, name], check=False).returncode for name in names]
    return max(codes)


def _run(name: str) -> int:
    os.environ |= SETTINGS.get(name, {})
    load, start = os.getloadavg()[0], time.perf_counter()
    trial = getattr(import_module(f"trials.{name}"), name)
    outcome = trial()
    print(outcome.text())
    seconds = time.perf_counter() - start
    _write(name, cleandoc(trial.__doc__), f"{outcome.text()}\n\n{_circumstances(seconds, load)}")
    return 0 if all(outcome.claims.values()) else 1


def _write(name: str, doc: str, text: str) -> None:
    """Replace the section of a part."""
    sections = _sections() | {name: f"## {name.capitalize()}\n\n{doc}\n\n{text}\n"}
    inside = "\n".join(sections[part] for part in PARTS if part in sections)
    PAGE.write_text(f"# Faults\n\n{(__doc__ or '').strip()}\n\n{inside}")


def _sections() -> dict[str, str]:
    text = PAGE.read_text() if PAGE.exists() else ""
    found = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.split("\n")[0].removeprefix("## ").lower(): part.rstrip() + "\n" for part in found}


def _circumstances(seconds: float, load: float) -> str:
    import jax

    versions = f"jax {jax.__version__}, Python {platform.python_version()}"
    cores = len(os.sched_getaffinity(0))
    return (
        f"Seed 0; {versions}, {cores} cores, load {load:.1f} of other work at the start; "
        f"code of {commit()}; {seconds:.0f} seconds in all."
    )


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(PARTS)
    if unknown:
        sys.exit(f"{sorted(unknown)} must be among {PARTS}")
    sys.exit(main(sys.argv[1:] or [*PARTS]))
