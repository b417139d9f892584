"""`dtda evaluate` and `dtda diagnose`: are the predictions right, and can the scores be trusted."""

import textwrap
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dtda_prob.cli.attribute import DIVERGENCES
from dtda_prob.cli.output import WIDTH, Result, aligned, completed_by, definitions
from dtda_prob.cli.step import Step, computes

if TYPE_CHECKING:
    import xarray as xr

    from dtda_prob.studies.price import Price

DESIGNS = ("leave-one-out", "lds")
VERDICT = "verdict"
RELIABLE = 0.5
"""Reliability below which half of the variance of the truth is noise."""
FIELDS = ["lds", "lds_error", "lds_disattenuated", "lds_disattenuated_error", "lds_reliability"]

number_option = click.option(
    "--number", default=30, show_default=True, help="Examples, or subsets, chosen by the seed."
)


@click.command(
    epilog="Example: dtda evaluate experiment.py study.zarr --design leave-one-out --number 20"
)
@computes("", 16, "Number of draws that predict.", shown="the design's")
@click.option(
    "--design",
    type=click.Choice(DESIGNS),
    default=DESIGNS[0],
    show_default=True,
    help="Leave out one example at a time, or random halves (linear datamodelling score).",
)
@number_option
@click.option("--retrainings", default=16, show_default=True, help="Per perturbation: even, 6 or more.")
@click.option(
    "--divergence",
    "divergences",
    multiple=True,
    default=["mean"],
    show_default=True,
    shell_complete=completed_by(DIVERGENCES),
    help="What counts as a change of the prediction; repeat it for several.",
)
def evaluate(
    step: Step,
    design: str,
    number: int,
    retrainings: int,
    divergences: tuple[str, ...],
) -> Result:
    """Compare predictions with retraining.

    Retrains on perturbed data, with other seeds than those that predict.
    """
    experiment = step.load()
    source, own = step.prediction(experiment)
    import jax

    import dtda_prob as dtda

    key = jax.random.key(step.seed)
    choice, _ = jax.random.split(key)
    new = _design(source, choice, design, number) if own is None else own
    step = step._replace(name=step.name or step.weights or design)
    step.existing()
    result, cost = _compare(step, source, key, new, retrainings, divergences)
    dtda.save(result, step.store, name=step.name, kind="agreement")
    step.keep_examples(experiment)
    numbers = _agreement(result)
    saved = f"Predicted by {source.name} against retrained, saved as {step.name} in {step.store}:"
    said = {"store": step.store, "name": step.name, **cost, "agreement": numbers}
    return Result([saved, *_lines(numbers)], said, ["dtda", "report", str(step.store)])


def _compare(
    step: Step, source: Any, key: Any, new: Any, retrainings: int, divergences: tuple[str, ...]
) -> "tuple[xr.Dataset, dict[str, Any]]":
    """Announce the cost and compare, with other keys for retraining than for predicting."""
    import jax

    import dtda_prob as dtda

    draws, (_, retrain_key) = step.draws, jax.random.split(key)
    options = dtda.evaluate.CompareOptions(draws, retrainings)
    wanted = {f"{step.name}.retrained.perturbed": retrainings, f"{step.name}.predicted": draws}
    with step.where() as where:
        price = partial(_price, source, key, new, draws, retrainings, where)
        cost = step.announce("Retraining and predicting", None if _has(step, wanted) else price)
        result = dtda.evaluate.compare(
            source, key, retrain_key, new, divergences, options=options, where=where
        )
    return result, cost


@click.command(epilog="Example: dtda diagnose experiment.py study.zarr")
@computes(VERDICT, 32, "Number of draws, a multiple of 4 and at least 16.")
@number_option
def diagnose(step: Step, number: int) -> Result:
    """Check whether scores can be trusted.

    Checks the draws, their coupling, the linear range and the solves, for leaving out single examples
    or for perturbations that the experiment defines.
    """
    experiment, draws = step.load(), step.draws
    source, own = step.prediction(experiment)
    if step.engine != "here":
        raise click.BadParameter("diagnose computes here; omit it", param_hint="--engine")
    if not step.store.exists():
        raise click.ClickException(
            f"there is no study {str(step.store)!r} to save a verdict in; begin with: "
            f"dtda sample {' '.join(step.words)}"
        )
    import jax

    import dtda_prob as dtda
    from dtda_prob.attribution import price_of_scores

    key = jax.random.key(step.seed)
    choice, _ = jax.random.split(key)
    new = _design(source, choice, DESIGNS[0], number) if own is None else own
    step.existing()
    cost = step.announce("Diagnostics", partial(price_of_scores, source, key, draws, new))
    verdict = dtda.diagnostics.verdict(source, key, new, num_draws=draws)
    dtda.save(verdict.to_dataset(), step.store, name=step.name, kind="verdict")
    checks = verdict.table.reset_index().to_dict("records")
    result = {"store": step.store, "name": step.name, **cost, "checks": checks, "text": verdict.text}
    told = [line for part in verdict.text.splitlines() for line in textwrap.wrap(part, WIDTH) or [""]]
    lines = [*definitions([*map(_numbers, checks)]), "", *told]
    return Result([*lines, f"Saved as {step.name} in {step.store}."], result, _next(step))


def _numbers(check: dict[str, Any]) -> tuple[str, str]:
    """Return whether a check passed, and its numbers."""
    known = [name for name in ("value", "error") if check[name] == check[name]]
    shown = [f"{name} {check[name]:.3g}" for name in known]
    numbers = ", ".join([*shown, f"asked {check['threshold']}"])
    return "passed" if check["passed"] else "failed", f"{check['name']}: {numbers}"


def _design(source: Any, key: Any, design: str, number: int) -> Any:
    """Return perturbations that a key chooses."""
    import jax
    import numpy as np

    import dtda_prob as dtda

    program = source.training.program
    if design == "lds":
        return dtda.random_subsets(program, key, number, removal="drop")
    present = np.flatnonzero(program.initial_weights > 0)
    chosen = jax.random.choice(key, present, (min(number, len(present)),), replace=False)
    return dtda.leave_one_out(program, program.labels[np.sort(np.asarray(chosen))])


def _has(step: Step, draws: dict[str, int]) -> bool:
    """Return whether the study has these sample sets, with as many draws."""
    table = step.contents()
    return table is not None and all(table["draws"].get(name, 0) >= n for name, n in draws.items())


def _price(source: Any, key: Any, new: Any, draws: int, retrainings: int, where: Any) -> "Price":
    from dtda_prob.attribution import comparison
    from dtda_prob.studies.price import price

    retrained = comparison(source.training, key, new).tasks(retrainings, where)
    return price(*retrained, *comparison(source, key, new).tasks(draws, where))


def _agreement(result: "xr.Dataset") -> list[dict[str, Any]]:
    """Return the correlations over perturbations, averaged over queries, for each divergence."""
    table = result[FIELDS].to_dataframe()[FIELDS]
    table.insert(0, "pearson", result["pearson"].mean("query").to_series())
    return table.reset_index().to_dict("records")


def _lines(numbers: list[dict[str, Any]]) -> list[str]:
    from dtda_prob.numerals import plain, with_error

    head = "divergence", "Spearman +- error", "corrected for noise in the truth"
    pairs = ("lds", "lds_error"), ("lds_disattenuated", "lds_disattenuated_error")
    rows = [
        (one["divergence"], *(plain(with_error(one[value], one[error])) for value, error in pairs))
        for one in numbers
    ]
    noisy = [one["divergence"] for one in numbers if not one["lds_reliability"] > RELIABLE]
    words = [f"The truth is noisy for {', '.join(noisy)}: raise --retrainings."] if noisy else []
    return [*aligned([head, *rows]), "Correlations over perturbations, mean over queries.", *words]


def _next(step: Step) -> list[str]:
    table = step.contents()
    kinds = set() if table is None else set(table["kind"])
    if "agreement" in kinds:
        return ["dtda", "report", str(step.store)]
    return ["dtda", "evaluate" if "scores" in kinds else "attribute", *step.words]
