"""Compute in the threads or processes of a `concurrent.futures.Executor`."""

import os
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from typing import Any

from dtda_prob.engines.errors import EngineError
from dtda_prob.engines.flight import Crew
from dtda_prob.engines.payload import Answer, Lost, Raised, attempt, attempt_packed, pack


def executor_crew(task: Callable, executor: Executor) -> Crew:
    """Let the workers of an executor compute.

    Threads are given the task as it is. For others it is serialised: an item carries its digest only,
    and a process that lacks it says so, and is sent it with the item, about once for each process.

    Raises:
        ValueError: if processes are forked.
    """
    _refuse_forks(executor)
    workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
    return Crew(
        submit=_submit(task, executor),
        collect=_collect,
        withdraw=Future.cancel,
        abandon=Future.cancel,
        size=lambda: workers,
        watch=lambda: None,
        recover=lambda: None,
    )


def _submit(task: Callable, executor: Executor) -> Callable[[Any, bool], Future]:
    if isinstance(executor, ThreadPoolExecutor):
        return lambda item, _: executor.submit(attempt, task, item)
    full = pack(task)
    empty = full._replace(content=None)

    def submit(item: Any, with_task: bool) -> Future:
        try:
            return executor.submit(attempt_packed, full if with_task else empty, item)
        except BrokenExecutor as error:
            raise _broken(error) from error

    return submit


def _collect(future: Future) -> Answer:
    try:
        return future.result()
    except BrokenExecutor as error:
        raise _broken(error) from error
    except (OSError, CancelledError) as error:
        return Lost(error)
    except Exception as error:
        return Raised(error)


def _broken(error: BrokenExecutor) -> EngineError:
    return EngineError(
        "the pool is broken, since one of its workers died, and cannot be mended: make a new pool, "
        "with fewer workers if memory may have run out, and call again with it for what is missing "
        f"({error})"
    )


def _refuse_forks(executor: Executor) -> None:
    context = getattr(executor, "_mp_context", None)
    if isinstance(executor, ProcessPoolExecutor) and context and context.get_start_method() == "fork":
        raise ValueError(
            "engine is a pool of forked processes, which may wait forever for locks that threads of "
            'this one held: pass ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))'
        )
