"""`dtda evaluate` and `dtda diagnose`: is the prediction right, and can it be trusted."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dtda_prob.cli import experiment as experiments
from dtda_prob.cli.method import method_option, perturbed, push_forward, weights_option
from dtda_prob.cli.options import Request, computes, computing
from dtda_prob.cli.output import emit
from dtda_prob.cli.study import announce, as_numbers, begin, keep_examples

if TYPE_CHECKING:
    import xarray as xr

    from dtda_prob.studies.price import Price
    from dtda_prob.transforms import PushForward
    from dtda_prob.typing import PRNGKey

DESIGNS = ("leave-one-out", "lds")
VERDICT = "verdict"
RELIABLE = 0.5
"""Reliability below which half of the variance of the truth is noise."""

number_option = click.option(
    "--number", default=30, show_default=True, help="Data, or subsets, chosen by the seed."
)


@click.command(
    epilog="Example: dtda evaluate experiment.py study.zarr --design leave-one-out --number 20"
)
@computes("that of the design")
@click.option("--draws", default=16, show_default=True, help="Draws that predict.")
@method_option
@click.option(
    "--design",
    type=click.Choice(DESIGNS),
    default=DESIGNS[0],
    show_default=True,
    help="Left out one at a time, or random halves (the linear datamodelling score).",
)
@weights_option
@number_option
@click.option(
    "--retrainings", default=16, show_default=True, help="For each perturbation: even, 6 or more."
)
@click.option(
    "--divergence", "divergences", multiple=True, default=["mean"], show_default=True, help="Effects."
)
def evaluate(
    request: Request,
    draws: int,
    method: str | None,
    design: str,
    weights: str | None,
    number: int,
    retrainings: int,
    divergences: tuple[str, ...],
) -> None:
    """Compare predictions with retraining.

    Retrains on perturbed data, with other seeds than those that predict.

    EXPERIMENT is file.py, or file.py:name where the file defines several. STORE is the folder of
    the study.
    """
    experiment = experiments.load(request.experiment)
    source, own = push_forward(experiment, method), perturbed(experiment, (), weights)
    import jax

    from dtda_prob.evaluate import compare
    from dtda_prob.storage import save
    from dtda_prob.studies.run import Where

    key = jax.random.key(request.seed)
    choice, retrain_key = jax.random.split(key)
    new = _design(source, choice, design, number) if own is None else own
    name = request.name or (design if own is None else weights or design)
    begin(request, name)
    done = _is_there(request, {f"{name}.retrained.perturbed": retrainings, f"{name}.predicted": draws})
    with computing(request.engine) as engine:
        price = partial(_price_of_comparison, source, key, new, draws, retrainings, engine)
        cost = announce("Retraining and predicting", None if done else price, request.engine)
        result = compare(
            source,
            key,
            retrain_key,
            new,
            divergences,
            num_draws=draws,
            num_retrainings=retrainings,
            where=Where(request.store, name, engine),
        )
    save(result, request.store, name=name, kind="agreement")
    keep_examples(experiment, request.store)
    words = f"Predicted by {source.name} against retrained, kept as {name} in {request.store}:"
    numbers = _agreement(result)
    said = {"store": request.store, "name": name, **as_numbers(cost), "agreement": numbers}
    lines = [words, *_agreement_in_words(numbers)]
    emit(request.as_json, lines, said, ["dtda", "report", str(request.store)])


@click.command(epilog="Example: dtda diagnose experiment.py study.zarr")
@computes(VERDICT)
@click.option("--draws", default=32, show_default=True, help="Draws, a multiple of 4 from 16 on.")
@method_option
@weights_option
@number_option
def diagnose(
    request: Request, draws: int, method: str | None, weights: str | None, number: int
) -> None:
    """Say what can be trusted and what not.

    Checks the draws, their coupling, the linear range and the solves. Looks at leaving out single data,
    or at perturbations that the experiment defines.

    EXPERIMENT is file.py, or file.py:name where the file defines several. STORE is the folder of
    the study.
    """
    experiment = experiments.load(request.experiment)
    source, own = push_forward(experiment, method), perturbed(experiment, (), weights)
    if request.engine != "here":
        raise click.BadParameter("diagnose computes here; leave it out", param_hint="--engine")
    import jax

    from dtda_prob.diagnostics import verdict
    from dtda_prob.storage import save

    key, name = jax.random.key(request.seed), request.name or VERDICT
    choice, _ = jax.random.split(key)
    new = _design(source, choice, DESIGNS[0], number) if own is None else own
    _check_there(request)
    begin(request, name)
    from dtda_prob.attribution import price_of_scores

    cost = announce("Diagnostics", partial(price_of_scores, source, key, draws, new))
    found = verdict(source, key, new, num_draws=draws)
    save(found.to_dataset(), request.store, name=name, kind="verdict")
    table = found.table.reset_index().to_dict("records")
    result = {"store": request.store, "name": name, **as_numbers(cost), "checks": table}
    lines = [str(found), f"Kept as {name} in {request.store}."]
    emit(request.as_json, lines, result | {"text": found.text}, _after_diagnosis(request))


def _design(source: "PushForward", key: "PRNGKey", design: str, number: int) -> Any:
    """Choose perturbations by a key."""
    import jax
    import numpy as np

    from dtda_prob.perturbations import leave_one_out, random_subsets

    program = source.training.program
    if design == "lds":
        return random_subsets(program, key, number, removal="drop")
    present = np.flatnonzero(program.initial_weights > 0)
    chosen = jax.random.choice(key, present, (min(number, len(present)),), replace=False)
    return leave_one_out(program, program.labels[np.sort(np.asarray(chosen))])


def _is_there(request: Request, draws: dict[str, int]) -> bool:
    """Say whether a study has both arms, with as many draws."""
    if not request.store.exists():
        return False
    from dtda_prob.storage import contents

    there = contents(request.store)["draws"]
    return all(there.get(name, 0) >= number for name, number in draws.items())


def _price_of_comparison(
    source: "PushForward", key: "PRNGKey", new: Any, draws: int, retrainings: int, engine: Any
) -> "Price":
    from dtda_prob.attribution import comparison
    from dtda_prob.studies.price import price
    from dtda_prob.studies.run import Where

    where = Where(engine=engine)
    truth = comparison(source.training, key, new).tasks(retrainings, where)
    return price(*truth, *comparison(source, key, new).tasks(draws, where))


def _agreement(result: "xr.Dataset") -> list[dict[str, Any]]:
    """Give the correlations over perturbations, averaged over queries, for each divergence."""
    fields = ["lds", "lds_error", "lds_disattenuated", "lds_disattenuated_error", "lds_reliability"]
    names = result["divergence"].values.tolist()
    return [
        {
            "divergence": name,
            "pearson": float(result["pearson"].sel(divergence=name).mean()),
            **{field: float(result[field].sel(divergence=name)) for field in fields},
        }
        for name in names
    ]


def _agreement_in_words(numbers: list[dict[str, Any]]) -> list[str]:
    from dtda_prob.cli.output import aligned
    from dtda_prob.report.numbers import plain, with_error

    head = "divergence", "Spearman +- error", "without the noise of the truth"
    fields = ("lds", "lds_error"), ("lds_disattenuated", "lds_disattenuated_error")
    rows = [
        (one["divergence"], *(plain(with_error(one[value], one[error])) for value, error in fields))
        for one in numbers
    ]
    noisy = [one["divergence"] for one in numbers if not one["lds_reliability"] > RELIABLE]
    words = [f"The truth is noisy for {', '.join(noisy)}: raise --retrainings."] if noisy else []
    return [*aligned([head, *rows]), "Correlations over perturbations, mean over queries.", *words]


def _check_there(request: Request) -> None:
    if not request.store.exists():
        words = " ".join(request.words)
        raise click.ClickException(
            f"there is no study {str(request.store)!r} to keep a verdict in; begin with: "
            f"dtda sample {words}"
        )


def _after_diagnosis(request: Request) -> list[str]:
    from dtda_prob.storage import contents

    kinds = set(contents(request.store)["kind"])
    if "agreement" in kinds:
        return ["dtda", "report", str(request.store)]
    return ["dtda", "evaluate" if "scores" in kinds else "attribute", *request.words]
