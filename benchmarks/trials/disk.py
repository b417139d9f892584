"""Fill the disk under a study, read what is left, make space, and go on."""

import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from trials.outcome import Outcome
from trials.processes import HERE, finish, folder, read, records, said, start

SEED = 0
NUM_LEVELS = 8


def disk() -> Outcome:
    """Run the study on a disk that is too small, then make space and call again.

    The disk is a separate tmpfs (mounted in its own namespace, which needs no privileges). Another
    file fills it except for "free" KiB, whose logarithm is uniform up to the size of the study.
    "error" is the error that the call raises, "holds" what a process without the library then reads,
    and "part" whether this is part of the reference. Then the other file is removed, and the same
    call finishes the study: "kept" and "whole" as in the section on kills.
    """
    with folder() as place:
        reference, table = place / "reference.zarr", place / "table.json"
        finish(start("study", reference))
        small = place / "disk"
        small.mkdir()
        size = 2 * _size(reference)
        mount = f'mount -t tmpfs -o size={size} none "$1" && exec "$2" -m trials.disk "$1" "$3" "$4"'
        command = ["unshare", "-rm", "sh", "-c", mount, "sh", small, sys.executable, reference, table]
        subprocess.run(command, check=True, cwd=HERE.parent)
        found = pd.read_json(table)
    return Outcome(found, _claims(found))


def _claims(table: pd.DataFrame) -> dict[str, bool]:
    total = len(table)
    kept = all(len(set(kept.split(" of "))) == 1 for kept in table["kept"])
    return {
        "Each full disk is an OSError that says so.": bool(
            table["error"].str.contains("the disk is full").all()
        ),
        f"{table['part'].sum()} of {total} stores are readable then, or not begun.": bool(
            table["part"].all()
        ),
        "No block that was recorded is computed again.": kept,
        f"{table['whole'].sum()} of {total} end bit-identical to the reference.": bool(
            table["whole"].all()
        ),
    }


def _on(small: Path, reference: Path) -> pd.DataFrame:
    """Try all levels on a small disk that is mounted here."""
    chance, need = random.Random(SEED), _size(reference)
    levels = sorted(need ** chance.uniform(0.6, 1) for _ in range(NUM_LEVELS - 1))
    rows = []
    for number, free in enumerate([0.0, *levels]):
        rows.append(_trial(small / f"{number}.zarr", reference, int(free)))
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def _trial(store: Path, reference: Path, free: int) -> dict[str, Any]:
    ballast = _fill(store.parent / "ballast", free)
    error = _attempt(store)
    there = records(store)
    seen = read(store, reference) if store.exists() else {"holds": {}, "part": True}
    ballast.unlink()
    if second := _attempt(store):
        print(f"after space was made: {second}")
    after, whole = records(store), read(store, reference)["whole"]
    subprocess.run(["rm", "-r", str(store)], check=True)
    return {
        "free": free / 1024,
        "error": error.replace(str(store.parent), "..."),
        "holds": said(seen["holds"]),
        "part": seen["part"],
        "kept": f"{sum(after[path] == then for path, then in there.items())} of {len(there)}",
        "whole": whole,
    }


def _fill(ballast: Path, free: int) -> Path:
    """Take all space but so much."""
    stat = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - free))
    return ballast


def _attempt(store: Path) -> str:
    from trials.study import run

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(store)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _size(store: Path) -> int:
    """Return the bytes that a store takes, in whole pages."""
    files = [path for path in store.rglob("*") if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


if __name__ == "__main__":
    small, reference, table = map(Path, sys.argv[1:])
    _on(small, reference).to_json(table, orient="records")
