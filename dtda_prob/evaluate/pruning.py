"""Data pruning: remove the share of the data that each rule considers harmful, retrain, compare."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Float

from dtda_prob.evaluate.arms import retrainings
from dtda_prob.perturbations import labelled
from dtda_prob.program import Program
from dtda_prob.studies.run import HERE, Where
from dtda_prob.training import Training
from dtda_prob.typing import PRNGKey

Choices = Float[np.ndarray, "choice example"]


def pruning(
    training: Training,
    key: PRNGKey,
    scores: Mapping[str, Any],
    *,
    share: float = 0.1,
    num_retrainings: int = 20,
    paired: bool = False,
    where: Where = HERE,
) -> xr.Dataset:
    """Drop the examples that each rule scores highest, and retrain, all rules with the same keys.

    By default each choice of a rule is retrained with each key, so that the keys of `scores` should be
    others. Paired, choice i is retrained with key i alone, `training.kernel.keys(key, range(n))[i]`:
    the model of each seed may choose what its own retraining lacks. A rule of one choice is retrained
    with all keys either way. What is stored is a result for each key, so that an interrupted call
    goes on where it stopped.

    Args:
        training: the stochastic kernel, with a scalar measure whose mean over queries should be
            small, such as the loss of test data.
        key: key of the retrainings.
        scores: by name of the rule, `(example,)`, higher where an example is to go first; or
            `(choice, example)` for a rule that is itself random: scores of single seeds, or noise for
            random removal.
        share: share of the data to remove.
        num_retrainings: retrainings per choice; paired, of each rule.
        paired: whether choice i is retrained with key i alone.
        where: see `Where` and `retrainings`.

    Returns:
        A result of `retrainings` with `rule`, the rule of each perturbation: one perturbation per
        choice, or paired one per rule, whose `weights` then are `(draw, perturbation, example)`. It can
        be stored; `compare_rules` tabulates it.

    Raises:
        ValueError: if scores do not fit the data or are not finite, a rule is called "all data", the
            share removes nothing or everything, or paired rules have another number of choices.
    """
    program = training.program
    present = program.initial_weights > 0
    size = round(share * present.sum())
    if not 0 < size < present.sum():
        raise ValueError(
            f"share={share} removes {size} of {present.sum()} examples; remove some, not all"
        )
    if "all data" in scores:
        raise ValueError("scores may not be called 'all data', which is always included")
    rules = {
        name: _without_highest(program, _choices(program, name, score), size)
        for name, score in scores.items()
    }
    if paired:
        return _paired(training, key, rules, num_retrainings, where.named("retrained"))
    names = np.repeat(list(rules), [len(choices) for choices in rules.values()])
    rows = np.concatenate(list(rules.values()))
    weights = labelled(program, rows, "drop", np.arange(len(rows)))
    arms = retrainings(training, key, weights, num_retrainings=num_retrainings, where=where)
    return arms.assign(rule=("perturbation", names))


def _paired(
    training: Training, key: PRNGKey, rules: Mapping[str, Choices], num_retrainings: int, where: Where
) -> xr.Dataset:
    """Retrain run i on choice i of each rule."""
    states, runs = training.kernel.num_states, training.num_runs(num_retrainings)
    wrong = [name for name, choices in rules.items() if len(choices) not in (1, runs)]
    if wrong:
        raise ValueError(f"paired rules make 1 choice or one for each of {runs} runs; not so: {wrong}")
    names, parts = np.array(list(rules)), []
    for run in range(runs):
        rows = np.stack([choices[run % len(choices)] for choices in rules.values()])
        parts.append(
            retrainings(
                training,
                key,
                labelled(training.program, rows, "drop", names),
                num_retrainings=states,
                first=run,
                where=where / f"run_{run}",
            )
        )
    arms = xr.concat(parts, "draw", data_vars="all", combine_attrs="override")
    order = np.arange(runs * states).reshape(runs, states).T.ravel()
    return arms.isel(draw=order).assign(rule=("perturbation", names))


def compare_rules(arms: xr.Dataset, *, level: float = 0.9) -> xr.Dataset:
    """Compare rules by paired differences of the measurement, averaged over queries.

    The error of a mean comes from draws and from the choices of a rule; both are counted, which is
    conservative. A rule with a single choice is taken as fixed. Intervals are Student's, with the
    degrees of freedom of the smaller of the two numbers (Satterthwaite's would be larger).

    Args:
        arms: a result of `pruning`.
        level: coverage of the intervals.

    Returns:
        A dataset with `mean` and `error`, `(rule,)`, where "all data" removes nothing; and `difference`
        (the rule minus the other), `difference_error`, `lower` and `upper`, `(rule, other)`.

    Raises:
        ValueError: for fewer than 2 draws, or a measure of several outputs per query.
    """
    if arms.sizes["draw"] < 2 or "output" in arms.dims:
        raise ValueError("arms must have at least 2 draws, and a number per query")
    losses = {"all data": arms["full"].mean("query").values[:, None]}
    perturbed = arms["perturbed"].mean("query").values
    for name in dict.fromkeys(arms["rule"].values.tolist()):
        losses[name] = perturbed[:, arms["rule"].values == name]
    alone = np.array([_estimate(one, level) for one in losses.values()])
    pairs = np.array([[_difference(a, b, level) for b in losses.values()] for a in losses.values()])
    names = ("difference", "difference_error", "lower", "upper")
    fields = {name: (("rule", "other"), pairs[..., k]) for k, name in enumerate(names)}
    rules = {"rule": list(losses), "other": list(losses)}
    compared = xr.Dataset(fields, rules, attrs={"level": level})
    return compared.assign(mean=("rule", alone[:, 0]), error=("rule", alone[:, 1]))


def _difference(first: np.ndarray, second: np.ndarray, level: float) -> tuple[float, ...]:
    """Pair draws, `(draw, choice)`; choices of different rules are independent."""
    if first is second:
        return 0.0, 0.0, 0.0, 0.0
    return _estimate(first[:, :, None] - second[:, None], level)


def _estimate(values: np.ndarray, level: float) -> tuple[float, ...]:
    """Compute the mean, its error and interval, from means over each factor: draws, then choices."""
    variance, least = 0.0, len(values)
    for axis in range(values.ndim):
        number = values.shape[axis]
        if number > 1:
            means = values.mean(tuple(k for k in range(values.ndim) if k != axis))
            variance, least = variance + means.var(ddof=1) / number, min(least, number)
    width = scipy.stats.t.ppf((1 + level) / 2, least - 1) * variance**0.5
    return values.mean(), variance**0.5, values.mean() - width, values.mean() + width


def _choices(program: Program, name: str, score: Any) -> Choices:
    score = np.atleast_2d(np.asarray(score, float))
    if score.shape[1:] != (program.num_data,) or score.ndim != 2:
        raise ValueError(
            f"score {name!r} must have shape ({program.num_data},) or (choice, {program.num_data}); "
            f"got {score.shape}"
        )
    if not np.isfinite(score).all():
        raise ValueError(f"score {name!r} is not finite for {(~np.isfinite(score)).sum()} examples")
    return score


def _without_highest(program: Program, scores: Choices, size: int) -> np.ndarray:
    """Set the weights of the highest scores to 0, among present data; ties go in the order of data."""
    ranked = np.where(program.initial_weights > 0, -scores, np.inf)
    order = np.argsort(ranked, axis=1, kind="stable")[:, :size]
    weights = np.tile(program.initial_weights, (len(scores), 1))
    np.put_along_axis(weights, order, 0.0, axis=1)
    return weights
