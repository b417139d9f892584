"""Where a command computes, from the words of `--engine`."""

import multiprocessing
import os
import signal
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import click

KINDS = "here, devices, processes, processes:N, or the address of a Dask scheduler (tcp://host:8786)"


def check_engine(context: click.Context, parameter: click.Parameter, words: str) -> str:
    """Refuse words that name no engine."""
    if words in ("here", "devices") or "://" in words or _num_processes(words) is not None:
        return words
    raise click.BadParameter(f"{words!r} is none of: {KINDS}", context, parameter)


@contextmanager
def computing(words: str) -> Generator[Any]:
    """Give the engine, and let go of it."""
    workers = _num_processes(words)
    if workers is not None:
        with _processes(workers) as pool:
            yield pool
    else:
        yield _devices() if words == "devices" else None if words == "here" else words


def _num_processes(words: str) -> int | None:
    kind, _, number = words.partition(":")
    if kind != "processes" or (words != kind and not number.isdecimal()) or number == "0":
        return None
    return int(number) if number else os.cpu_count() or 1


def _devices() -> Any:
    import jax
    import numpy as np

    return jax.sharding.Mesh(np.asarray(jax.local_devices()), ("draw",))


@contextmanager
def _processes(workers: int) -> Generator[ProcessPoolExecutor]:
    """Give a pool that dies at once when it is interrupted: what it had finished is safe."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_leave_interruptions)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown()


def _leave_interruptions() -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the one that says what is safe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
