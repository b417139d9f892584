"""`dtda sample` and `dtda push`: sample sets, retrained or carried."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dtda_prob.cli import experiment as experiments
from dtda_prob.cli.method import method_option, perturbed, push_forward, weights_option
from dtda_prob.cli.options import Request, computes, computing
from dtda_prob.cli.output import emit
from dtda_prob.cli.study import announce, as_numbers, begin, keep_examples

if TYPE_CHECKING:
    from dtda_prob.studies.source import Source

FULL, RETRAINED, PREDICTED = "full", "retrained", "predicted"

remove_option = click.option(
    "--remove", "removed", multiple=True, metavar="LABELS", help="Leave out data: labels, with commas."
)
draws_option = click.option("--draws", default=64, show_default=True, help="Draws, a multiple of 4.")


@click.command(
    epilog="Example: dtda sample experiment.py study.zarr --draws 128   "
    "Left out, and really retrained: dtda sample experiment.py study.zarr --remove 3,17"
)
@computes(f"{FULL}, or {RETRAINED} with other data")
@draws_option
@remove_option
@weights_option
def sample(request: Request, draws: int, removed: tuple[str, ...], weights: str | None) -> None:
    """Draw outcomes of training, on all data or on perturbed data.

    EXPERIMENT is file.py, or file.py:name where the file defines several. STORE is the folder of
    the study; what it has is not drawn again.
    """
    experiment = experiments.load(request.experiment)
    new = perturbed(experiment, removed, weights)
    then = ["dtda", "attribute", *request.words]
    if new is not None:
        then = _next(request, PREDICTED, ["dtda", "push", *request.words, *_again(removed, weights)])
    name = request.name or (FULL if new is None else RETRAINED)
    _draw(request, experiment, experiment.training, name, draws, new, "Training", then)


@click.command(
    epilog="Example: dtda push experiment.py study.zarr --remove 3,17   then compare with what "
    "dtda sample retrains."
)
@computes(PREDICTED)
@draws_option
@method_option
@remove_option
@weights_option
def push(
    request: Request, draws: int, method: str | None, removed: tuple[str, ...], weights: str | None
) -> None:
    """Carry draws on all data to perturbed data, without retraining.

    EXPERIMENT is file.py, or file.py:name where the file defines several. STORE is the folder of
    the study.
    """
    experiment = experiments.load(request.experiment)
    new = perturbed(experiment, removed, weights)
    if new is None:
        raise click.UsageError("say which data are perturbed: --remove LABELS or --weights VARIABLE")
    source = push_forward(experiment, method)
    then = _next(request, RETRAINED, ["dtda", "sample", *request.words, *_again(removed, weights)])
    name = request.name or PREDICTED
    _draw(request, experiment, source, name, draws, new, f"Pushing by {source.name}", then)


def _again(removed: Sequence[str], weights: str | None) -> list[str]:
    """Give the options that say which data are perturbed."""
    by_label = [word for text in removed for word in ("--remove", text)]
    return by_label + (["--weights", weights] if weights else [])


def _next(request: Request, other: str, command: list[str]) -> list[str]:
    """Give the command that draws the other arm, or the report where that is there."""
    from dtda_prob.storage import contents

    there = request.store.exists() and other in contents(request.store).index
    return ["dtda", "report", str(request.store)] if there else command


def _draw(
    request: Request,
    experiment: experiments.Experiment,
    source: "Source",
    name: str,
    draws: int,
    weights: Any,
    task: str,
    then: Sequence[str],
) -> None:
    import jax

    from dtda_prob.cli import sample_summary as summary
    from dtda_prob.sampling import price_of_sample
    from dtda_prob.sampling import sample as draw
    from dtda_prob.studies.run import Where

    key, missing = jax.random.key(request.seed), _missing(begin(request, name), draws, weights)
    with computing(request.engine) as engine:
        where = Where(request.store, name, engine)
        price = partial(price_of_sample, source, key, missing, weights, where=where)
        cost = announce(task, price if missing else None, request.engine)
        tree = draw(source, key, draws, weights, where=where)
    keep_examples(experiment, request.store)
    found = summary.moments(tree)
    moved = None if weights is None else summary.moved(tree, request.store)
    lines = [
        f"{draws} draws are kept as {name} in {request.store}.",
        *summary.moments_in_words(found),
        *summary.moved_in_words(moved),
    ]
    result = {"store": request.store, "name": name, "draws": draws, **as_numbers(cost)}
    emit(request.as_json, lines, {**result, **found, "moved": moved}, then)


def _missing(found: Any, draws: int, weights: Any) -> int:
    """Count the draws that are not there; all of them where perturbations are to be added."""
    if found is None:
        return draws
    several = 0 if weights is None or weights.ndim == 1 else len(weights)
    return draws if found.perturbations < several else max(0, draws - int(found.draws))
