"""Arguments and options that commands share, folded into one request."""

from collections.abc import Callable
from functools import reduce, wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

from dtda_prob.cli.caching import keep_compilations
from dtda_prob.cli.engine import check_engine

STORE = click.Path(path_type=Path, file_okay=False)


class Request(NamedTuple):
    """What all commands that compute are asked.

    Attributes:
        experiment: `file.py:name`.
        store: folder of the study.
        name: under which the result is kept; None for the command's own.
        seed: of all randomness.
        engine: where it is computed, in words.
        resume: whether to go on with what is there.
        as_json: whether the result is to be one JSON object.
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
        """Give the arguments that the next command has too."""
        return [self.experiment, str(self.store)]


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; all else goes to stderr."
)


def computes(name: str) -> Callable[[Callable], Callable]:
    """Give a command the arguments and options of all that compute; `name` is said in the help."""

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
        click.argument("experiment"),
        click.argument("store", type=STORE),
        click.option("--name", help=f"Name of the result in the study.  [default: {name}]"),
        click.option("--seed", default=0, show_default=True, help="Seed of all randomness."),
        click.option(
            "--engine",
            default="here",
            show_default=True,
            callback=check_engine,
            help="Where it is computed: here, devices, processes[:N], or a Dask address.",
        ),
        click.option(
            "--resume/--no-resume",
            default=True,
            show_default=True,
            help="Go on with what the study has under this name, or refuse to.",
        ),
        json_option,
    ]
