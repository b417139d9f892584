"""Which push-forward a command means, and at which weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dtda_prob.cli.experiment import Experiment

if TYPE_CHECKING:
    from dtda_prob.transforms import PushForward

PLAIN = ("unroll", "influence", "segments", "trajectory", "cosine", "covariance", "newton", "retrain")
"""Push-forwards that a training is enough for."""

method_option = click.option(
    "--method",
    help=f"Push-forward: {', '.join(PLAIN)}, or a variable of the experiment.  "
    "[default: the experiment's own, or unroll]",
)
weights_option = click.option(
    "--weights", metavar="VARIABLE", help="Perturbed data: weights that the experiment defines."
)


def push_forward(experiment: Experiment, method: str | None) -> "PushForward":
    """Give the push-forward of a method, by its own defaults where that is a name of ours.

    Raises:
        click.BadParameter: if there is no such method.
    """
    from dtda_prob import transforms

    if method is None and isinstance(experiment.source, transforms.PushForward):
        return experiment.source
    name = method or "unroll"
    found = vars(experiment.module).get(name)
    if isinstance(found, transforms.PushForward):
        return found
    if name not in PLAIN:
        raise click.BadParameter(
            f"{name!r} is none of {', '.join(PLAIN)}, and no PushForward that "
            f"{experiment.module.__file__} defines",
            param_hint="--method",
        )
    return getattr(transforms, name)(experiment.training)


def perturbed(experiment: Experiment, removed: Sequence[str], weights: str | None) -> Any:
    """Give the weights that are meant, None for the data as they are.

    Raises:
        click.UsageError: if both are given.
        click.BadParameter: for an unknown label or variable.
    """
    if removed and weights:
        raise click.UsageError("give --remove or --weights, not both")
    if weights:
        return _defined(experiment, weights)
    if not removed:
        return None
    from dtda_prob.perturbations import remove

    program = experiment.training.program
    return remove(program, _labels(program.labels, removed))


def _defined(experiment: Experiment, name: str) -> Any:
    from dtda_prob.perturbations import check_weights

    try:
        return check_weights(experiment.training.program, experiment.variable(name))
    except (ValueError, TypeError) as error:
        raise click.BadParameter(
            f"{name} holds no weights, as dtda.remove or dtda.leave_one_out give them: {error}",
            param_hint="--weights",
        ) from error


def _labels(labels: Any, chosen: Sequence[str]) -> list[Any]:
    """Find labels by what they look like: each text is one, or several between commas."""
    known = {str(label): label for label in labels.tolist()}
    names = [part for text in chosen for part in ([text] if text in known else text.split(","))]
    unknown = [name for name in map(str.strip, names) if name not in known]
    if unknown:
        some = ", ".join(list(known)[:5])
        raise click.BadParameter(
            f"no datum is called {unknown[0]!r}; the {len(known)} data are called {some}, ...",
            param_hint="--remove",
        )
    return [known[name.strip()] for name in names]
