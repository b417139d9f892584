"""Compute on two processes of Dask: what it costs, and what becomes of workers that die."""

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from distributed import Client, LocalCluster, Worker, WorkerPlugin

import dtda_prob as dtda
from trials.outcome import Outcome
from trials.processes import folder, read
from trials.study import training

SEED = 0
BLOCK, NUM_BLOCKS, COLD = 288, 8, 2
NUM_KILLS = 4
MOST = 0.10
SHORTEST = 5.0
AT_ONCE = 0.5  # seconds of an attempt that found its worker without the task, and computed nothing


class Attempts(WorkerPlugin):
    """Write down when items begin and end on a worker, in a file that outlives it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def setup(self, worker: Worker) -> None:
        self.file = self.folder / str(os.getpid())

    def transition(self, key: str, start: str, finish: str, **more: Any) -> None:
        if finish in ("executing", "memory"):
            with self.file.open("a") as file:
                file.write(f"{key} {finish} {time.time()}\n")


def cluster() -> Outcome:
    """Sample in 8 blocks of 288 trainings in this process, a pool, and Dask; kill Dask's workers.

    Every process computes in one thread, including this one, so two workers have one core each.
    "cold start" is the extra time of the first two blocks (imports, tracing, compiling or reading
    compiled code) compared with two warm blocks; the other columns are for the 8 blocks that then
    extend the sample. "work" is the time of the blocks by their own record, including writing;
    "ideal" is work divided by the number of workers, and "overhead" the time of the call beyond it:
    opening the study, sending, waiting, recording and publishing. Work itself grows if two processes
    share a machine's memory; "beyond half", which compares the call with half of this process's
    time, includes that growth. "with kills" ends a randomly drawn worker by SIGKILL at 4 random
    moments of the run; "begun" counts every start of a block, and "ended" the blocks that ended.
    """
    with folder() as place:
        here = _measured(place, "this process", None, 1)
        rows = [here]
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append(_measured(place, "pool", pool, 2))
        with _cluster() as workers, Client(workers) as client:
            rows.append(_measured(place, "Dask", client, 2))
        with _cluster() as workers, Client(workers) as client:
            attempts = place / "attempts"
            attempts.mkdir()
            client.register_plugin(Attempts(attempts))
            fatal = _killing(workers, rows[-1]["wall"])
            rows.append(_measured(place, "Dask, with kills", client, 2, fatal) | _counts(attempts))
    table = pd.DataFrame(rows)
    table["beyond half"] = table["wall"] / (here["wall"] / 2) - 1
    table.loc[0, "beyond half"] = float("nan")
    return Outcome(table, _claims(table))


def _claims(table: pd.DataFrame) -> dict[str, bool]:
    dask = table.set_index("engine")["overhead"]["Dask"]
    shortest = table["shortest block"].min()
    return {
        "All are bit-identical to what this process alone draws.": bool(table["whole"].all()),
        f"Overhead of Dask is {dask:.1%}, below {MOST:.0%}.": bool(dask < MOST),
        f"No block is shorter than five seconds (the shortest took {shortest:.1f}).": shortest
        >= SHORTEST,
        f"The run in which {NUM_KILLS} workers were killed ends like the others.": bool(
            table["whole"].iloc[-1] and table["killed"].iloc[-1] == NUM_KILLS
        ),
    }


def _cluster() -> LocalCluster:
    return LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")


def _measured(
    place: Path, name: str, engine: Any, workers: int, fatal: Callable[[], Callable] | None = None
) -> dict[str, Any]:
    """Sample some blocks, cold, and then more, which is measured; compare with the first store."""
    store, source = place / f"{name}.zarr", training()

    def sample(blocks: int) -> float:
        start = time.perf_counter()
        dtda.sample(
            source,
            jax.random.key(SEED),
            blocks * BLOCK,
            options=dtda.Options(chunk_size=BLOCK, check=False),
            where=dtda.Where(store, progress=False, engine=engine),
        )
        return time.perf_counter() - start

    cold = sample(COLD)
    ended = fatal() if fatal else lambda: 0
    wall = sample(COLD + NUM_BLOCKS)
    killed, seconds = ended(), dtda.verify(store)["seconds"].dropna().to_numpy()[COLD:]
    ideal = seconds.sum() / workers
    row = {
        "engine": name,
        "cold start": cold - COLD * seconds.mean() / workers,
        "shortest block": seconds.min(),
        "work": seconds.sum(),
        "ideal": ideal,
        "wall": wall,
        "overhead": wall / ideal - 1,
        "whole": read(store, place / "this process.zarr")["whole"],
        "killed": killed,
    }
    print(row, flush=True)
    return row


def _killing(workers: LocalCluster, seconds: float) -> Callable[[], Callable[[], int]]:
    """Kill workers at random moments, from when it is called; give what stops and counts."""
    chance, killed, over = random.Random(SEED), [], threading.Event()
    moments = sorted(chance.uniform(0, seconds) for _ in range(NUM_KILLS))

    def kill() -> None:
        start = time.perf_counter()
        for moment in moments:
            if over.wait(max(0.0, start + moment - time.perf_counter())):
                return
            nanny = chance.choice([*workers.workers.values()])
            while not nanny.pid and not over.wait(0.01):
                pass
            os.kill(nanny.pid, 9)
            killed.append(nanny.pid)

    def begin() -> Callable[[], int]:
        thread = threading.Thread(target=kill)
        thread.start()

        def end() -> int:
            over.set()
            thread.join()
            return len(killed)

        return end

    return begin


def _counts(attempts: Path) -> dict[str, int]:
    """Count the blocks that began and ended on workers, those that computed nothing left out."""
    begun, ended = {}, {}
    for file in attempts.iterdir():
        for line in file.read_text().splitlines():
            key, what, at = line.rsplit(" ", 2)
            (begun if what == "executing" else ended)[file.name, key] = float(at)
    empty = {key for key, at in ended.items() if at - begun.get(key, at) < AT_ONCE}
    return {"begun": len(begun.keys() - empty) - COLD, "ended": len(ended.keys() - empty) - COLD}
