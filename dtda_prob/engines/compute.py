"""Compute a task for many items: here, in the workers of a pool, or on a cluster."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from dtda_prob.engines.executors import executor_crew
from dtda_prob.engines.flight import fly

Done = Callable[[Any, Any], None]


def compute(
    task: Callable[[Any], Any],
    items: Sequence[Any],
    engine: Any = None,
    *,
    done: Done,
    describe: Callable[[int, int], str],
) -> None:
    """Compute a task for each item, once unless it is lost.

    Items that a worker or a connection loses are submitted again, each at most 3 times
    (`flight.RESUBMISSIONS`), with a warning for each such event. An item whose report was given to
    `done` is never computed again. Where the task raises, no more items are submitted, and those in
    flight finish first. An interruption gives up what is in flight; what has finished by then is
    reported.

    Args:
        task: gives the report of an item. Other processes are sent it by cloudpickle and keep it, so
            that what it compiles is compiled once in each of them.
        items: small and picklable.
        engine: None for this process, one item after the other; an executor of `concurrent.futures`,
            of threads or of processes that are not forked; a `distributed.Client`, or a scheduler's
            address.
        done: called here with an item and its report, as each finishes, in any order.
        describe: says what there is, from the numbers of items reported and of all; any error carries
            it as a note.

    Raises:
        ValueError: if the engine is of another kind.
        EngineError: if the engine cannot go on: its pool is broken, its scheduler is gone, or it lost
            an item too often.
        Exception: that of the task, with a note that names the item.
    """
    run, finished = _engine(engine), 0

    def counted(item: Any, report: Any) -> None:
        nonlocal finished
        done(item, report)
        finished += 1

    try:
        run(task, items, counted)
    except BaseException as error:
        error.add_note(describe(finished, len(items)))
        raise


def _engine(engine: Any) -> Callable[[Callable, Sequence[Any], Done], None]:
    if engine is None:
        return _here
    if isinstance(engine, Executor):
        return lambda task, items, done: fly(items, executor_crew(task, engine), done)
    if isinstance(engine, str) and "://" in engine:
        return _at(engine)
    if _is_client(engine):
        return lambda task, items, done: _with(engine, task, items, done)
    raise ValueError(
        f"engine={engine!r}: pass None (this process), an executor of concurrent.futures, a "
        'distributed.Client, or the address of a Dask scheduler such as "tcp://host:8786"'
    )


def _here(task: Callable, items: Sequence[Any], done: Done) -> None:
    for item in items:
        try:
            report = task(item)
        except Exception as error:
            error.add_note(f"raised by {item}")
            raise
        done(item, report)


def _with(client: Any, task: Callable, items: Sequence[Any], done: Done) -> None:
    from dtda_prob.engines.cluster import cluster_crew

    with cluster_crew(task, client) as crew:
        fly(items, crew, done)


def _at(address: str) -> Callable[[Callable, Sequence[Any], Done], None]:
    try:
        from dtda_prob.engines.cluster import connect
    except ImportError as error:
        raise ValueError(
            f'engine={address!r} needs Dask: pip install "dtda_prob[cluster]", here and on the cluster'
        ) from error

    def run(task: Callable, items: Sequence[Any], done: Done) -> None:
        with connect(address) as client:
            _with(client, task, items, done)

    return run


def _is_client(engine: Any) -> bool:
    """Tell a Dask client without importing Dask."""
    return any(
        (kind.__module__, kind.__name__) == ("distributed.client", "Client")
        for kind in type(engine).__mro__
    )
