"""`dtda sample` and `dtda push`: sample sets, by training or by prediction."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import click

from dtda_prob.cli.experiment import Experiment
from dtda_prob.cli.output import MOST_ROWS, Result, aligned
from dtda_prob.cli.step import Step, computes

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

FULL, RETRAINED, PREDICTED = "full", "retrained", "predicted"
DRAWS = ("chain", "draw")

remove_option = click.option(
    "--remove",
    "removed",
    multiple=True,
    metavar="LABELS",
    help="Leave out examples: labels, separated by commas.",
)
NUM_DRAWS, MULTIPLE = 64, "Number of draws, a multiple of 4."


@click.command(
    epilog="Example: dtda sample experiment.py study.zarr --draws 128   "
    "Retrain without some examples: dtda sample experiment.py study.zarr --remove 3,17"
)
@computes("", NUM_DRAWS, MULTIPLE, shown=f"{FULL}, or {RETRAINED} on perturbed data", predicts=False)
@remove_option
def sample(step: Step, removed: tuple[str, ...]) -> Result:
    """Train models, on all data or on perturbed data.

    Draws that the study has are not drawn again.
    """
    experiment = step.load()
    new = experiment.perturbed(removed, step.weights)
    if new is None:
        step = step._replace(name=step.name or FULL)
        task, then = "Training", ["dtda", "attribute", *step.words]
    else:
        step = step._replace(name=step.name or RETRAINED)
        push = ["dtda", "push", *step.words, *_again(removed, step.weights)]
        task, then = "Retraining", _unless_there(step, PREDICTED, push)
    return _draw(step, experiment, experiment.training, new, task, then)


@click.command(epilog="Example: dtda push experiment.py study.zarr --remove 3,17")
@computes(PREDICTED, NUM_DRAWS, MULTIPLE)
@remove_option
def push(step: Step, removed: tuple[str, ...]) -> Result:
    """Predict the models on perturbed data, without retraining."""
    experiment = step.load()
    source, new = step.prediction(experiment, removed)
    if new is None:
        raise click.UsageError("say which data are perturbed: --remove LABELS or --weights VARIABLE")
    retrain = ["dtda", "sample", *step.words, *_again(removed, step.weights)]
    then = _unless_there(step, RETRAINED, retrain)
    return _draw(step, experiment, source, new, f"Predicting by {source.name}", then)


def _again(removed: Sequence[str], weights: str | None) -> list[str]:
    """Return the options that perturb the data."""
    by_label = [word for text in removed for word in ("--remove", text)]
    return by_label + (["--weights", weights] if weights else [])


def _unless_there(step: Step, other: str, command: list[str]) -> list[str]:
    """Return the command for the other sample set, or the report if the study has it."""
    table = step.contents()
    there = table is not None and other in table.index
    return ["dtda", "report", str(step.store)] if there else command


def _draw(
    step: Step,
    experiment: Experiment,
    source: Any,
    weights: Any,
    task: str,
    then: Sequence[str],
) -> Result:
    import jax

    import dtda_prob as dtda
    from dtda_prob.sampling import price_of_sample

    draws, by_chain = step.draws, experiment.training.kernel.num_states > 1
    if not by_chain and (draws < 1 or draws % 4):
        raise click.BadParameter(f"{draws} must be a positive multiple of 4", param_hint="--draws")
    key, missing = jax.random.key(step.seed), _missing(step.existing(), draws, weights)
    with step.where() as where:
        price = partial(price_of_sample, source, key, missing, weights, where=where)
        cost = step.announce(task, price if missing else None)
        tree = dtda.sample(source, key, draws, weights, where=where)
    step.keep_examples(experiment)
    moved = (None, None) if weights is None else _moved(step, tree, by_chain)
    lines, result = _summary(tree, by_chain, *moved)
    saved = f"{draws} draws are saved as {step.name} in {step.store}."
    about = {"store": step.store, "name": step.name, "draws": draws, **cost}
    return Result([saved, *lines], about | result, then)


def _summary(
    tree: "xr.DataTree", by_chain: bool, full: str | None, moved: "pd.DataFrame | None"
) -> tuple[list[str], dict[str, Any]]:
    """Return the moments of a sample and its change from another, for readers and as one object."""
    values = _values(tree)
    moments = _means(values, by_chain).assign(sd=values.std(DRAWS, ddof=1).values.ravel())
    lines = _table(moments, f"{values.name}", "mean +- error", "sd over draws")
    change = None if moved is None else {"from": full, **moved.to_dict("list")}
    if moved is not None:
        lines += _table(moved, f"change from {full} (same keys)", "mean +- error")
    diverging = int(_stats(tree)["diverging"].sum())
    result = {"measure": values.name, **moments.to_dict("list"), "diverging": diverging}
    return lines, result | {"moved": change}


def _missing(there: "pd.Series | None", draws: int, weights: Any) -> int:
    """Return the number of draws to compute; all if perturbations are added."""
    if there is None:
        return draws
    several = 0 if weights is None or weights.ndim == 1 else len(weights)
    return draws if there.perturbations < several else max(0, draws - int(there.draws))


def _table(rows: "pd.DataFrame", *head: str) -> list[str]:
    from dtda_prob.numerals import plain, with_error

    written = [plain(with_error(*pair)) for pair in zip(rows["mean"], rows["error"], strict=True)]
    columns = [rows["labels"], written, *([rows["sd"].map("{:.3g}".format)] if "sd" in rows else [])]
    return aligned([head, *zip(*columns, strict=True)], MOST_ROWS + 1)


def _moved(step: Step, tree: "xr.DataTree", by_chain: bool) -> "tuple[str | None, pd.DataFrame | None]":
    """Return the sample set on all data with the same keys, if there is one, and the change from it."""
    import dtda_prob as dtda

    values, table = _values(tree), dtda.contents(step.store)
    alike = (table["kind"] == "sample set") & (table["measure"] == values.name)
    for name in table[alike & (table["transform"] == "training") & (table["perturbations"] == 0)].index:
        full = dtda.load(step.store, name)
        is_whole = bool((full["constant_data/weights"] == 1).all())
        if is_whole and _stats(full)["key"].equals(_stats(tree)["key"]):
            return name, _means(values - _values(full), by_chain)
    return None, None


def _values(tree: "xr.DataTree") -> "xr.DataArray":
    values = next(iter(tree.children["posterior_predictive"].to_dataset().values()))
    return values.astype(float).transpose(*DRAWS, ...)


def _means(values: "xr.DataArray", by_chain: bool) -> "pd.DataFrame":
    """Return labels, means and standard errors of all measured numbers.

    The states of a chain are correlated, so that its mean counts as one draw.
    """
    import pandas as pd

    each = values.mean("draw") if by_chain else values.stack(all=DRAWS)
    over = "chain" if by_chain else "all"
    mean, error = values.mean(DRAWS), each.std(over, ddof=1) / each.sizes[over] ** 0.5
    places = product(*(mean[dim].values.tolist() for dim in mean.dims))
    labels = [
        ", ".join(f"{dim} {label}" for dim, label in zip(mean.dims, p, strict=True)) for p in places
    ]
    return pd.DataFrame({"labels": labels, "mean": mean.values.ravel(), "error": error.values.ravel()})


def _stats(tree: "xr.DataTree") -> "xr.Dataset":
    return tree.children["sample_stats"].to_dataset()
