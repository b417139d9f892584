"""Compute on the workers of a Dask cluster.

Dask itself moves items that wait for a busy worker to an idle one, and starts those again whose worker
died, up to `distributed.scheduler.allowed-failures` times; what it gives up on is submitted anew.
"""

import uuid
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin
from distributed.client import CancelledError as FutureCancelled
from distributed.client import ClosedClientError

from dtda_prob.engines.errors import EngineError
from dtda_prob.engines.flight import Crew
from dtda_prob.engines.payload import (
    Answer,
    Lost,
    Packed,
    Raised,
    attempt_packed,
    deliver,
    pack,
    take_back,
)

RECONNECTION = 60.0
"""Seconds that a client may take to find its scheduler again, if its own `timeout` is not shorter."""


class Carrier(WorkerPlugin):
    """Bring a task to all workers there are, and to those that come later or come back.

    As a dependency of all items it would be brought to one worker, which would then be given the items.
    """

    idempotent = True

    def __init__(self, packed: Packed):
        self.packed = packed

    def setup(self, worker: Worker) -> None:
        deliver(self.packed)

    def teardown(self, worker: Worker) -> None:
        take_back(self.packed)


@contextmanager
def connect(address: str) -> Generator[Client]:
    """Make a client for a scheduler, and close it after.

    Raises:
        EngineError: if no scheduler answers.
    """
    try:
        client = Client(address, set_as_default=False)
    except OSError as error:
        raise EngineError(f"no scheduler answers at {address}: {error}") from error
    with client:
        yield client


@contextmanager
def cluster_crew(task: Callable, client: Client) -> Generator[Crew]:
    """Let the workers of a cluster compute.

    Raises:
        ValueError: if the client is asynchronous.
    """
    if client.asynchronous:
        raise ValueError("engine is an asynchronous Client: pass one with asynchronous=False")
    packed = pack(task)
    name = f"dtda-{packed.digest}-{uuid.uuid4().hex}"
    _watch(client)
    _bring(packed, client, name)
    try:
        yield _crew(packed, client, name)
    finally:
        if client.status == "running":
            with suppress(Exception):  # scheduler and workers that were started anew do not know it
                client.unregister_worker_plugin(name)


def _crew(packed: Packed, client: Client, name: str) -> Crew:
    def recover() -> None:
        _watch(client)
        _bring(packed, client, name)  # the scheduler may be a new one

    return Crew(
        submit=_submit(packed, client),
        collect=_collect,
        withdraw=lambda future: False,  # what has been sent may have begun, and Dask does not say
        abandon=lambda future: future.release(),
        size=lambda: client.scheduler_info(n_workers=0).get("total_threads", 0),
        watch=lambda: _watch(client),
        recover=recover,
    )


def _bring(packed: Packed, client: Client, name: str) -> None:
    with suppress(OSError):  # of a worker that dies meanwhile; one that lacks the task says so
        client.register_plugin(Carrier(packed), name=name)


def _submit(packed: Packed, client: Client) -> Callable[[Any, bool], Future]:
    empty = packed._replace(content=None)

    def submit(item: Any, with_task: bool) -> Future:
        _watch(client)
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
            return client.submit(attempt_packed, packed if with_task else empty, item, pure=False)

    return submit


def _collect(future: Future) -> Answer:
    try:
        return future.result()
    except (OSError, CancelledError, FutureCancelled, ClosedClientError, KilledWorker) as error:
        return Lost(error)
    except Exception as error:
        return Raised(error)
    finally:
        future.release()


def _watch(client: Client) -> None:
    """Wait while a client looks for its scheduler.

    Raises:
        EngineError: if it does not find it.
    """
    deadline = monotonic() + RECONNECTION
    while client.status == "connecting" and monotonic() < deadline:
        sleep(0.05)
    if client.status != "running":
        raise EngineError(
            f"the scheduler of {client!r} cannot be reached any more (the client is {client.status}): "
            "see its logs, start a cluster, and call again with a new Client for what is missing"
        )
