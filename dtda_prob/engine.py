"""Engines: call a function on many items in this process, in a pool, or on a Dask cluster."""

import hashlib
import multiprocessing
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import cloudpickle

SILENCE = 30.0
"""Seconds without a Dask worker before a warning."""
PATIENCE = 3600.0
"""Seconds without a Dask worker before `compute` gives up; Dask's own setting takes precedence."""
LARGE = 2**20
"""Bytes from which a function is sent to each worker once, instead of with each item."""
RECONNECTION = 60.0
"""Seconds that a Dask client has to reconnect to its scheduler."""


class EngineError(RuntimeError):
    """The engine cannot continue; finished results are kept."""


class Pool(NamedTuple):
    """Workers.

    Attributes:
        executor: submits calls to them.
        watch: raises `EngineError` if they cannot continue; called about every second.
        send: transfers bytes to them, and returns the handle to submit in their place.
    """

    executor: Executor
    watch: Callable[[], None]
    send: Callable[[bytes], Any]


class Raised(NamedTuple):
    """What a worker returns if the function raised; all other errors are the engine's."""

    error: Exception


def compute(
    function: Callable[[Any], Any], items: Sequence[Any], engine: Any = None, beside: Path | None = None
) -> Generator[tuple[Any, Any]]:
    """Call a function on each item, and yield items with results as they finish, in any order.

    An item that is lost with its worker is submitted once more. If the function raises, waiting items
    are cancelled, and running ones finish before the error is raised.

    Args:
        function: pickled once by cloudpickle for other processes, each of which caches two.
        items: small picklable objects.
        engine: this process if None; an executor of `concurrent.futures` (threads, or processes that
            are not forked); a `distributed.Client`, or the address of a Dask scheduler.
        beside: a folder that all workers can read, for the pickled function; if None, it is sent to
            them.

    Raises:
        ValueError: for another kind of engine, or a pool of forked processes.
        EngineError: if a pool is broken, a scheduler lost, no worker comes, or an item is lost twice.
        Exception: whatever the function raises, with a note that names the item.
    """
    if engine is None:
        for item in items:
            try:
                result = function(item)
            except Exception as error:
                error.add_note(f"raised by {item}")
                raise
            yield item, result
        return
    with _pool(engine) as pool, _packed(function, pool, beside) as packed:
        yield from _collect(lambda item: pool.executor.submit(_call, packed, item), items, pool.watch)


def _collect(
    submit: Callable[[Any], Future], items: Sequence[Any], watch: Callable[[], None]
) -> Generator[tuple[Any, Any]]:
    """Submit all items, and yield results as they arrive."""
    flight, lost = _Flight(submit, items, watch, SimpleQueue(), {}), set()
    try:
        watch()
        for index in range(len(items)):
            flight.launch(index)
        while flight.flying:
            index, future = flight.land()
            value = _outcome(future, items[index], index in lost)
            if isinstance(value, Raised):
                _finish_running(flight.flying)
                value.error.add_note(f"raised by {items[index]}")
                raise value.error
            if isinstance(value, _Lost):
                watch()
                lost.add(index)
                flight.launch(index)
                continue
            yield items[index], value
    finally:
        for future in flight.flying:
            future.cancel()


class _Flight(NamedTuple):
    """The items that were submitted, by their futures, and the queue of those that ended."""

    submit: Callable[[Any], Future]
    items: Sequence[Any]
    watch: Callable[[], None]
    landed: "SimpleQueue[Future]"
    flying: dict[Future, int]

    def launch(self, index: int) -> None:
        """Submit an item; if the scheduler is gone, its watch raises with the reason."""
        try:
            future = self.submit(self.items[index])
        except BrokenExecutor as error:
            raise _broken(error) from error
        except Exception:
            self.watch()
            raise
        self.flying[future] = index
        future.add_done_callback(self.landed.put)

    def land(self) -> tuple[int, Future]:
        """Wait for the next item that ends, and watch meanwhile."""
        while True:
            try:
                future = self.landed.get(timeout=1.0)
            except Empty:
                self.watch()
                continue
            return self.flying.pop(future), future


class _Lost:
    """An item whose worker died."""


def _outcome(future: Future, item: Any, again: bool) -> Any:
    """Return a result, `Raised`, or `_Lost` with a warning."""
    try:
        return future.result()
    except BrokenExecutor as error:
        raise _broken(error) from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        if again:
            raise EngineError(
                f"{item} was lost twice, the last time by {reason}: see the logs of the workers, which "
                "may not have enough memory for it"
            ) from error
        warnings.warn(f"{item} was lost and is computed again ({reason})", RuntimeWarning, stacklevel=2)
        return _Lost()


def _finish_running(flying: dict[Future, int]) -> None:
    """Cancel what has not begun, and wait for what has."""
    wait([future for future in flying if not future.cancel()])


def _broken(error: BrokenExecutor) -> EngineError:
    return EngineError(
        "the pool is broken, since one of its workers died: make a new pool, with fewer workers if "
        f"memory may have run out, and call again with it to compute what is missing ({error})"
    )


@contextmanager
def _packed(function: Callable, pool: Pool, beside: Path | None) -> Generator[Any]:
    """Pickle a function once for workers in other processes, into a file if there is a folder."""
    if isinstance(pool.executor, ThreadPoolExecutor):
        yield function
        return
    content = cloudpickle.dumps(function)
    if beside is None:
        yield pool.send(content)
        return
    file = beside / f".{hashlib.blake2b(content, digest_size=16).hexdigest()}.partial"
    file.write_bytes(content)
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _call(function: Any, item: Any) -> Any:
    """Call a function in a worker, and return what it raises, to distinguish it from a lost worker."""
    try:
        packed = isinstance(function, bytes | Path)
        return (_unpacked(function) if packed else function)(item)
    except Exception as error:
        return Raised(_portable(error))


@lru_cache(2)
def _unpacked(packed: bytes | Path) -> Callable:
    return cloudpickle.loads(packed if isinstance(packed, bytes) else packed.read_bytes())


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with its traceback as a note."""
    where = "".join(traceback.format_exception(error))
    if multiprocessing.parent_process() is None:
        return error
    try:
        error = cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"where it was computed:\n{where}")
    return error


@contextmanager
def _pool(engine: Any) -> Generator[Pool]:
    if isinstance(engine, Executor):
        _refuse_forks(engine)
        yield Pool(engine, lambda: None, lambda content: content)
    elif isinstance(engine, str) and "://" in engine:
        with _connected(engine) as client:
            yield _of_client(client)
    elif hasattr(engine, "get_executor"):
        if engine.asynchronous:
            raise ValueError("engine is an asynchronous Client: pass one with asynchronous=False")
        yield _of_client(engine)
    else:
        raise ValueError(
            f"engine={engine!r}: pass None (this process), an executor of concurrent.futures, a "
            'distributed.Client, or the address of a Dask scheduler such as "tcp://host:8786"'
        )


def _of_client(client: Any) -> Pool:
    """Return the workers of a Dask cluster; a large function is sent to each of them once."""

    def send(content: bytes) -> Any:
        return content if len(content) < LARGE else client.scatter(content, broadcast=True)

    return Pool(client.get_executor(pure=False), _watch(client), send)


def _refuse_forks(executor: Executor) -> None:
    context = getattr(executor, "_mp_context", None)
    if isinstance(executor, ProcessPoolExecutor) and context and context.get_start_method() == "fork":
        raise ValueError(
            "engine is a pool of forked processes, which may wait forever for locks that threads of "
            'this one held: pass ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))'
        )


def _connected(address: str) -> Any:
    """Return a client of a scheduler, as a context manager that closes it."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(
            f'engine={address!r} needs Dask: pip install "dtda_prob[cluster]", here and on the cluster'
        ) from error
    try:
        return Client(address, set_as_default=False)
    except OSError as error:
        raise EngineError(f"no scheduler answers at {address}: {error}") from error


def _watch(client: Any) -> Callable[[], None]:
    """Return a check that the scheduler answers and has workers."""
    alone_since, warned = None, False

    def watch() -> None:
        nonlocal alone_since, warned
        _check_scheduler(client)
        if client.scheduler_info(n_workers=-1).get("workers"):
            alone_since, warned = None, False
            return
        alone_since = time.monotonic() if alone_since is None else alone_since
        alone, patience = time.monotonic() - alone_since, _patience()
        if alone > patience:
            raise EngineError(
                f"the cluster has had no worker for {alone:.0f} s: see the logs of its workers, start "
                "some, and call again for what is missing"
            )
        if alone > SILENCE and not warned:
            warned = True
            warnings.warn(
                f"the cluster has had no worker for {alone:.0f} s; waiting until {patience:.0f} s have "
                "passed. What is finished is safe: start workers, or interrupt and call again",
                RuntimeWarning,
                stacklevel=2,
            )

    return watch


def _patience() -> float:
    """Return how long to wait for a worker, in seconds, by Dask's setting if there is one."""
    from dask import config
    from dask.utils import parse_timedelta

    limit = config.get("distributed.scheduler.no-workers-timeout", None)
    return PATIENCE if limit is None else parse_timedelta(limit)


def _check_scheduler(client: Any) -> None:
    """Wait while a client looks for its scheduler."""
    deadline = time.monotonic() + RECONNECTION
    while client.status == "connecting" and time.monotonic() < deadline:
        time.sleep(0.05)
    if client.status != "running":
        raise EngineError(
            f"the scheduler of {client!r} cannot be reached any more (the client is {client.status}): "
            "see its logs, start a cluster, and call again with a new Client for what is missing"
        )
