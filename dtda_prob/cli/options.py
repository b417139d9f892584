"""Arguments and options that commands share, and the engine that they name."""

import multiprocessing
import os
import platform
import signal
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import reduce, wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

STORE = click.Path(path_type=Path, file_okay=False)
ENGINES = "here, devices, processes, processes:N, or the address of a Dask scheduler (tcp://host:8786)"
CACHE_BYTES = 2**30


class Request(NamedTuple):
    """What all commands that compute are asked.

    Attributes:
        experiment: `file.py:name`.
        store: folder of the study.
        name: of the result in the study; None for the command's own.
        seed: of all randomness.
        engine: where it is computed, as given.
        resume: whether to resume an existing result.
        as_json: whether to print one JSON object.
    """

    experiment: str
    store: Path
    name: str | None
    seed: int
    engine: str
    resume: bool
    as_json: bool

    @property
    def words(self) -> list[str]:
        """Return the arguments that the next command has too."""
        return [self.experiment, str(self.store)]


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; all else goes to stderr."
)


def computes(name: str) -> Callable[[Callable], Callable]:
    """Add the arguments and options of all commands that compute; `name` is shown in the help."""

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def run(**given: Any) -> Any:
            keep_compilations()
            common = {field: given.pop(field) for field in Request._fields}
            return function(Request(**common), **given)

        return reduce(lambda made, parameter: parameter(made), reversed(_parameters(name)), run)

    return decorate


def _parameters(name: str) -> list[Callable[[Callable], Callable]]:
    return [
        click.argument("experiment", type=click.Path()),
        click.argument("store", type=STORE),
        click.option("--name", help=f"Name of the result in the study.  [default: {name}]"),
        click.option("--seed", default=0, show_default=True, help="Seed of all randomness."),
        click.option(
            "--engine",
            default="here",
            show_default=True,
            callback=_check_engine,
            help="Where to compute: here, devices, processes[:N], or a Dask address.",
        ),
        click.option(
            "--resume/--no-resume",
            default=True,
            show_default=True,
            help="Resume a result of this name in the study, or refuse to.",
        ),
        json_option,
    ]


def keep_compilations() -> None:
    """Let JAX keep compiled code in the user's cache folder, unless the environment names another.

    Each machine has its own folder, since code for one processor may not run on another, of at most a
    GiB. Call before JAX is imported; processes that are started inherit it. Without a home folder,
    nothing is kept.
    """
    import platformdirs

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            cache = platformdirs.user_cache_path("dtda_prob", appauthor=False)
            folder = cache / "jax" / platform.node()
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # RuntimeError: no HOME, and no entry for the user
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(CACHE_BYTES))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _check_engine(context: click.Context, parameter: click.Parameter, words: str) -> str:
    if words in ("here", "devices") or "://" in words or _num_processes(words) is not None:
        return words
    raise click.BadParameter(f"{words!r} is not one of: {ENGINES}", context, parameter)


@contextmanager
def computing(words: str) -> Generator[Any]:
    """Yield the engine of `--engine`, and close it."""
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
    """Yield a pool that stops at once when it is interrupted: finished results are safe."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown()


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, which says what is safe, and stdout to its result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr
