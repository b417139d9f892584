"""Engines: all items once, wherever they are computed, and whatever becomes of the workers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import dask
import pytest
from distributed import Client, LocalCluster

from dtda_prob.engines import EngineError, compute
from dtda_prob.engines.flight import IN_FLIGHT, RESUBMISSIONS

SPAWN = multiprocessing.get_context("spawn")


class Shard(NamedTuple):
    index: int


class Loaded:
    """Leaves a mark wherever it is deserialised, and holds no large thing."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return _load, (self.folder,)


def _load(folder: Path) -> Loaded:
    mark(folder, "loaded", os.getpid())
    return Loaded(folder)


def mark(folder: Path, *names) -> None:
    (folder / "-".join(map(str, (*names, time.monotonic_ns())))).touch()


def marks(folder: Path, name: str) -> list[str]:
    """Give what the files of a name say between the name and the time."""
    return sorted(path.name.split("-")[1] for path in folder.glob(f"{name}-*"))


def toy(folder: Path, act=lambda shard: None, seconds: float = 0.0):
    """Make a task that leaves a mark for each start and each end."""
    loaded = Loaded(folder)

    def task(shard: Shard) -> int:
        mark(loaded.folder, "begun", shard.index)
        act(shard)
        time.sleep(seconds)
        mark(loaded.folder, "ended", shard.index)
        return shard.index**2

    return task


def first_time(folder: Path, name: str) -> bool:
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def shards(number: int) -> list[Shard]:
    return [Shard(i) for i in range(number)]


def run(task, items, engine, done=None):
    """Compute, and give the reports; those that there are where it raises too."""
    reports = {}

    def keep(item, report):
        assert item not in reports, "reported twice"
        reports[item] = report
        if done:
            done(item, report)

    run.reports = reports
    compute(task, items, engine, done=keep, describe=lambda done, all: f"{done} of {all} are safe")
    return reports


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=SPAWN) as pool:
        yield pool


@pytest.fixture(params=["here", "threads", "processes", "client", "address"])
def engine(request):
    match request.param:
        case "here":
            yield None
        case "threads":
            with ThreadPoolExecutor(2) as pool:
                yield pool
        case "address":
            yield request.getfixturevalue("cluster").scheduler_address
        case name:
            yield request.getfixturevalue(name)


def test_all_items_are_computed_and_reported_once(engine, tmp_path):
    assert run(toy(tmp_path), shards(20), engine) == {Shard(i): i**2 for i in range(20)}
    assert marks(tmp_path, "begun") == marks(tmp_path, "ended") == sorted(map(str, range(20)))
    loaded = marks(tmp_path, "loaded")
    assert len(loaded) == len(set(loaded)) <= 2
    assert bool(loaded) == (not isinstance(engine, ThreadPoolExecutor | None))


def test_nothing_to_compute(engine, tmp_path):
    assert run(toy(tmp_path), [], engine) == {}


class Odd(ValueError):
    """Cannot be deserialised, as it needs two arguments."""

    def __init__(self, what, why):
        super().__init__(f"{what} is odd, {why}")


def _refuse_three(shard):
    if shard.index == 3:
        raise Odd(shard.index, "as its square is")
