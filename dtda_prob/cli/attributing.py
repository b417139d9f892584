"""`dtda attribute`: scores of all data, or of perturbations."""

from functools import partial

import click

from dtda_prob.cli import experiment as experiments
from dtda_prob.cli.method import method_option, perturbed, push_forward, weights_option
from dtda_prob.cli.options import Request, computes, computing
from dtda_prob.cli.output import emit
from dtda_prob.cli.study import announce, as_numbers, begin, keep_examples

SCORES = "scores"


@click.command(
    epilog="Example: dtda attribute experiment.py study.zarr --divergence mean --divergence variance"
)
@computes(SCORES)
@click.option("--draws", default=16, show_default=True, help="Draws of training, at least 3.")
@method_option
@click.option(
    "--divergence",
    "divergences",
    multiple=True,
    default=["mean", "wasserstein"],
    show_default=True,
    help="What influential means; several if repeated.",
)
@weights_option
@click.option("--top", default=10, show_default=True, help="Data to list for each query.")
@click.option(
    "--rate", default=0.1, show_default=True, help="False discovery rate at which data are told apart."
)
@click.option(
    "--keep-effects/--no-keep-effects",
    default=True,
    show_default=True,
    help="Keep the effect of each datum on each draw: 4 bytes each, and no draw is repeated for more.",
)
def attribute(
    request: Request,
    draws: int,
    method: str | None,
    divergences: tuple[str, ...],
    weights: str | None,
    top: int,
    rate: float,
    keep_effects: bool,
) -> None:
    """Score how far each datum moves each query.

    A score is a divergence between the distributions of the query's measurement with and without it.

    EXPERIMENT is file.py, or file.py:name where the file defines several. STORE is the folder of
    the study.
    """
    experiment = experiments.load(request.experiment)
    new, source = perturbed(experiment, (), weights), push_forward(experiment, method)
    import jax

    from dtda_prob.attribution import attribute as score
    from dtda_prob.attribution import price_of_scores
    from dtda_prob.cli.score_summary import findings, findings_in_words
    from dtda_prob.studies.run import Where

    key, name = jax.random.key(request.seed), request.name or SCORES
    there = begin(request, name)
    kept = keep_effects and source.cost.pull == source.cost.pull
    with computing(request.engine) as engine:
        effects = f"{name}.effects" if kept else ""
        where = Where(request.store, name, engine, effects=effects)
        price = partial(price_of_scores, source, key, draws, new, where=where)
        is_done = there is not None and there.finished == 1
        cost = announce(f"Scores by {source.name}", None if is_done else price, request.engine)
        scores = score(source, key, draws, divergences, new, where=where)
    keep_examples(experiment, request.store)
    found = findings(scores.load(), top, rate)
    words = f"Scores by {source.name}, {draws} draws, are kept as {name} in {request.store}."
    lines = [words, *findings_in_words(scores, found)]
    result = {"store": request.store, "name": name, "draws": draws, **as_numbers(cost), **found}
    emit(request.as_json, lines, result, ["dtda", "diagnose", *request.words])
