"""Processes of their own, which share the compiled code of one folder."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
ONE_THREAD = {"NPROC": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
"""Settings by which a process computes in one thread."""


@contextmanager
def folder() -> Generator[Path]:
    """Make a folder for a trial, which also keeps what its processes compile."""
    with TemporaryDirectory(prefix="faults-") as name:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(name) / "compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        yield Path(name)


def start(script: str, *arguments: Any, **settings: str) -> subprocess.Popen:
    """Start one of the scripts beside this file, with some settings of the environment."""
    command = [sys.executable, str(HERE / f"{script}.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | settings)


def finish(process: subprocess.Popen) -> None:
    """Wait for a process, which must succeed."""
    if code := process.wait():
        raise SystemExit(f"{process.args} ended with {code}")


def read(store: Path, reference: Path) -> dict[str, Any]:
    """Read a store in another process, and return its report or the error."""
    command = [sys.executable, str(HERE / "reader.py"), str(store), str(reference)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {
            "error": done.stderr.strip().splitlines()[-1],
            "holds": {},
            "part": False,
            "whole": False,
        }
    return json.loads(done.stdout) | {"error": ""}


def records(store: Path) -> dict[Path, int]:
    """Return when each block was recorded as done, by its file."""
    files = store.glob("*/blocks/done/c/**/*")
    return {path: path.stat().st_mtime_ns for path in files if path.is_file() and path.suffix == ""}


def said(holds: dict[str, dict[str, int]]) -> str:
    """Write how much of each result a reader sees."""

    def number(sizes: dict[str, int]) -> int:
        return 4 * sizes["draw"] if "draw" in sizes else sizes.get("run", sizes.get("query", 0))

    named = (f"{name} {number(sizes)}" for name, sizes in holds.items())
    return ", ".join(named) or "nothing"
