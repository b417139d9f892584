"""Run the notebooks, keep what they show, and write the table of what they found.

Run with `uv run python notebooks/run.py [NAME ...] [--full]`: without names all of them, at the size
that a reader runs; with `--full` at the size of the numbers that are kept beside.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbclient
import nbformat
from table import FOLDER, code, keep, names, write

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def run(name: str) -> None:
    """Execute a notebook's source and keep it with its outputs."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata["kernelspec"] = KERNEL
    nbclient.execute(notebook, cwd=str(FOLDER))
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{place}"  # else each run changes them
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("language_info", None)
    text = nbformat.writes(notebook) + "\n"
    here = f"{FOLDER.resolve().parent}{os.sep}"  # warnings name the file that they come from
    (FOLDER / f"{name}.ipynb").write_text(text.replace(here, ""))


def run_full(name: str) -> None:
    """Execute a notebook's source at full size and keep what it concludes."""
    ran = code(name)  # before, as the file may be edited meanwhile
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        environment = os.environ | {"DTDA_SIZE": "full", "DTDA_RECORD": str(found)}
        subprocess.run([sys.executable, f"{name}.py"], cwd=FOLDER, env=environment, check=True)
        keep(name, found.read_text(), ran)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 01_picture; all without any")
    parser.add_argument("--full", action="store_true", help="at full size")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(names())
    if unknown:
        parser.error(f"no notebook {', '.join(sorted(unknown))}: there are {', '.join(names())}")
    for name in asked.names or names():
        print(name, flush=True)
        (run_full if asked.full else run)(name)
    write()


if __name__ == "__main__":
    main()
