"""Data pruning: remove the share of the data that each rule considers harmful, retrain, compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Float

from dtda_prob.evaluate.arms import retrainings
from dtda_prob.perturbations import Removal, labelled
from dtda_prob.program import Program
from dtda_prob.studies.run import HERE, Where
from dtda_prob.training import Training
from dtda_prob.typing import PRNGKey

Choices = Float[np.ndarray, "choice example"]


@dataclass(frozen=True)
class PruningOptions:
    """Settings of `pruning` that most calls leave as they are.

    Attributes:
        num_random: random choices, as the rule "random".
        removal: what a retraining does with the data.
        seed: seed of the random choices.
    """

    num_random: int = 10
    removal: Removal = "drop"
    seed: int = 0


USUAL = PruningOptions()


def pruning(
    training: Training,
    key: PRNGKey,
    scores: Mapping[str, Any],
    *,
    share: float = 0.1,
    num_retrainings: int = 20,
    options: PruningOptions = USUAL,
    where: Where = HERE,
) -> xr.Dataset:
    """Retrain without the data that each rule scores highest, all rules with the same keys.

    Args:
        training: the stochastic kernel, with a scalar measure whose mean over queries should be
            small, such as the loss of test data.
        key: key of the retrainings.
        scores: by name of the rule, `(example,)`, higher where an example is to go first; or
            `(choice, example)` for a rule that is itself random (from one draw, say), over whose
            choices results are averaged.
        share: share of the data to remove.
        num_retrainings: retrainings per choice.
        options: how data are removed, and how many random choices there are; see `PruningOptions`.
        where: see `Where` and `retrainings`.

    Returns:
        A result of `retrainings`, with one perturbation per choice and `rule`, the rule of each. It can
        be stored; `compare_rules` tabulates it.

    Raises:
        ValueError: if scores do not fit the data or are not finite, a rule is called "random" or
            "all data", or the share removes nothing or everything.
    """
    program = training.program
    present = program.initial_weights > 0
    size = round(share * present.sum())
    if not 0 < size < present.sum():
        raise ValueError(f"share={share} removes {size} of {present.sum()} examples; not all")
    if {"random", "all data"} & set(scores):
        raise ValueError("scores may not be called 'random' or 'all data', which are always included")
    noise = np.random.default_rng(options.seed).random((options.num_random, program.num_data))
    rules = {name: _choices(program, name, score) for name, score in scores.items()}
    rules["random"] = noise
    rows = np.concatenate([_without_highest(program, choices, size) for choices in rules.values()])
    weights = labelled(program, rows, options.removal, np.arange(len(rows)))
    arms = retrainings(training, key, weights, num_retrainings=num_retrainings, where=where)
    names = np.repeat(list(rules), [len(choices) for choices in rules.values()])
    return arms.assign(rule=("perturbation", names))


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
