"""Kill a study at random moments, read what is left, and go on."""

import os
import random
import shutil
import time
from pathlib import Path
from subprocess import Popen
from typing import Any

import pandas as pd

import dtda_prob as dtda
from trials.outcome import Outcome
from trials.processes import finish, folder, read, records, said, start

SEED = 0
NUM_KILLS = 20


def kills() -> Outcome:
    """Kill -9 a study at 20 random moments, read the store at once with plain xarray, then resume.

    The study trains 64 models in blocks of 8, carries 8 of them to 6 perturbed datasets by `unroll`,
    and keeps the effects of all examples on 4 draws and their scores: one store, four groups. The
    reference ran uninterrupted in a fresh process. Each row is a fresh store. The study runs in its
    own process and is ended by SIGKILL, either at a time that is uniform over the duration of the
    study ("any moment", counted from the appearance of the store), or as soon as the store has a
    number of files that is uniform over the files of the finished store ("at a file"). "newest file"
    is the last file written. "holds" is what a process with xarray but without dtda_prob then sees:
    it reads everything and compares it with the reference bit for bit ("part"). The same call in a
    new process finishes the study ("seconds to finish": start of Python, imports and tracing take
    about 5 of them on an idle machine; compiled code is kept in a folder that all processes share).
    "kept" counts the blocks that were recorded before the kill and not touched after it. "whole"
    means that the finished store equals the reference bit for bit, except for the time that each
    block took, and that `verify` reports all blocks as finished.
    """
    chance = random.Random(SEED)
    with folder() as place:
        reference = place / "reference.zarr"
        finish(start("study", reference))
        seconds, num_files = _uninterrupted(place / "again.zarr")
        again = read(place / "again.zarr", reference)["whole"]
        rows = []
        for number in range(NUM_KILLS):
            store = place / f"{number}.zarr"
            while not (row := _trial(store, reference, *_moment(chance, number, seconds, num_files))):
                shutil.rmtree(store)  # it had ended before
            rows.append({"kill": number, **row})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    return Outcome(table, _claims(table) | {"A second uninterrupted run equals the first.": again})


def _moment(
    chance: random.Random, number: int, seconds: float, num_files: int
) -> tuple[float | None, int | None]:
    """Draw when to kill: after some seconds, or at some number of files."""
    if number % 2:
        return chance.uniform(0, seconds), None
    return None, chance.randint(1, num_files)


def _claims(table: pd.DataFrame) -> dict[str, bool]:
    readable, part, whole = (int(table[name].sum()) for name in ("readable", "part", "whole"))
    total = len(table)
    kept = all(len(set(kept.split(" of "))) == 1 for kept in table["kept"])
    return {
        f"{readable} of {total} stores are readable by plain xarray at once.": readable == total,
        f"{part} of {total} show nothing but draws of the reference.": part == total,
        f"{whole} of {total} end bit-identical to the reference, all blocks finished.": whole == total,
        "No block that was recorded is computed again.": kept,
    }


def _uninterrupted(store: Path) -> tuple[float, int]:
    """Measure the seconds from the appearance of a store to the end, and its files."""
    process = start("study", store)
    _wait(process, store, 1)
    begun = time.monotonic()
    finish(process)
    return time.monotonic() - begun, _count(store)


def _trial(
    store: Path, reference: Path, seconds: float | None, num_files: int | None
) -> dict[str, Any]:
    process = start("study", store)
    begun = _wait(process, store, 1)
    if seconds is None:
        _wait(process, store, num_files)
    else:
        time.sleep(seconds)
    at = time.monotonic() - begun
    process.kill()
    if process.wait() != -9:
        return {}
    newest, there, seen = _newest(store), records(store), read(store, reference)
    begun = time.monotonic()
    finish(start("study", store))
    took = time.monotonic() - begun
    after, verified = records(store), (dtda.verify(store)["status"] == "finished").all()
    return {
        "moment": "at a file" if seconds is None else "any moment",
        "second": at,
        "newest file": newest,
        "holds": said(seen["holds"]),
        "readable": not seen["error"],
        "part": seen["part"],
        "kept": f"{sum(after[path] == then for path, then in there.items())} of {len(there)}",
        "whole": read(store, reference)["whole"] and bool(verified),
        "seconds to finish": took,
    }


def _wait(process: Popen, store: Path, num_files: int) -> float:
    """Wait until a store has so many files, or its writer has ended."""
    while _count(store) < num_files and process.poll() is None:
        pass
    return time.monotonic()


def _count(store: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(store))


def _newest(store: Path) -> str:
    found = [path for path in store.rglob("*") if path.is_file() and path.name != ".lock"]
    newest = max(found, key=lambda path: (path.stat().st_mtime_ns, path == store / "zarr.json"))
    return str(newest.relative_to(store))
