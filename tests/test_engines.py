"""Engines: every item once, wherever it is computed, and whatever becomes of the workers."""

import asyncio
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster

from dtda_prob import engine as engines
from dtda_prob.engine import EngineError, compute

SPAWN = multiprocessing.get_context("spawn")


class Loaded:
    """Leaves a mark wherever it is unpickled."""

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
    return sorted(path.name.split("-")[1] for path in folder.glob(f"{name}-*"))


def toy(folder: Path, act=lambda item: None, seconds: float = 0.0):
    """Make a function that squares, and leaves a mark for each start and each end."""
    loaded = Loaded(folder)

    def square(item: int) -> int:
        mark(loaded.folder, "begun", item)
        act(item)
        time.sleep(seconds)
        mark(loaded.folder, "ended", item)
        return item**2

    return square


def run(function, number, engine, done=lambda item: None, beside=None):
    """Compute, and return the results; `run.results` are those that there are where it raises."""
    run.results = {}
    with closing(compute(function, range(number), engine, beside)) as results:
        for item, value in results:
            assert item not in run.results, "computed twice"
            run.results[item] = value
            done(item)
    return run.results


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
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


def test_every_item_is_computed_once_and_the_function_sent_once(engine, tmp_path):
    (tmp_path / "tasks").mkdir()
    for beside in (None, tmp_path / "tasks"):
        (folder := tmp_path / str(beside is None)).mkdir()
        assert run(toy(folder), 20, engine, beside=beside) == {i: i**2 for i in range(20)}
        assert marks(folder, "begun") == marks(folder, "ended") == sorted(map(str, range(20)))
        loaded = marks(folder, "loaded")
        assert len(loaded) == len(set(loaded)) <= 2
        assert bool(loaded) == (not isinstance(engine, ThreadPoolExecutor | None))
        assert run(lambda item: -item, 3, engine, beside=beside) == {0: 0, 1: -1, 2: -2}
        assert not [*(tmp_path / "tasks").iterdir()]
    assert run(toy(folder), 0, engine) == {}


class OddError(ValueError):
    """Cannot be unpickled, as it needs two arguments."""

    def __init__(self, what, why):
        super().__init__(f"{what} is odd, {why}")


def refuse_four(item):
    if item == 4:
        raise OSError(28, "no space left")


def refuse_three(item):
    if item == 3:
        raise OddError(item, "as its square is")


def test_what_a_function_raises_ends_the_call(engine, tmp_path):
    with pytest.raises(OSError, match="no space left") as caught:
        run(toy(tmp_path, refuse_four, 0.02), 600, engine)
    assert "raised by 4" in caught.value.__notes__
    begun, ended = (len(marks(tmp_path, name)) for name in ("begun", "ended"))
    assert begun <= ended + 3 < 590
    assert ended < len(marks(tmp_path, "begun"))


def test_errors_that_cannot_travel_are_told(processes, tmp_path):
    with pytest.raises(RuntimeError, match="OddError: 3 is odd, as its square is") as caught:
        run(toy(tmp_path, refuse_three), 5, processes)
    assert any("refuse_three" in note for note in caught.value.__notes__)
    assert len(run(toy(tmp_path), 5, processes)) == 5


def test_an_interruption_takes_back_what_waits(engine, tmp_path):
    def interrupt(item):
        if len(run.results) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(toy(tmp_path, seconds=0.05), 200, engine, interrupt)
    time.sleep(0.3)
    assert len(marks(tmp_path, "begun")) < 150


def test_a_signal_interrupts_the_wait(tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
            run(toy(tmp_path, seconds=2.0), 2, pool)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(marks(tmp_path, "begun")) == 1


def die_once(folder):
    def act(item):
        if item == 6 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return act


@pytest.mark.parametrize("failures", [3, 0])
def test_what_a_dead_worker_had_is_computed_again(cluster, client, tmp_path, monkeypatch, failures):
    """By Dask itself, or once more by us where it gives up."""
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", failures)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", RuntimeWarning)
        results = run(toy(tmp_path, die_once(tmp_path), 0.03), 16, client)
    assert results == {i: i**2 for i in range(16)}
    assert (tmp_path / "died").exists()
    lost = [str(warning.message) for warning in warned if "computed again" in str(warning.message)]
    assert lost or failures  # Dask gives some up even then, if the worker dies while it hands them over


def test_a_broken_pool_says_what_to_do(tmp_path):
    with (
        ProcessPoolExecutor(2, mp_context=SPAWN) as pool,
        pytest.raises(EngineError, match="make a new pool"),
    ):
        run(toy(tmp_path, die_once(tmp_path), 0.05), 20, pool)
    assert len(run.results) >= 2


class Flaky(Executor):
    """Loses the first attempts at each item."""

    def __init__(self, losses):
        self.losses, self.attempts = losses, {}

    def submit(self, call, function, item):
        self.attempts[item] = self.attempts.get(item, 0) + 1
        future = Future()
        if self.attempts[item] <= self.losses:
            future.set_exception(ConnectionError("the line is cut"))
        else:
            future.set_result(call(function, item))
        return future


@pytest.mark.filterwarnings("ignore:.*was lost and is computed again:RuntimeWarning")
def test_an_item_is_lost_once_at_most(tmp_path):
    assert len(run(toy(tmp_path), 6, Flaky(1))) == len(marks(tmp_path, "begun")) == 6
    with pytest.raises(EngineError, match=r"[0-5] was lost twice.*line is cut"):
        run(toy(tmp_path), 6, Flaky(2))


def test_no_worker_is_said_and_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "SILENCE", 0.5)
    monkeypatch.setattr(engines, "PATIENCE", 2.0)
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": None}),
        Client(n_workers=0, processes=False, dashboard_address=":0") as client,
        pytest.warns(
            RuntimeWarning, match="no worker for .* s; waiting until 2 s .* is finished is safe"
        ),
        pytest.raises(
            EngineError,
            match=r"no worker for ([2-9]|\d\d+) s: see .*, start some, and call again",
        ),
    ):
        run(toy(tmp_path), 3, client)


LONE = """
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
    print(cluster.scheduler_address, flush=True)
    input()
"""


@pytest.mark.filterwarnings("ignore:.*was lost and is computed again:RuntimeWarning")
def test_a_lost_scheduler_is_an_error(tmp_path):
    script = tmp_path / "lone.py"
    script.write_text(LONE)
    lone = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    with lone, Client(lone.stdout.readline().strip(), timeout=5) as client:

        def kill(item):
            if len(run.results) == 3:
                os.killpg(lone.pid, signal.SIGKILL)

        with pytest.raises(EngineError, match="cannot be reached any more"):
            run(toy(tmp_path, seconds=0.02), 50, client, kill)
        with pytest.raises(EngineError, match="cannot be reached any more"):
            run(toy(tmp_path), 1, client)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("dask", "pass None"),
        (2, "pass None"),
        (ProcessPoolExecutor, "pass None"),
        (lambda: ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")), "forked"),
    ],
)
def test_other_engines_are_refused(engine, message):
    engine = engine() if callable(engine) and not isinstance(engine, type) else engine
    with pytest.raises(ValueError, match=message):
        run(abs, 1, engine)


def test_an_asynchronous_client_is_refused(cluster):
    async def ask():
        async with Client(cluster.scheduler_address, asynchronous=True) as client:
            run(abs, 1, client)

    with pytest.raises(ValueError, match="asynchronous=False"):
        asyncio.run(ask())


def test_an_address_where_nobody_answers(monkeypatch):
    timeout = dask.config.set({"distributed.comm.timeouts.connect": "100ms"})
    with timeout, pytest.raises(EngineError, match="no scheduler answers at tcp:"):
        run(abs, 1, "tcp://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"dtda_prob\[cluster\]"):
        run(abs, 1, "tcp://127.0.0.1:8786")


def test_dask_is_imported_only_where_it_is_needed():
    code = """
import sys
from dtda_prob.engine import compute
assert [*compute(abs, [1])] == [(1, 1)]
assert not {"jax", "dask", "distributed"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_large_functions_are_sent(client):
    data = os.urandom(12_000_000)  # more than Dask takes without a warning
    assert set(run(lambda item: len(data), 3, client).values()) == {len(data)}


def test_two_threads_may_call_at_once(tmp_path):
    results = {}

    def call(number):
        with ThreadPoolExecutor(2) as pool:
            results[number] = dict(compute(toy(tmp_path), range(number), pool))

    threads = [threading.Thread(target=call, args=(number,)) for number in (4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: len(values) for number, values in results.items()} == {4: 4, 5: 5}


def test_recipes_are_python():
    """They need clusters, so that they are not run."""
    text = (Path(__file__).parents[1] / "docs/cluster.md").read_text()
    recipes = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    assert len(recipes) == 4
    for recipe in recipes:
        compile(recipe, "docs/cluster.md", "exec")
