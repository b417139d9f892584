"""Every library of the field on the same trainings, against the same retrainings.

Run with `uv run python benchmarks/peers/run.py` (some 50 minutes of a processor), or with the names of
some of its cases: `digits`, `images`, `text`, `linear`. It makes environments of the other libraries in
`benchmarks/peers/cache`, keeps each result there and goes on with what is missing, and writes the
sections of these cases in `docs/benchmarks/peers.md`; others stay as they are.
"""

import os
import subprocess
import sys
from pathlib import Path

import environments
from cases import CASES
from linear import write
from settings import LIBRARIES, LIMIT

HERE = Path(__file__).parent
CACHE = HERE / "cache"
OURS = ("truth", "unroll", "EK-FAC", "choose", "rise")
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


def call(python: Path | str, script: Path, *arguments: object) -> None:
    """Run a script in an environment, as a process of its own with one thread."""
    command = [str(each) for each in (python, script, *arguments)]
    print(*command[1:], flush=True)
    paths = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]
    own = {"PYTHONPATH": os.pathsep.join(paths)} if python == sys.executable else {"PYTHONPATH": ""}
    subprocess.run(command, check=True, env=os.environ | ONE_THREAD | own)


def measure(name: str) -> None:
    """Measure what is missing of a case."""
    folder = CACHE / name
    CASES[name]().write(folder)
    call(environments.python_of("torch", CACHE), HERE / "in_torch/train.py", folder)
    for library, settings in LIBRARIES.items():
        for setting, cases in settings.items():
            if name in cases and not (folder / f"{library}-{setting}.npz").exists():
                python = environments.python_of(library, CACHE)
                call(python, HERE / "in_torch/measure.py", folder, library, setting, LIMIT[name])
    for part in OURS:
        if not (folder / f"ours-{part}.npz").exists():
            call(sys.executable, HERE / "ours.py", name, folder, part)


def measure_metrics() -> None:
    """Judge all scores of digits by quanda's metrics."""
    if not (CACHE / "digits/metrics.json").exists():
        python = environments.python_of("quanda", CACHE)
        call(python, HERE / "in_torch/metrics.py", CACHE / "digits")


def measure_linear() -> None:
    """Measure what is no network: a logistic regression, by pyinfluence and by us."""
    folder = CACHE / "linear"
    if not (folder / "linear-ours.npz").exists():
        write(folder)
        call(environments.python_of("tables", CACHE), HERE / "in_torch/linear.py", folder)
        call(sys.executable, HERE / "linear.py", folder)


if __name__ == "__main__":
    asked = sys.argv[1:] or [*CASES, "linear"]
    for name in asked:
        measure_linear() if name == "linear" else measure(name)
    if "digits" in asked:
        measure_metrics()
    call(sys.executable, HERE / "tables.py")
