"""Scores whose intervals are about what retraining would show: predictions and retrainings fused."""

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob.attribution.arms import Comparison, comparison
from dtda_prob.attribution.choose import Choice
from dtda_prob.attribution.drawn import (
    MOST_KEYS,
    Centred,
    Drawn,
    Others,
    others_of,
    predict,
    retrain,
)
from dtda_prob.attribution.evidence import Effects
from dtda_prob.attribution.fusion import Fused, fused
from dtda_prob.attribution.learning import Values, centre, learn
from dtda_prob.attribution.ranks import ranking_of
from dtda_prob.attribution.scores import ByQuery, q_values
from dtda_prob.attribution.subsets import Subsets, given_subsets, made_for
from dtda_prob.attribution.until import Until, warn_unsettled
from dtda_prob.divergences import resolve
from dtda_prob.divergences.meaning import encoded
from dtda_prob.perturbations import check_weights
from dtda_prob.studies.draw import draws
from dtda_prob.studies.options import Options
from dtda_prob.studies.perturbed import LeaveOneOut, Perturbed, Rows
from dtda_prob.studies.price import Price, price
from dtda_prob.studies.run import HERE, Where, check_stored, run
from dtda_prob.studies.source import default_draws, start_of
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, check_kind

LEAST_RETRAININGS = 8
LEAST_RUNS = 3
MOST_QUERIES = 24
"""Queries from which the variances of the model are learned, at most."""
USUAL = Options()
SETTINGS = {"level", "num_resamples", "top"}


class Wanted(NamedTuple):
    """What is retrained, and what is known of the push-forward before.

    Attributes:
        given: subsets, if they are not made for what is asked.
        number: of subsets that are retrained.
        others: retrainings of a choice.
        learned: what an earlier call has learned.
    """

    given: Subsets | None
    number: int
    others: Others | None
    learned: list[Values]


def fuse(
    push_forward: PushForward | Choice,
    key: PRNGKey,
    num_draws: int | None = None,
    retrainings: Any = 48,
    perturbations: Any = None,
    *,
    options: Options = USUAL,
    where: Where = HERE,
) -> xr.Dataset:
    """Measure how the mean of each query's measurement moves, by predictions and retrainings together.

    Subsets of the examples are retrained, each once, with keys of the push-forward's own draws, so that
    the draw that has a retraining's key predicts part of its noise. A Gaussian model then corrects the
    predictions: the effect of an example is a multiple of its prediction plus an error of its own,
    whose variance is learned from the retrainings of all queries. Intervals are about what retraining
    would show on average over seeds; `attribute` has intervals about many draws of the push-forward.

    The retrainings by which `choose` found a push-forward count too, and may be all there are. So does
    what an earlier call has learned, of the same training or of one like it.

    Each subset lacks a tenth of the examples, which are dealt out: all are removed equally often. Where
    all perturbations change several examples, these very datasets are retrained in turn, the largest
    predicted effects first.

    Args:
        push_forward: what predicts, which must have a pull; or a choice of it by retraining.
        key: one typed key; draws are the same as in `attribute` with this key.
        num_draws: draws that predict, of at least 3 runs; see `sample` if None.
        retrainings: the number of subsets to retrain, at least 8, or of a choice any, 0 too; or
            `until(rule)`, to retrain until scores are sure; or the weights `(perturbation, example)` of
            others. Up to 8 trainings on all data come on top. Or the scores of an earlier call: nothing
            is retrained, and the push-forward is taken to be as far off as it was there.
        perturbations: weights `(perturbation, example)`; the removal of each example if None.
        options: `level`, `num_resamples` and `top` are used; see `Options`.
        where: a store keeps the predicted effects and the retrainings, under names that begin with
            `where.effects` or else its name, "fused" if it has none. An interrupted call goes on, and
            more retrainings under another name, with the same `effects`, add to those there are.

    Returns:
        Scores as `attribute` returns them, for the divergence "mean": the variables `score`, `error`,
        `lower`, `upper`, `p_value` and `q_value` of the hypothesis that nothing moves, `rank` and its
        certainty, `sd` and `num_not_finite`; and `predicted`, what the push-forward says alone, and
        `learned`, the share of the variance a priori that retraining has removed. The attributes
        `multiple`, `own` and `variance_*` are what was learned, see `attribution.learning.Values`.

    Raises:
        ValueError: if there is nothing to pull or to retrain, the measurement is a vector, a number is
            too small, or the choice was made without retraining, or with another way to remove.

    Warns:
        RuntimeWarning: if retrainings are not finite, or a rule is not met.
    """
    options.only("fuse", SETTINGS)
    choice = push_forward if isinstance(push_forward, Choice) else None
    source = push_forward.push_forward if isinstance(push_forward, Choice) else push_forward
    asked = comparison(source, key, perturbations, "pull")
    where = where.named("fused")
    wanted = _wanted(asked, choice, retrainings)
    num_draws = default_draws(asked.training) if num_draws is None else num_draws
    asked.training.num_runs(num_draws, LEAST_RUNS)
    task = FusedScores(asked, asked.columns(num_draws), wanted, num_draws, options)
    if not isinstance(retrainings, Until):
        check_stored(task, where)  # what is refused is refused before anything is drawn
    parts = replace(where, name=where.effects or where.name)
    drawn = predict(asked, wanted.given, wanted.others, num_draws, parts)
    task = replace(task, drawn=retrain(drawn, wanted.number, parts)).learn()
    where = replace(where, engine=None)  # draws are here: sent elsewhere, they would take longer
    if isinstance(retrainings, Until):
        return _until(retrainings, task, parts, where)
    return run(task, where)


def price_of_fused(
    push_forward: PushForward,
    key: PRNGKey,
    num_draws: int,
    retrainings: Any,
    perturbations: Any = None,
) -> Price:
    """Price what `fuse` draws, predicts and retrains; see there for the arguments."""
    asked = comparison(push_forward, key, perturbations, "pull")
    given, number, *_ = _wanted(asked, None, retrainings)
    training, program, perturbed = asked.training, asked.training.program, asked.perturbed
    like = np.ones((1, len(perturbed)))  # which examples subsets are made for costs the same
    subsets = given or made_for(program, key, perturbed, like)
    pulled = [asked, replace(asked, perturbed=Centred(program, subsets))]
    if not isinstance(perturbed, LeaveOneOut):
        pulled.append(replace(asked, perturbed=LeaveOneOut(program)))
    retrained = draws(training, key, 1, subsets.weights(number))
    whole = draws(training, key, MOST_KEYS, check_weights(program, None))
    return price(*(each.tasks(num_draws)[0] for each in pulled), retrained, whole)


@dataclass(frozen=True, eq=False)
class FusedScores(ByQuery):
    """Fuse a block of queries.

    Attributes:
        wanted: what is retrained, and what all queries say about the push-forward.
        num_draws: draws that predict.
        options: how scores are estimated.
        drawn: predictions and retrainings.
    """

    wanted: Wanted
    num_draws: int
    options: Options
    drawn: Drawn | None = None

    @property
    def names(self) -> list[str]:
        """Return the only divergence."""
        return ["mean"]

    @property
    def like(self) -> None:
        """Return nothing: the first block shows what is in one."""

    @property
    def identity(self) -> dict[str, Any]:
        """Return what identifies the scores."""
        given, number, others, learned = self.wanted
        return self.comparison.identity | {
            "kind": "scores",
            "num_draws": self.num_draws,
            "divergences": self.names,
            "retrainings": number,
            "subsets": "made" if given is None else given.identity,
            "others": None if others is None else others.identity,
            "learned": None if number else [each._asdict() for each in learned],
            "options": {name: getattr(self.options, name) for name in sorted(SETTINGS)},
        }

    def learn(self) -> "FusedScores":
        """Return the same scores by what the retrainings of some queries show, if there are any."""
        assert self.drawn is not None
        number = len(self.comparison.training.measure.queries)
        some = np.unique(np.linspace(0, number - 1, MOST_QUERIES).astype(int))
        evidence, learned = self.drawn.evidence(some), self.wanted.learned
        if len(evidence.change):
            learned = learn(evidence)
        return replace(self, wanted=self.wanted._replace(number=self.drawn.number, learned=learned))

    def in_blocks(self, block: tuple[int, ...]) -> "FusedScores":
        """Return the same scores, so many queries at a time."""
        return replace(self, columns=block[0])

    def __call__(self, block: tuple[slice, ...]) -> xr.Dataset:
        """Fuse a block of queries; see `fuse` for what is in it."""
        assert self.drawn is not None
        evidence, asked = self.drawn.evidence(block[0]), self.drawn.question(block[0])
        found = fused(self.wanted.learned, evidence, asked, self.options.num_resamples)
        fields = _fields(found, asked.predicted.mean, self.options)
        dims = ("divergence", "query", self.comparison.perturbed.dim)
        variables: dict[str, Any] = {name: (dims, field[None]) for name, field in fields.items()}
        values = self.drawn.measured(block[0])
        variables["sd"] = "query", values.std(0, ddof=1)
        variables["num_not_finite"] = "query", (~np.isfinite(values)).sum(0)
        measure, mean = self.comparison.training.measure.name, resolve("mean").of(False)
        labels = self.coords.isel(query=block[0]).coords
        return xr.Dataset(variables, labels).assign_attrs(
            measure=measure,
            coupled=1,
            num_draws=self.num_draws,
            level=self.options.level,
            top=self.options.top,
            retrainings=self.wanted.number,
            **_as_attributes(centre(self.wanted.learned)),
            **encoded({"mean": mean.meaning(measure, "{unit}")}),
        )


def _until(until: Until, task: FusedScores, parts: Where, where: Where) -> xr.Dataset:
    """Retrain more subsets until the rule is met for all queries."""
    while True:
        scores = run(task, Where(progress=where.progress))
        done, number = until.rule(scores), task.wanted.number
        if done.all() or number >= until.most:
            break
        assert task.drawn is not None
        more = retrain(task.drawn, min(2 * number, until.most), parts)
        task = replace(task, drawn=more).learn()
    if not done.all():
        warn_unsettled(done, f"{number} retrainings")
    return (scores if where.store is None else run(task, where)).assign(settled=done)


def _wanted(asked: Comparison, choice: Choice | None, retrainings: Any) -> Wanted:
    """Return what is retrained at first, and what is known before.

    Raises:
        ValueError: for what cannot be retrained, is too little, or is a vector.
    """
    given, learned, number = None, [], 0
    if isinstance(retrainings, xr.Dataset):
        learned = [_of_attributes(retrainings)]
    elif isinstance(retrainings, Until):
        number = retrainings.start
    elif np.ndim(retrainings):
        given = given_subsets(asked.training.program, retrainings)
        number = len(retrainings) if np.ndim(retrainings) == 2 else 1
    else:
        check_kind("retrainings", retrainings, Integral, "a number of subsets, until(rule), or weights")
        number = int(retrainings)
    _check_number(number, choice, learned)
    _check(asked)
    if given is not None:
        _check_change(Rows(given.weights(number)), asked)
    if choice is None:
        return Wanted(given, number, None, learned)
    _check_removal(asked, choice, given)
    subsets = given if number else given_subsets(asked.training.program, choice.perturbations)
    return Wanted(subsets, number, others_of(choice), learned)


def _check_number(number: int, choice: Choice | None, learned: list[Values]) -> None:
    """Raise ValueError if there is too little to learn from."""
    if choice is not None and choice.shifts is None:
        raise ValueError(
            f"the choice was made by agreement with {choice.reference}: retrain for it (budget=96), or "
            "pass its push_forward"
        )
    if choice is not None and learned:
        raise ValueError("retrainings: the choice has retrainings of its own, pass 0 or a number")
    if number < LEAST_RETRAININGS and choice is None and not learned:
        raise ValueError(
            f"retrainings: {number} subsets are too few, retrain at least {LEAST_RETRAININGS}; with "
            "fewer, or none, pass a choice of `choose` in place of the push-forward, or as retrainings "
            "the scores of an earlier `fuse`; `attribute` scores a push-forward alone"
        )


def _check_removal(asked: Comparison, choice: Choice, given: Subsets | None) -> None:
    """Raise ValueError if the choice was made by removing in another way."""
    wanted = asked.perturbed.weights(slice(1)) if given is None else given.weights(1)
    ways = [weights.attrs.get("removal", "reweight") for weights in (choice.perturbations, wanted)]
    if ways[0] != ways[1]:
        raise ValueError(
            f"the choice was made by removal={ways[0]!r}, and this is {ways[1]!r}: pass `choose` "
            "perturbations that remove in the same way"
        )


def _as_attributes(values: Values) -> dict[str, float]:
    """Return what was learned as attributes of scores."""
    names = ("multiple", "own", *(f"variance_{name}" for name in Values._fields[2:]))
    return dict(zip(names, values, strict=True))


def _of_attributes(scores: xr.Dataset) -> Values:
    """Return what an earlier call has learned.

    Raises:
        ValueError: if the scores are not of `fuse`.
    """
    names = _as_attributes(Values(*range(len(Values._fields))))
    if not {*names} <= {*scores.attrs}:
        raise ValueError("retrainings: these scores are not of `fuse`, which states how far it was off")
    return Values(*(float(scores.attrs[name]) for name in names))


def _check(asked: Comparison) -> None:
    """Raise ValueError for what cannot be retrained, or is a vector."""
    training = asked.training
    if training.kernel.count_steps(training.program) == 0:
        raise ValueError("the kernel takes no step, so that nothing can be retrained")
    output = jax.eval_shape(training.draw, jax.random.key(0), training.program.full_weights())
    if output.value.ndim > 2:
        raise ValueError(
            f"measure {training.measure.name!r} gives vectors: fuse a scalar, such as a loss or margin"
        )
    _check_change(asked.perturbed, asked)


def _check_change(perturbed: Perturbed, asked: Comparison) -> None:
    """Raise ValueError if anything but examples that training visits changes its weight."""
    start = np.asarray(start_of(asked.source), float)
    others = start == 0
    others[asked.training.program.num_data :] = True
    if perturbed.squares(others.astype(float), start).any():
        raise ValueError(
            "perturbations change settings, or rows that have no weight, which no retrained subset "
            "tells about: fuse changes of examples"
        )


def _fields(found: Fused, predicted: Effects, options: Options) -> dict[str, np.ndarray]:
    """Return fused effects as the variables of scores."""
    error = np.sqrt(found.variance)
    width = scipy.stats.norm.ppf((1 + options.level) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2 * scipy.stats.norm.sf(np.abs(found.mean) / error)
        learned = 1 - found.variance / found.prior
    return {
        "score": found.mean,
        "error": error,
        "lower": found.mean - width * error,
        "upper": found.mean + width * error,
        "null": scipy.stats.norm.ppf(0.975) * error,
        "p_value": p_value,
        "q_value": q_values(p_value),
        "predicted": predicted,
        "learned": learned,
    } | ranking_of(found.mean, found.samples, options.top, options.level)._asdict()
