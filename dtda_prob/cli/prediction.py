"""A prediction: how many draws, by which push-forward, and on which perturbed data."""

from collections.abc import Callable, Sequence
from functools import reduce, wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dtda_prob.cli.experiment import Experiment, method_option, weights_option
from dtda_prob.cli.output import Result
from dtda_prob.cli.step import Step

if TYPE_CHECKING:
    from dtda_prob.transforms import PushForward


class Prediction(NamedTuple):
    """What every command that predicts is given.

    Attributes:
        draws: number of draws.
        method: name of the push-forward; None for the experiment's own.
        weights: variable of the experiment that holds weights, if one is named.
    """

    draws: int
    method: str | None
    weights: str | None

    def read(self, experiment: Experiment, removed: Sequence[str] = ()) -> "tuple[PushForward, Any]":
        """Return the push-forward and the weights of the perturbed data; None where none are named."""
        return experiment.push_forward(self.method), experiment.perturbed(removed, self.weights)


def predicts(draws: int, shown: str) -> Callable[[Callable[..., Result]], Callable]:
    """Add the options of commands that predict, which they are given as one `Prediction`.

    Args:
        draws: number of draws by default.
        shown: what the help says of it.
    """
    draws_option = click.option("--draws", default=draws, show_default=True, help=shown)

    def decorate(function: Callable[..., Result]) -> Callable:
        @wraps(function)
        def run(step: Step, **given: Any) -> Result:
            fields = {name: given.pop(name) for name in Prediction._fields}
            return function(step, Prediction(**fields), **given)

        options = (draws_option, method_option, weights_option)
        return reduce(lambda made, add: add(made), reversed(options), run)

    return decorate
