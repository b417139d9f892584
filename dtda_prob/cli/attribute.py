"""`dtda attribute`: scores of all examples, or of perturbations."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dtda_prob.cli.output import MOST_ROWS, Result, aligned, completed_by
from dtda_prob.cli.step import Step, computes

if TYPE_CHECKING:
    import xarray as xr

DIVERGENCES = (
    *(
        "mean",
        "variance",
        "log_sd_ratio",
        "median",
        "wasserstein1",
        "wasserstein",
        "sliced_wasserstein",
    ),
    *("sinkhorn", "energy", "mmd", "kullback_leibler", "jensen_shannon", "total_variation"),
    *("kolmogorov_smirnov", "predictive_entropy", "expected_entropy", "mutual_information"),
)
"""Names of divergences, which are listed here so that shells complete them at once."""
NUM_QUERIES = 2
"""Queries whose scores are listed; --json has all of them."""


@click.command(
    epilog="Example: dtda attribute experiment.py study.zarr --divergence mean --divergence variance"
)
@computes("", 16, "Number of draws, at least 3.", shown="scores; fused_N by N retrainings")
@click.option(
    "--divergence",
    "divergences",
    multiple=True,
    default=["mean", "wasserstein"],
    show_default=True,
    shell_complete=completed_by(DIVERGENCES),
    help="What counts as a change of the prediction; repeat it for several.",
)
@click.option("--top", default=10, show_default=True, help="Examples to list for each query.")
@click.option(
    "--rate", default=0.1, show_default=True, help="False discovery rate of significant examples."
)
@click.option(
    "--keep-effects/--no-keep-effects",
    default=True,
    show_default=True,
    help="Keep the effect of each example on each draw (4 bytes each), so that more draws extend them.",
)
@click.option(
    "--retrainings",
    default=0,
    show_default=True,
    help="Subsets to retrain, by which mean scores are corrected; at least 8, or 0. They add to the "
    "subsets that the study has.",
)
def attribute(
    step: Step,
    divergences: tuple[str, ...],
    top: int,
    rate: float,
    keep_effects: bool,
    retrainings: int,
) -> Result:
    """Score how far each example moves each query.

    A score is a divergence between the distributions of the query's measurement with and without the
    example. With --retrainings it is the shift of the mean, corrected by retraining some subsets, and
    intervals are about what retraining would show.
    """
    if retrainings:
        _check_mean(divergences)
    usual, shared = (f"fused_{retrainings}", "fused") if retrainings else ("scores", "scores.effects")
    effects = f"{step.name}.effects" if step.name else shared
    step = step._replace(name=step.name or usual)
    experiment, draws = step.load(), step.draws
    source, new = step.prediction(experiment)
    import jax

    import dtda_prob as dtda
    from dtda_prob.attribution import price_of_fused, price_of_scores

    key, there = jax.random.key(step.seed), step.existing()
    can_pull = source.cost.pull == source.cost.pull  # else NaN
    effects = effects if keep_effects and can_pull else ""
    with step.where(effects) as where:
        price = partial(price_of_scores, source, key, draws, new, where=where)
        score = partial(dtda.attribute, source, key, draws, divergences, new, where=where)
        if retrainings:
            price = partial(price_of_fused, source, key, draws, retrainings, new)
            score = partial(dtda.fuse, source, key, draws, retrainings, new, where=where)
        is_done = there is not None and there.finished == 1
        cost = step.announce(f"Scores by {source.name}", None if is_done else price)
        scores = score().load()
    step.keep_examples(experiment)
    findings = _findings(scores, top, rate)
    number = f"{draws} draws{f' and {retrainings} retrainings' if retrainings else ''}"
    saved = f"Scores by {source.name}, {number}, are saved as {step.name} in {step.store}."
    result = {"store": step.store, "name": step.name, "draws": draws, **cost, **findings}
    return Result([saved, *_lines(scores, findings)], result, ["dtda", "diagnose", *step.words])


def _check_mean(divergences: tuple[str, ...]) -> None:
    """Raise UsageError for another divergence than the mean."""
    given = click.get_current_context().get_parameter_source("divergences")
    if given is not click.core.ParameterSource.DEFAULT and divergences != ("mean",):
        raise click.UsageError(
            f"--retrainings corrects scores by the mean alone, not by {', '.join(divergences)}: omit "
            "--divergence, or pass --divergence mean"
        )


def _findings(scores: "xr.Dataset", top: int, rate: float) -> dict[str, Any]:
    """Return the strongest examples of each query by each divergence, and how many are significant."""
    import dtda_prob as dtda

    counts = dtda.scores.influential(scores, rate).groupby(level="divergence").size()
    names = scores["divergence"].values.tolist()
    table = dtda.scores.strongest(scores, top)
    table = table.assign(label=table.index.get_level_values(-1))
    by_query: Any = table.groupby(level=["divergence", "query"], sort=False)
    return {
        "measure": scores.attrs["measure"],
        "rate": rate,
        "influential": {name: int(counts.get(name, 0)) for name in names},
        "scores": [
            {"divergence": name, "query": query, "strongest": rows.to_dict("records")}
            for (name, query), rows in by_query
        ],
    }


def _overall(scores: "xr.Dataset") -> list[str]:
    """Return the examples that move queries most by the first divergence, in either direction."""
    from dtda_prob.numerals import brief, plain

    if scores.sizes["query"] == 1:
        return []
    size = (
        abs(scores["score"].isel(divergence=0)).mean("query").to_series().sort_values(ascending=False)
    )
    head = "over all queries", f"mean absolute {scores['divergence'].values[0]} score"
    return aligned([head, *((label, plain(brief(x))) for label, x in size.iloc[:MOST_ROWS].items())])


def _lines(scores: "xr.Dataset", findings: dict[str, Any]) -> list[str]:
    """Return the strongest examples, over all queries and of the first, all counts, and signs."""
    import dtda_prob as dtda

    stands_out = dtda.scores.outstanding(scores, findings["rate"])
    lines = _overall(scores)
    for one in findings["scores"][: min(NUM_QUERIES, scores.sizes["query"])]:
        own = stands_out.sel(divergence=one["divergence"], query=one["query"])
        lines += aligned(_strongest(one, findings["measure"], own))
    return [*lines, *_counts(scores, findings, stands_out), *_meanings(scores)]


def _strongest(one: dict[str, Any], measure: str, stands_out: "xr.DataArray") -> list[tuple]:
    """Return the strongest examples of a query, with their errors and a mark on what stands out."""
    from dtda_prob.numerals import plain, with_error

    rows = [
        (
            each["label"],
            plain(with_error(each["score"], each["error"])),
            "*" if stands_out.loc[each["label"]] else "",
        )
        for each in one["strongest"]
    ]
    return [(f"query {one['query']}", f"{one['divergence']} score of {measure} +- error", ""), *rows]


def _counts(scores: "xr.Dataset", findings: dict[str, Any], stands_out: "xr.DataArray") -> list[str]:
    """Return how many pairs are significant, and how many stand out, by divergence."""
    *_, dim = scores["score"].dims
    things = "perturbations" if dim == "perturbation" else "examples"
    head = "", f"significant (FDR <= {findings['rate']:.0%})", "* and 4 times the average or more"
    rows = [
        (name, count, int(stands_out.sel(divergence=name).sum()))
        for name, count in findings["influential"].items()
    ]
    pairs = f"{scores.sizes['query']} queries x {scores.sizes[dim]} {things}"
    return [f"Of {pairs}, by divergence:", *aligned([head, *rows])]


def _meanings(scores: "xr.Dataset") -> list[str]:
    """Return what a positive score says, for each signed divergence."""
    from dtda_prob.divergences.meaning import decoded

    is_general = scores["score"].dims[-1] == "perturbation"
    change = "the change" if is_general else "removing the example"
    return [
        f"A positive {name} score: {change} {meaning.positive} {meaning.quantity}."
        for name, meaning in decoded(scores.attrs).items()
        if meaning.signed
    ]
