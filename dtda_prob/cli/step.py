"""A step of a study: what all commands that compute share."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from functools import reduce, wraps
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dtda_prob.cli import experiment as experiments
from dtda_prob.cli.output import Result, emit, json_option, say, waiting

if TYPE_CHECKING:
    import pandas as pd

    from dtda_prob.studies.price import Price
    from dtda_prob.studies.run import Where
    from dtda_prob.transforms import PushForward

STORE = click.Path(path_type=Path, file_okay=False)
ENGINES = "here, devices, processes, processes:N, or the address of a Dask scheduler (tcp://host:8786)"
EXAMPLES = "examples"
ARGUMENTS = """
EXPERIMENT is file.py, or file.py:name if the file defines several. STORE is the folder of the study.
"""


class Step(NamedTuple):
    """What every command that computes is given.

    Attributes:
        experiment: `file.py:name`.
        store: folder of the study.
        name: of the result in the study.
        seed: of all randomness.
        engine: where to compute, as given.
        resume: whether to resume an existing result.
        draws: number of draws.
        weights: variable of the experiment that holds weights, if one is named.
        method: name of the push-forward; None for the experiment's own.
    """

    experiment: str
    store: Path
    name: str
    seed: int
    engine: str
    resume: bool
    draws: int
    weights: str | None
    method: str | None = None

    def load(self) -> experiments.Experiment:
        """Import the experiment, which takes seconds and is announced."""
        say(f"Loading {self.experiment} ...")
        return experiments.load(self.experiment)

    def prediction(
        self, experiment: experiments.Experiment, removed: Sequence[str] = ()
    ) -> "tuple[PushForward, Any]":
        """Return the push-forward and the weights of the perturbed data; None where none are named."""
        return experiment.push_forward(self.method), experiment.perturbed(removed, self.weights)

    @property
    def words(self) -> list[str]:
        """Return the arguments that the next command has too."""
        return [self.experiment, str(self.store)]

    def contents(self) -> "pd.DataFrame | None":
        """Return the contents of the study, if it exists."""
        import dtda_prob as dtda

        return dtda.contents(self.store) if self.store.exists() else None

    def existing(self) -> "pd.Series | None":
        """Return what the study has under this name.

        Raises:
            click.ClickException: if it has something, and is not to be resumed.
        """
        table = self.contents()
        if table is None or self.name not in table.index:
            return None
        if not self.resume:
            raise click.ClickException(
                f"{str(self.store)!r} has {self.name!r} already; omit --no-resume to resume it, or "
                "choose another --name"
            )
        return table.loc[self.name]

    @contextmanager
    def where(self, effects: str = "") -> Generator["Where"]:
        """Yield where to compute and to keep the result; close the engine."""
        import dtda_prob as dtda

        with _computing(self.engine) as engine:
            yield dtda.Where(self.store, self.name, engine, effects=effects)

    def announce(self, task: str, price: "Callable[[], Price] | None") -> dict[str, Any]:
        """Print the cost of a task before it starts; None if everything is there already."""
        if price is None:
            say(f"{task}: looking up what the study has.")
            return {"cost": None}
        say(f"{task}: compiling, and trying a few draws ...")
        with waiting():
            cost = price()
        elsewhere = self.engine not in ("here", "devices")
        say(f"{task}: {cost}{f', if computed here instead of by {self.engine}' if elsewhere else ''}.")
        if cost.bytes > cost.memory:
            say("Warning: this is more memory than a device has; it may fail, or be slow.")
        return {"cost": cost._asdict()}

    def keep_examples(self, experiment: experiments.Experiment) -> None:
        """Save what a report shows of each example, unless it is there.

        A variable `show` of the experiment's file may hold options of `report.examples`.
        """
        import dtda_prob as dtda

        if EXAMPLES not in dtda.contents(self.store).index:
            say("Gathering the examples for the report ...")
            shown = dtda.report.examples(experiment.training, **getattr(experiment.module, "show", {}))
            dtda.save(shown, self.store, name=EXAMPLES, kind=EXAMPLES)


def computes(
    name: str, draws: int, number: str, *, shown: str = "", predicts: bool = True
) -> Callable[[Callable[..., Result]], Callable]:
    """Add the arguments and options of all commands that compute, and print their result.

    Args:
        name: of the result in the study by default; empty if the command chooses it.
        draws: number of draws by default.
        number: what the help says of the number of draws.
        shown: the default name in the help.
        predicts: whether the command takes a push-forward.
    """
    method = [experiments.method_option] if predicts else []
    options = [*_parameters(shown or name, draws, number), *method, experiments.weights_option]

    def decorate(function: Callable[..., Result]) -> Callable:
        @wraps(function)
        def run(as_json: bool, **given: Any) -> None:
            step = Step(**{field: given.pop(field) for field in Step._fields if field in given})
            step = step._replace(name=step.name or name)
            with redirect_stdout(sys.stderr):  # stdout is for the result, whatever a model prints
                result = function(step, **given)
            emit(as_json, result)

        run.__doc__ = f"{cleandoc(function.__doc__ or '')}\n{ARGUMENTS}"
        return reduce(lambda made, add: add(made), reversed(options), run)

    return decorate


def _parameters(name: str, draws: int, number: str) -> list[Callable[[Callable], Callable]]:
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
        click.option("--draws", default=draws, show_default=True, help=number),
    ]


def _check_engine(context: click.Context, parameter: click.Parameter, words: str) -> str:
    if words in ("here", "devices") or "://" in words or _num_processes(words) is not None:
        return words
    raise click.BadParameter(f"{words!r} is not one of: {ENGINES}", context, parameter)


@contextmanager
def _computing(words: str) -> Generator[Any]:
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
