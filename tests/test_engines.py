"""Engines: all items once, wherever they are computed, and whatever becomes of the workers."""

import asyncio
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import dask
import pytest
from distributed import Client, LocalCluster

from dtda_prob.engines import EngineError, compute
from dtda_prob.engines.cluster import Carrier
from dtda_prob.engines.flight import IN_FLIGHT, RESUBMISSIONS
from dtda_prob.engines.payload import Missing, Report, attempt_packed, pack

LARGE = 12_000_000  # bytes, more than Dask takes without a warning
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


def safe(finished: int, total: int) -> str:
    return f"{finished} of {total} are safe"


def run(task, items, engine, done=None):
    """Compute, and give the reports; those that there are where it raises too."""
    reports = {}

    def keep(item, report):
        assert item not in reports, "reported twice"
        reports[item] = report
        if done:
            done(item, report)

    run.reports = reports
    compute(task, items, engine, done=keep, describe=safe)
    return reports


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


def test_all_items_are_computed_and_reported_once(engine, tmp_path):
    assert run(toy(tmp_path), shards(20), engine) == {Shard(i): i**2 for i in range(20)}
    assert marks(tmp_path, "begun") == marks(tmp_path, "ended") == sorted(map(str, range(20)))
    loaded = marks(tmp_path, "loaded")
    assert len(loaded) == len(set(loaded)) <= 2
    assert bool(loaded) == (not isinstance(engine, ThreadPoolExecutor | None))


def test_nothing_to_compute(engine, tmp_path):
    assert run(toy(tmp_path), [], engine) == {}


class OddError(ValueError):
    """Cannot be deserialised, as it needs two arguments."""

    def __init__(self, what, why):
        super().__init__(f"{what} is odd, {why}")


def _refuse_three(shard):
    if shard.index == 3:
        raise OddError(shard.index, "as its square is")


def _refuse_four(shard):
    if shard.index == 4:
        raise OSError(28, "no space left")


def test_an_error_of_the_task_lets_the_others_in_flight_finish(engine, tmp_path):
    with pytest.raises(OSError, match="no space left") as caught:
        run(toy(tmp_path, _refuse_four, 0.02), shards(60), engine)
    ended = marks(tmp_path, "ended")
    assert sorted(str(shard.index) for shard in run.reports) == ended
    assert len(marks(tmp_path, "begun")) == len(ended) + 1 < 30
    notes = caught.value.__notes__
    assert f"raised by {Shard(4)}" in notes
    assert f"{len(ended)} of 60 are safe" in notes


@pytest.mark.parametrize("name", ["processes", "client"])
def test_errors_that_cannot_travel_are_told(name, request, tmp_path):
    engine = request.getfixturevalue(name)
    with pytest.raises(RuntimeError, match="OddError: 3 is odd, as its square is") as caught:
        run(toy(tmp_path, _refuse_three), shards(5), engine)
    assert any("_refuse_three" in note for note in caught.value.__notes__), "no traceback of the worker"
    assert len(run(toy(tmp_path), shards(5), engine)) == 5


@pytest.mark.parametrize("name", ["processes", "client"])
def test_reports_that_cannot_travel_are_errors(name, request):
    with pytest.raises(Exception, match=r"pickle|serialize") as caught:
        run(lambda shard: threading.Lock(), shards(1), request.getfixturevalue(name))
    assert "raised by Shard(index=0)" in caught.value.__notes__


def test_an_interruption_gives_up_what_is_in_flight(engine, tmp_path):
    def interrupt(item, report):
        if item.index == 5:
            raise KeyboardInterrupt

    task, items = toy(tmp_path, seconds=0.02), shards(24)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(task, items, engine, interrupt)
    reports = run.reports
    assert f"{len(reports) - 1} of 24 are safe" in caught.value.__notes__
    time.sleep(0.2)
    assert len(marks(tmp_path, "begun")) <= len(reports) + 2 * IN_FLIGHT
    assert len(reports | run(task, [i for i in items if i not in reports], engine)) == 24


@pytest.mark.parametrize("name", ["processes", "client"])
def test_an_interruption_reports_what_has_finished(name, request, tmp_path):
    def interrupt(item, report):
        if item.index == 0:
            # What a process that lacked the task was given does not begin before this one returns.
            until = time.monotonic() + 2
            while len(marks(tmp_path, "ended")) < 2 * IN_FLIGHT and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(0.5)  # for the answers to arrive
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(toy(tmp_path), shards(40), request.getfixturevalue(name), interrupt)
    assert sorted(str(shard.index) for shard in run.reports) == marks(tmp_path, "begun")


def test_an_interruption_takes_back_what_waits(tmp_path):
    interrupted = threading.Event()

    def interrupt(item, report):
        raise KeyboardInterrupt

    def dwell(shard):
        assert not shard.index or interrupted.wait(60)

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(KeyboardInterrupt):
            run(toy(tmp_path, dwell), shards(10), pool, interrupt)
        interrupted.set()
    begun = marks(tmp_path, "begun")
    assert "0" in begun
    assert len(begun) <= 3 < 2 * IN_FLIGHT


@contextmanager
def interrupted_after(seconds: float):
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    alarm = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.signal(signal.SIGALRM, alarm)


def test_a_signal_interrupts_the_wait(engine, tmp_path):
    task = toy(tmp_path, seconds=0.1)
    with pytest.raises(KeyboardInterrupt) as caught, interrupted_after(0.5):
        run(task, shards(200), engine)
    assert len(run.reports) < 60
    assert f"{len(run.reports)} of 200 are safe" in caught.value.__notes__


def _die_once(folder):
    def act(shard):
        if shard.index == 6 and first_time(folder, "died"):
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def killing_run(folder, engine):
    """Run with a worker that dies once; give when each item was reported."""
    times = {}
    reports = run(
        toy(folder, _die_once(folder), 0.03),
        shards(16),
        engine,
        lambda item, _: times.setdefault(str(item.index), time.monotonic_ns()),
    )
    assert reports == {Shard(i): i**2 for i in range(16)}
    assert (folder / "died").exists()
    for path in folder.glob("begun-*"):
        _, index, begun = path.name.split("-")
        assert int(begun) < times[index], "computed again after it was reported"


def test_dask_itself_repeats_what_a_dead_worker_had(client, tmp_path):
    killing_run(tmp_path, client)


def test_items_that_dask_gives_up_are_submitted_again(cluster, client, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    with pytest.warns(RuntimeWarning, match=r"in flight were lost .* \(KilledWorker") as warned:
        killing_run(tmp_path, client)
    assert len(warned) == 1


def test_a_broken_pool_says_what_to_do(tmp_path):
    task = toy(tmp_path, _die_once(tmp_path), 0.05)
    with (
        ProcessPoolExecutor(2, mp_context=SPAWN) as pool,
        pytest.raises(EngineError, match="make a new pool") as caught,
    ):
        run(task, shards(20), pool)
    reports = run.reports
    assert len(reports) >= 2
    assert f"{len(reports)} of 20 are safe" in caught.value.__notes__
    with ProcessPoolExecutor(2, mp_context=SPAWN) as pool:
        assert len(reports | run(task, [i for i in shards(20) if i not in reports], pool)) == 20


LONE = """
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
    print(cluster.scheduler_address, flush=True)
    input()
"""


def test_a_lost_scheduler_is_an_error_and_what_was_reported_stays(tmp_path):
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

        def kill(item, report):
            if item.index == 3:
                os.killpg(lone.pid, signal.SIGKILL)

        with pytest.raises(EngineError, match="cannot be reached any more") as caught:
            run(toy(tmp_path, seconds=0.02), shards(50), client, kill)
        assert f"{len(run.reports)} of 50 are safe" in caught.value.__notes__
        assert len(run.reports) >= 4
        with pytest.raises(EngineError, match="cannot be reached any more"):
            run(toy(tmp_path), shards(1), client)


class Flaky(Executor):
    """Loses the first attempts at each item."""

    _max_workers = 3

    def __init__(self, losses):
        self.losses, self.attempts = losses, Counter()

    def submit(self, fn, packed, item):
        self.attempts[item] += 1
        future = Future()
        if self.attempts[item] <= self.losses:
            future.set_exception(ConnectionError("the line is cut"))
        else:
            future.set_result(fn(packed, item))
        return future


def test_lost_items_are_submitted_again_with_a_warning_for_each_event(tmp_path):
    with pytest.warns(
        RuntimeWarning, match="6 of the items in flight were lost .*line is cut"
    ) as warned:
        reports = run(toy(tmp_path), shards(6), Flaky(RESUBMISSIONS))
    assert len(warned) == RESUBMISSIONS
    assert len(reports) == len(marks(tmp_path, "begun")) == 6
    assert len(marks(tmp_path, "loaded")) == 1


@pytest.mark.filterwarnings("ignore:.*in flight were lost:RuntimeWarning")
def test_an_item_that_is_always_lost_is_an_error(tmp_path):
    with pytest.raises(EngineError, match=r"Shard\(index=[0-5]\) was lost 4 times.*line is cut"):
        run(toy(tmp_path), shards(6), Flaky(RESUBMISSIONS + 1))


class Counting(ThreadPoolExecutor):
    """Refuses to be given many items at once."""

    submitted = 0

    def submit(self, *args):
        self.submitted += 1
        assert self.submitted - len(run.reports) <= IN_FLIGHT * self._max_workers
        return super().submit(*args)


def test_few_items_are_in_flight_at_once(tmp_path):
    with Counting(2) as pool:
        assert len(run(toy(tmp_path), shards(50), pool)) == 50


def test_a_task_is_sent_once_to_a_process(tmp_path):
    packed = pack(toy(tmp_path))
    bare = packed._replace(content=None)
    Carrier(packed).setup(None)
    Carrier(packed).teardown(None)
    assert attempt_packed(bare, Shard(2)) == Missing()
    Carrier(packed).setup(None)
    assert attempt_packed(bare, Shard(2)) == attempt_packed(bare, Shard(2)) == Report(4)
    assert len(marks(tmp_path, "loaded")) == 1


@pytest.mark.parametrize("brought", [True, False])
def test_a_large_task_is_sent_without_a_warning_of_it(brought, client, monkeypatch):
    if not brought:  # as to a worker that was out of reach meanwhile, and says that it lacks the task
        monkeypatch.setattr("dtda_prob.engines.cluster._bring", lambda *args: None)
    data = os.urandom(LARGE)
    assert set(run(lambda shard: len(data), shards(4), client).values()) == {LARGE}


def test_workers_that_come_later_have_the_task(cluster, client, tmp_path):
    def grow(item, report):
        if item.index == 0:
            cluster.scale(3)

    try:
        run(toy(tmp_path, seconds=0.05), shards(80), client, grow)
    finally:
        cluster.scale(2)
    assert len(set(marks(tmp_path, "loaded"))) == 3


def test_workers_keep_nothing_on_the_way(cluster, client, tmp_path):
    run(toy(tmp_path), shards(4), client)
    assert not any(name.startswith("dtda-") for name in cluster.scheduler.worker_plugins)
    assert not client.futures


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
        run(lambda shard: 0, shards(1), engine)


def test_an_asynchronous_client_is_refused(cluster):
    async def ask():
        async with Client(cluster.scheduler_address, asynchronous=True) as client:
            run(lambda shard: 0, shards(1), client)

    with pytest.raises(ValueError, match="asynchronous=False"):
        asyncio.run(ask())


def test_an_address_without_dask_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dtda_prob.engines.cluster", None)
    with pytest.raises(ValueError, match=r"dtda_prob\[cluster\]"):
        run(lambda shard: 0, shards(1), "tcp://127.0.0.1:8786")


def test_an_address_where_nobody_answers():
    timeout = dask.config.set({"distributed.comm.timeouts.connect": "100ms"})
    with timeout, pytest.raises(EngineError, match="no scheduler answers at tcp:"):
        run(lambda shard: 0, shards(1), "tcp://127.0.0.1:9")


def test_dask_is_imported_only_where_it_is_needed():
    code = """
import sys
from dtda_prob.engines import compute
compute(abs, [1], done=print, describe=lambda done, all: "")
assert not {"jax", "dask", "distributed"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tidying_up_does_not_hide_an_interruption(client, monkeypatch):
    def fail(name):
        raise KeyError(name)  # as of workers that the same Ctrl-C has ended, and that come back

    def interrupt(item, report):
        monkeypatch.setattr(client, "unregister_worker_plugin", fail)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(lambda shard: 0, shards(3), client, interrupt)


def test_recipes_are_python():
    """They need clusters, so that they are not run."""
    text = (Path(__file__).parents[1] / "docs/cluster.md").read_text()
    recipes = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    assert len(recipes) == 4
    for recipe in recipes:
        compile(recipe, "docs/cluster.md", "exec")
