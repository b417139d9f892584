"""Compute on the workers of a Dask cluster.

Dask itself moves items that wait for a busy worker to an idle one, and starts those again whose worker
died, up to `distributed.scheduler.allowed-failures` times; what it gives up on is lost, and submitted
anew.
"""

from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from dtda_prob.engines.errors import EngineError
from dtda_prob.engines.flight import Crew
from dtda_prob.engines.payload import Answer, Lost, Packed, Raised, attempt_packed, pack

if TYPE_CHECKING:
    from distributed import Client, Future

RECONNECTION = 60.0
"""Seconds that a client may take to find its scheduler again, if its own `timeout` is not shorter."""


@contextmanager
def connect(address: str) -> Generator["Client"]:
    """Make a client for a scheduler, and close it after.

    Raises:
        ValueError: if distributed is not installed.
        EngineError: if no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(
            f'engine={address!r} needs Dask: pip install "dtda_prob[cluster]", here and on the cluster'
        ) from error
    try:
        client = Client(address, set_as_default=False)
    except OSError as error:
        raise EngineError(f"no scheduler answers at {address}: {error}") from error
    with client:
        yield client


def cluster_crew(task: Callable, client: "Client") -> Crew:
    """Let the workers of a cluster compute.

    The serialised task is a node of the graph, which all items depend on: it is sent to the scheduler
    once, goes from worker to worker, and is there for those that come later or come back.

    Raises:
        ValueError: if the client is asynchronous.
    """
    if client.asynchronous:
        raise ValueError("engine is an asynchronous Client: pass one with asynchronous=False")
    return Crew(
        submit=_submit(pack(task), client),
        collect=_collect,
        withdraw=lambda future: False,  # what has been sent may have begun, and Dask does not say
        abandon=lambda future: future.release(),
        size=lambda: client.scheduler_info(n_workers=0).get("total_threads", 0),
        watch=lambda: _watch(client),
    )


def _submit(packed: Packed, client: "Client") -> Callable[[Any, bool], "Future"]:
    held: list[Future] = []

    def submit(item: Any, _: bool) -> "Future":
        _watch(client)
        if not held or held[0].status not in ("pending", "finished"):
            held[:] = [_hold(packed, client)]
        return client.submit(attempt_packed, held[0], item, pure=False)

    return submit


def _hold(packed: Packed, client: "Client") -> "Future":
    import dask

    threshold = "distributed.admin.large-graph-warning-threshold"
    with dask.config.set(
        {threshold: 2 * len(packed.content or b"") + 1_000_000}
    ):  # meant, and sent once
        return client.submit(_itself, packed, pure=False)


def _itself(packed: Packed) -> Packed:
    return packed


def _collect(future: "Future") -> Answer:
    from distributed import KilledWorker
    from distributed.client import CancelledError as Cancelled
    from distributed.client import ClosedClientError

    try:
        return future.result()
    except (OSError, CancelledError, Cancelled, ClosedClientError, KilledWorker) as error:
        return Lost(error)
    except Exception as error:
        return Raised(error)
    finally:
        future.release()


def _watch(client: "Client") -> None:
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
