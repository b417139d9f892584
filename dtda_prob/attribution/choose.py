"""Choose a push-forward for a training by a few retrainings, or by agreement with unrolling."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from dtda_prob import perturbations as perturb
from dtda_prob.attribution.arms import arms_of, comparison
from dtda_prob.attribution.methods import Maker, Shifts, attempt, compare, makers, shifts
from dtda_prob.measures.some import some
from dtda_prob.perturbations import check_weights
from dtda_prob.studies.check import changes_group
from dtda_prob.studies.run import HERE, Where
from dtda_prob.studies.source import Source
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.response import LinearResponse
from dtda_prob.transforms.unroll import unroll
from dtda_prob.typing import PRNGKey, check_key

NUM_RETRAININGS = 4
"""Retrainings of each perturbation: enough to see how much they differ."""
LEAST_PERTURBATIONS = 8
MOST_QUERIES = 32
SHARE_REMOVED = 0.1
"""Of the examples, by a random group, where effects of single examples are asked for."""
NEAR, NEAR_NOW = 0.95, 0.9
"""Shares of the ceiling that end the search: of the direction by many draws, and by those taken."""
UNTRIED = "another method left little to gain"
TIED = 0.01
"""Difference of directions below which the cheaper method is taken."""
NOTICEABLE = 0.02
"""Gain in direction by more draws that is worth a sentence."""
UNSTABLE = 3.0
"""Ratio of the longest draw's shifts to the median draw's above which their mean says little."""


@dataclass(frozen=True)
class Choice:
    """The push-forward that agrees best with retraining, and what it was compared with.

    Attributes:
        push_forward: the winner; its `factor` corrects the size of its effects where the retrained ones
            are clearly longer or shorter.
        table: one row per method; see `attribution.methods.compare`, and `seconds`, what its draws
            took, and `cost`, of a draw in trainings.
        perturbations: the weights that were retrained.
        key: the key of the retrainings: `evaluate.retrainings` with these perturbations and this key
            takes them up from the same store.
        reference: what methods were compared with: "retraining", or the transform whose draws stood in.
        refused: why other methods were not compared.
        shifts: effects by retraining on all queries, `(retraining, query, perturbation, [output])`;
            None without retraining.
    """

    push_forward: PushForward
    table: xr.Dataset
    perturbations: xr.DataArray
    key: PRNGKey
    reference: str
    refused: Mapping[str, str]
    shifts: Shifts | None = None

    def __str__(self) -> str:
        named = [str(each) for each in self.table.data_vars if self.table[each].ndim == 1]
        table = self.table[named].to_dataframe().sort_values("direction", ascending=False)
        return f"{table.to_string(float_format='{:.3g}'.format)}\n\n{self.summary}"

    @property
    def summary(self) -> str:
        """Return the choice in a sentence or two."""
        name = self.push_forward.name
        row = self.table.sel(transform=self.table.attrs["chosen"])
        text = (
            f"{name} is chosen: its effects correlate with {self.reference} by "
            f"{float(row['direction']):.3f} +- {float(row['direction_error']):.1g} (ceiling "
            f"{float(self.table['ceiling']):.3f}), and effects by {self.reference} are "
            f"{float(row['size']):.2f} +- {float(row['size_error']):.1g} times as long."
        )
        if float(row["limit"]) > float(row["direction"]) + NOTICEABLE:
            text += (
                f" It is predicted with {self.table.attrs['num_draws']} draws: with many more, this "
                f"correlation would tend to {float(row['limit']):.2f}."
            )
        factor = getattr(self.push_forward, "factor", 1.0)
        if factor != 1.0:
            text += f" Its effects are multiplied by {factor:.2f}."
        if not float(self.table["ceiling"]) > 0:
            text += (
                f" But effects by {self.reference} are lost in their noise, so that this says little: "
                "give a larger budget, or larger perturbations."
            )
        if untried := [*self.refused.values()].count(UNTRIED):
            text += f" That left little to gain, so that {untried} other methods were not compared."
        failed = self.table["transform"].values[np.isnan(self.table["direction"].values)]
        if failed.size:
            text += f" The effects of {', '.join(failed)} are not finite."
        return text


def choose(
    training: Training,
    key: PRNGKey,
    perturbations: Any = None,
    *,
    budget: int = 96,
    num_draws: int = 8,
    methods: Sequence[PushForward] | None = None,
    where: Where = HERE,
) -> Choice:
    """Choose the push-forward whose effects agree best with retraining under other seeds.

    A few perturbed datasets are retrained, and methods predict them with other keys, one after another
    until one leaves little to gain: its mean shifts correlate with the retrained ones by 0.9 of the
    ceiling, and with many more draws would by 0.95 of it. The method that correlates best is chosen;
    the cheaper one, if two differ by less than 0.01 and less than the error of the difference. If its
    effects are clearly too long or too short, their size is corrected by a factor.

    Without retraining (`budget=0`) methods are compared with `unroll` under other seeds, by exact
    derivatives if its draws have similar lengths, and by Gauss-Newton steps if not.

    Args:
        training: the stochastic kernel. Of more than 32 queries, 32 at random are compared.
        key: one typed key.
        perturbations: weights `(perturbation, example)` of which some are retrained; if None, fewer
            than 8, or if they change single examples, random groups of a tenth of the examples are
            removed in their place, in the same way.
        budget: trainings to spend on the truth, at least 36, or 0.
        num_draws: draws by which each method predicts, rounded up to whole runs.
        methods: push-forwards of this training, or of trained models of it (`kernels.pretrained`), all
            of which are compared; those that suit it if None, `unroll` first.
        where: a store keeps the retrainings, as "retrained" if it has no name; see `Where`.

    Raises:
        ValueError: if the budget is too small, methods are of another training, or none suits it.
    """
    check_key(key)
    _check_budget(training, budget)
    choice_key, draw_key, truth_key = jax.random.split(key, 3)
    compared = _some_queries(training, choice_key)
    asked = _measured(training, compared)
    made = _makers(training, asked, methods)
    number = (budget or 96) // NUM_RETRAININGS - 1
    weights = _perturbations(training, choice_key, perturbations, number)
    retrained = _retrained(training, truth_key, weights, where) if budget else None
    if retrained is None:
        truth, reference = _stand_in(asked, truth_key, weights, num_draws)
    else:
        truth, reference = retrained[:, compared], "retraining"
    search = _search(made, draw_key, weights, num_draws, truth, stops=methods is None)
    chosen = _chosen(search.table)
    table = search.table.assign_attrs(chosen=chosen, budget=budget, num_draws=num_draws)
    sized = _sized(_measuring(search.made[chosen], training), table.sel(transform=chosen))
    return Choice(sized, table, weights, truth_key, reference, search.refused, retrained)


def can_choose(source: Source) -> TypeGuard[Training]:
    """Return whether a source is a training that can be retrained and is no sampler of a posterior."""
    if not isinstance(source, Training):
        return False
    return source.kernel.count_steps(source.program) > 0 and source.kernel.temperature is None


def _check_budget(training: Training, budget: int) -> None:
    least = NUM_RETRAININGS * (1 + LEAST_PERTURBATIONS)
    if budget and budget < least:
        raise ValueError(f"budget={budget} trainings say too little: take 0, or at least {least}")
    if budget and training.kernel.count_steps(training.program) == 0:
        raise ValueError("the kernel takes no step, so that nothing can be retrained: name a method")


def _some_queries(training: Training, key: PRNGKey) -> np.ndarray:
    """Return the positions of some queries, where there are many."""
    number = len(training.measure.queries)
    if number <= MOST_QUERIES:
        return np.arange(number)
    return np.sort(np.asarray(jax.random.permutation(key, number)[:MOST_QUERIES]))


def _measured(training: Training, queries: np.ndarray) -> Training:
    """Return the training that measures these queries."""
    if len(queries) == len(training.measure.queries):
        return training
    return replace(training, measure=some(training.measure, jnp.asarray(queries))(training.program))


def _makers(
    training: Training, asked: Training, methods: Sequence[PushForward] | None
) -> Mapping[str, Maker]:
    """Return functions that give the methods, measured at some queries; those that may suit if None.

    Raises:
        ValueError: if a method is of another training, or none suits this one.
    """
    made: Mapping[str, Maker]
    if methods is None:
        made = makers(asked)
    elif all(_is_of(training, method) for method in methods):
        made = {method.name: partial(_measuring, method, asked) for method in methods}
    else:
        raise ValueError("methods: each must be a push-forward of the training that is passed")
    _check_any(made)
    return made


def _check_any(made: Mapping[str, Maker]) -> None:
    """Raise ValueError if no method suits, before anything is trained."""
    reasons = []
    for make in made.values():
        method = attempt(make)
        if not isinstance(method, str):
            return
        reasons.append(method)
    raise ValueError(f"no method suits this training: {'; '.join(reasons)}")


def _is_of(training: Training, method: PushForward) -> bool:
    """Return whether a method is of the training, or of trained models with its program and measure."""
    own = method.training
    finished = own.kernel.num_runs is not None
    return own == training or (
        finished and (own.program, own.measure) == (training.program, training.measure)
    )


def _measuring(method: PushForward, training: Training) -> PushForward:
    """Return a method of the training, or of trained models that are measured as it is."""
    own = method.training
    same = own.kernel == training.kernel
    return replace(method, training=training if same else replace(own, measure=training.measure))


def _perturbations(training: Training, key: PRNGKey, given: Any, number: int) -> xr.DataArray:
    """Return some of the perturbations that were given, or random groups."""
    program = training.program
    if given is not None:
        weights = check_weights(program, given)
        rows = weights if weights.ndim == 2 else weights.expand_dims("perturbation")
        if len(rows) >= LEAST_PERTURBATIONS and changes_group(rows, program.initial_weights).all():
            order = np.asarray(jax.random.permutation(key, len(rows)))
            return rows[np.sort(order[:number])]
    removal = getattr(given, "attrs", {}).get("removal", "reweight")
    groups_key, keep = jax.random.fold_in(key, 1), 1 - SHARE_REMOVED
    return perturb.random_subsets(program, groups_key, number, keep, removal=removal)


def _retrained(training: Training, key: PRNGKey, weights: xr.DataArray, where: Where) -> Shifts:
    """Return the shifts of retrainings, coupled between both arms."""
    several = training.kernel.num_states
    compared = comparison(training, key, weights, "push")
    arms = arms_of(compared.draw(NUM_RETRAININGS * several, where.named("retrained")))
    return _mean_of_states(arms.new.astype(float) - arms.old, several)


def _stand_in(
    training: Training, key: PRNGKey, weights: xr.DataArray, num_draws: int
) -> tuple[Shifts, str]:
    """Return the shifts of a transform that stands in for retraining, and its name."""
    for method in (unroll(training), unroll(training, matrix="gauss_newton")):
        own = _by_run(method, key, weights, num_draws)
        lengths = np.sqrt((own.reshape(len(own), -1) ** 2).sum(1))
        if np.isfinite(lengths).all() and lengths.max() <= UNSTABLE * np.median(lengths):
            break
    return own, method.name


class _Search(NamedTuple):
    """What a search compared.

    Attributes:
        table: one row for each method.
        made: the methods, by name.
        refused: why others were not compared.
    """

    table: xr.Dataset
    made: dict[str, PushForward]
    refused: dict[str, str]


def _search(
    makers: Mapping[str, Maker],
    key: PRNGKey,
    weights: xr.DataArray,
    num_draws: int,
    truth: Shifts,
    *,
    stops: bool,
) -> _Search:
    """Compare methods with the truth, one after another, until one leaves little to gain."""
    made, refused, predicted, seconds, ends = {}, {}, {}, [], False
    for name, make in makers.items():
        method = UNTRIED if ends else attempt(make)
        if isinstance(method, str):
            refused[name] = method
            continue
        start = time.perf_counter()
        made[method.name], predicted[method.name] = method, _by_run(method, key, weights, num_draws)
        seconds.append(time.perf_counter() - start)
        ends = stops and _leaves_little(compare({name: predicted[method.name]}, truth))
    columns = {"seconds": seconds, "cost": [_cost(method) for method in made.values()]}
    table = compare(predicted, truth).assign({k: ("transform", v) for k, v in columns.items()})
    return _Search(table, made, refused)


def _leaves_little(table: xr.Dataset) -> bool:
    """Return whether a method is so near the ceiling that another one could hardly be nearer."""
    ceiling = float(table["ceiling"])
    near = (table["direction"] >= NEAR_NOW * ceiling) & (table["limit"] >= NEAR * ceiling)
    return ceiling > 0 and bool(near)


def _by_run(method: PushForward, key: PRNGKey, weights: xr.DataArray, num_draws: int) -> Shifts:
    """Return the shifts of runs that have at least so many draws, each the mean of its states."""
    several = method.training.kernel.num_states
    return _mean_of_states(shifts(method, key, weights, -(-num_draws // several) * several), several)


def _mean_of_states(each: Shifts, num_states: int) -> Shifts:
    """Return the mean shift of each run: of R runs, draw i is of run i modulo R."""
    return each.reshape(num_states, -1, *each.shape[1:]).mean(0)


def _cost(method: PushForward) -> float:
    return float(np.nanmin([method.cost.push, method.cost.pull]))


def _chosen(table: xr.Dataset) -> str:
    """Return the best method, or the cheapest of those that are as good."""
    if not np.isfinite(table["direction"]).any():
        raise ValueError("no method has finite effects: training diverges, or nothing moves")
    tied = (table["gap"] <= TIED) & (table["gap"] <= table["gap_error"])
    good = tied | (table["gap"] == 0)
    return str(table["transform"].values[np.nanargmin(table["cost"].where(good).values)])


def _sized(method: PushForward, row: xr.Dataset) -> PushForward:
    """Return the method with its size corrected, if it is known to be off."""
    size, error = float(row["size"]), float(row["size_error"])
    off = abs(size - 1) > 2 * error and size > 0
    if not off or not isinstance(method, LinearResponse):
        return method
    return replace(method, factor=method.factor * size)
