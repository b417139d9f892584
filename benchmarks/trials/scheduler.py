"""Kill the scheduler of a cluster, and its workers, during a run."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from distributed import Client

import dtda_prob as dtda
from trials.outcome import Outcome
from trials.processes import folder, read, records
from trials.study import training

SEED = 0
BLOCK, NUM_BLOCKS = 128, 12
NUM_WORKERS = 2
PATIENCE = 10  # seconds in which a client is to find its scheduler again
GAP = 2.0  # seconds between the death of a process and its successor
FINISHED = 3  # blocks that are finished when the fault comes


def scheduler() -> Outcome:
    """Kill -9 the scheduler, the workers or all of them once 3 of 12 blocks are finished.

    The scheduler (`dask scheduler`) and two workers (`dask worker`, under their nannies) are
    separate processes. Killed processes are started again after 2 seconds, at the same address, or
    not at all. Workers end by themselves when their scheduler does, and are then started again too.
    "ended" tells how the run continued: "by itself", or with the error that it raised, after which
    all processes are started again and the same call is made with a new client. "kept" counts the
    blocks that were recorded when the fault came and not touched later, including blocks whose
    report was lost on its way. "second" is when the run ended, including the second call.
    """
    with folder() as place:
        reference = place / "reference.zarr"
        _sample(reference, None)
        rows = []
        for name, (dying, back) in {
            "scheduler, started again": (["scheduler"], True),
            "both workers, started again": (["workers"], True),
            "all, started again": (["scheduler", "workers"], True),
            "scheduler, for good": (["scheduler"], False),
        }.items():
            rows.append({"killed": name, **_trial(place / f"{name}.zarr", reference, dying, back)})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    kept = all(len(set(kept.split(" of "))) == 1 for kept in table["kept"])
    known = table["ended"].isin(["by itself", "EngineError"]).all()
    return Outcome(
        table,
        {
            "Finished blocks are kept, and never computed again.": kept,
            "A run goes on by itself, or ends with an EngineError.": bool(known),
            "All end bit-identical to what one process draws.": bool(table["whole"].all()),
        },
    )


class Cluster:
    """A scheduler and its workers, as processes at one address."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.running: dict[str, list[subprocess.Popen]] = {}

    def start(self, parts: list[str]) -> None:
        """Start the scheduler, the workers or both."""
        for part in parts:
            self.running[part] = [*map(_dask, self._commands(part))]

    def mend(self) -> None:
        """Start again what has ended by itself, as those who supervise a cluster do."""
        for part, processes in self.running.items():
            for place, process in enumerate(processes):
                if process.poll() is not None:
                    processes[place] = _dask(self._commands(part)[place])

    def kill(self, parts: list[str]) -> None:
        """End processes, and those that they started, by SIGKILL."""
        for process in [process for part in parts for process in self.running.pop(part, [])]:
            for pid in [process.pid, *_children(process.pid)]:
                subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
            process.wait()

    def _commands(self, part: str) -> list[list[str]]:
        if part == "scheduler":
            return [["scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]]
        return [["worker", self.address, "--nthreads", "1", "--no-dashboard"]] * NUM_WORKERS


def _trial(store: Path, reference: Path, dying: list[str], back: bool) -> dict[str, Any]:
    cluster, all_parts = Cluster(), ["scheduler", "workers"]
    cluster.start(all_parts)
    start, there, over = time.perf_counter(), {}, threading.Event()

    def fault() -> None:
        while len(records(store)) < FINISHED:
            time.sleep(0.01)
        cluster.kill(dying)
        there.update(records(store))
        time.sleep(GAP)
        if back:
            cluster.start(dying)
        while back and not over.wait(GAP):
            cluster.mend()

    thread = threading.Thread(target=fault)
    thread.start()
    try:
        ended = _attempt(lambda: _with_client(cluster, store))
        over.set()
        thread.join()
        if ended != "by itself":
            cluster.kill(all_parts)
            cluster.start(all_parts)
            _with_client(cluster, store)
    finally:
        cluster.kill(all_parts)
    seconds, after = time.perf_counter() - start, records(store)
    return {
        "ended": ended,
        "kept": f"{sum(after[path] == then for path, then in there.items())} of {len(there)}",
        "finished": f"{len(after)} of {NUM_BLOCKS}",
        "whole": read(store, reference)["whole"],
        "second": seconds,
    }


def _with_client(cluster: Cluster, store: Path) -> None:
    with Client(cluster.address, timeout=PATIENCE) as client:
        _sample(store, client)


def _attempt(call: Callable[[], None]) -> str:
    try:
        call()
    except Exception as error:
        print(
            f"{type(error).__name__}: {error}", *getattr(error, "__notes__", []), sep="\n", flush=True
        )
        return type(error).__name__
    return "by itself"


def _sample(store: Path, engine: Any) -> None:
    key, num_draws = jax.random.key(SEED), BLOCK * NUM_BLOCKS
    options = dtda.Options(chunk_size=BLOCK, check=False)
    where = dtda.Where(store, engine=engine, progress=False)
    dtda.sample(training(), key, num_draws, options=options, where=where)


def _dask(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "dask", *arguments], stderr=subprocess.DEVNULL)


def _children(pid: int) -> list[int]:
    """Return all descendants of a process."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    children = [int(line) for line in found.stdout.split()]
    return [*children, *(below for child in children for below in _children(child))]
