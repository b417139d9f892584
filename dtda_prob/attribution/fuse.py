"""Scores whose intervals are about what retraining would show: predictions and retrainings fused."""

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import jax
import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob import perturbations as perturb
from dtda_prob.attribution.arms import Comparison, comparison
from dtda_prob.attribution.drawn import Drawn, draw
from dtda_prob.attribution.fusion import (
    VARIANCES,
    Effects,
    Fused,
    Learned,
    fused,
    learn,
)
from dtda_prob.attribution.ranks import ranking_of
from dtda_prob.attribution.scores import ByQuery, q_values
from dtda_prob.divergences import resolve
from dtda_prob.divergences.meaning import encoded
from dtda_prob.perturbations import check_weights
from dtda_prob.program import Program
from dtda_prob.studies.digests import of_weights
from dtda_prob.studies.draw import draws
from dtda_prob.studies.options import Options
from dtda_prob.studies.perturbed import Perturbed, Rows
from dtda_prob.studies.price import Price, price
from dtda_prob.studies.run import HERE, Where, check_stored, run
from dtda_prob.studies.source import default_draws, start_of
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, check_kind

SUBSETS = 0x6675
"""Leads to the key of the retrained subsets, which no draw has."""
SHARE_REMOVED = 0.1
"""Of the examples, from each random subset."""
LEAST_RETRAININGS = 8
LEAST_RUNS = 3
MOST_QUERIES = 48
"""Queries from which the variances of the model are learned, at most."""
MOST_KEYS = 8
"""Keys that retrainings have: each costs a training on all data."""
USUAL = Options()
SETTINGS = {"level", "num_resamples", "top"}


def fuse(
    push_forward: PushForward,
    key: PRNGKey,
    num_draws: int | None = None,
    retrainings: Any = 48,
    perturbations: Any = None,
    *,
    options: Options = USUAL,
    where: Where = HERE,
) -> xr.Dataset:
    """Measure how the mean of each query's measurement moves, by predictions and retrainings together.

    Random subsets are retrained, each once, with keys of the push-forward's own draws, so that the draw
    that has a retraining's key predicts part of its noise. A Gaussian model then corrects the
    predictions: the effect of an example is a multiple of its prediction plus an error of its own,
    whose variance is learned from the retrainings of all queries. Intervals are about what retraining
    would show on average over seeds; `attribute` has intervals about many draws of the push-forward.

    Args:
        push_forward: what predicts; it must have a pull.
        key: one typed key; draws are the same as in `attribute` with this key.
        num_draws: draws that predict, of at least 3 runs; see `sample` if None.
        retrainings: the number of random subsets to retrain, which lack a tenth of the examples, or the
            weights `(perturbation, example)` of others; at least 8. Up to 8 trainings on all data come
            on top.
        perturbations: weights `(perturbation, example)`; the removal of each example if None.
        options: `level`, `num_resamples` and `top` are used; see `Options`.
        where: a store keeps the predicted effects and the retrainings, under names that begin with its
            name, "fused" if it has none, and an interrupted call goes on; see `Where`.

    Returns:
        Scores as `attribute` returns them, for the divergence "mean": the variables `score`, `error`,
        `lower`, `upper`, `p_value` and `q_value` of the hypothesis that nothing moves, `rank` and its
        certainty, `sd` and `num_not_finite`; and `predicted`, what the push-forward says alone, and
        `learned`, the share of the variance a priori that retraining has removed. The attributes
        `multiple`, `own` and `variance_*` are what was learned; see `fusion.Learned`.

    Raises:
        ValueError: if there is nothing to pull or to retrain, the measurement is a vector, or a number
            is too small.
    """
    options.only("fuse", SETTINGS)
    asked = comparison(push_forward, key, perturbations, "pull")
    training, where = asked.training, where.named("fused")
    subsets = _subsets(training.program, key, retrainings, perturbations)
    num_draws = default_draws(training) if num_draws is None else num_draws
    _check(asked, subsets)
    runs = training.num_runs(num_draws, LEAST_RUNS)
    columns = asked.columns(num_draws)
    keys = np.arange(len(subsets)) % min(runs, MOST_KEYS)
    task = FusedScores(asked, columns, subsets, num_draws, options)
    check_stored(task, where)  # what is refused is refused before anything is drawn
    drawn = draw(asked, subsets, num_draws, keys, where)
    learned = learn(drawn.evidence(_some(len(training.measure.queries))))
    where = replace(where, engine=None)  # draws are here: sent elsewhere, they would take longer
    return run(replace(task, drawn=drawn, learned=learned), where)


def price_of_fused(
    push_forward: PushForward,
    key: PRNGKey,
    num_draws: int,
    retrainings: Any,
    perturbations: Any = None,
) -> Price:
    """Price what `fuse` draws, predicts and retrains; see there for the arguments."""
    training = push_forward.training
    subsets = _subsets(training.program, key, retrainings, perturbations)
    whole = check_weights(training.program, None)
    several = [None, subsets] if perturbations is None else [None, perturbations, subsets]
    pulled = [comparison(push_forward, key, some, "pull").tasks(num_draws)[0] for some in several]
    return price(*pulled, draws(training, key, 1, subsets), draws(training, key, MOST_KEYS, whole))


@dataclass(frozen=True, eq=False)
class FusedScores(ByQuery):
    """Fuse a block of queries.

    Attributes:
        subsets: the weights of the retrained subsets.
        num_draws: draws that predict.
        options: how scores are estimated.
        drawn: predictions and retrainings.
        learned: what all queries say about the push-forward.
    """

    subsets: xr.DataArray
    num_draws: int
    options: Options
    drawn: Drawn | None = None
    learned: Learned | None = None

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
        return self.comparison.identity | {
            "kind": "scores",
            "num_draws": self.num_draws,
            "divergences": self.names,
            "subsets": of_weights(self.subsets),
            "options": {name: getattr(self.options, name) for name in sorted(SETTINGS)},
        }

    def in_blocks(self, block: tuple[int, ...]) -> "FusedScores":
        """Return the same scores, so many queries at a time."""
        return replace(self, columns=block[0])

    def __call__(self, block: tuple[slice, ...]) -> xr.Dataset:
        """Fuse a block of queries; see `fuse` for what is in it."""
        assert self.drawn is not None
        assert self.learned is not None
        evidence, asked = self.drawn.evidence(block[0]), self.drawn.question(block[0])
        found = fused(self.learned, evidence, asked, self.options.num_resamples)
        fields = _fields(found, asked.predicted.mean, self.options)
        dims = ("divergence", "query", self.comparison.perturbed.dim)
        variables: dict[str, Any] = {name: (dims, field[None]) for name, field in fields.items()}
        values = self.drawn.values(block[0])
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
            retrainings=len(self.subsets),
            **self._numbers(self.learned),
            **encoded({"mean": mean.meaning(measure, "{unit}")}),
        )

    def _numbers(self, learned: Learned) -> dict[str, float]:
        """Return what was learned as attributes."""
        names = (f"variance_{name}" for name in VARIANCES)
        variances = dict(zip(names, learned.variances.tolist(), strict=True))
        return {"multiple": learned.multiple, "own": learned.own} | variances


def _some(number: int) -> np.ndarray:
    """Return the positions of the queries that all others are learned from."""
    return np.unique(np.linspace(0, number - 1, MOST_QUERIES).astype(int))


def _subsets(program: Program, key: PRNGKey, retrainings: Any, perturbations: Any) -> xr.DataArray:
    """Return the subsets to retrain: those that are given, or random ones, removed as others are."""
    if np.ndim(retrainings):
        weights = check_weights(program, retrainings)
        return weights if weights.ndim == 2 else weights.expand_dims(perturbation=[0])
    check_kind("retrainings", retrainings, Integral, "a number of subsets, or their weights")
    removal = getattr(perturbations, "attrs", {}).get("removal", "reweight")
    subset_key, keep = jax.random.fold_in(key, SUBSETS), 1 - SHARE_REMOVED
    return perturb.random_subsets(program, subset_key, int(retrainings), keep, removal=removal)


def _check(asked: Comparison, subsets: xr.DataArray) -> None:
    """Raise ValueError for what cannot be retrained, is too little, or is a vector."""
    training, number = asked.training, len(subsets)
    if number < LEAST_RETRAININGS:
        raise ValueError(
            f"retrainings: {number} subsets are too few, retrain at least {LEAST_RETRAININGS}; without "
            "any, `attribute` scores the push-forward alone"
        )
    if training.kernel.count_steps(training.program) == 0:
        raise ValueError("the kernel takes no step, so that nothing can be retrained")
    output = jax.eval_shape(training.draw, jax.random.key(0), training.program.full_weights())
    if output.value.ndim > 2:
        raise ValueError(
            f"measure {training.measure.name!r} gives vectors: fuse a scalar, such as a loss or margin"
        )
    start = np.asarray(start_of(asked.source), float)
    for some in (asked.perturbed, Rows(subsets)):
        _check_change(some, start, training.program)


def _check_change(asked: Perturbed, start: np.ndarray, program: Program) -> None:
    """Raise ValueError if anything but examples that training visits changes its weight."""
    others = start == 0
    others[program.num_data :] = True
    if asked.squares(others.astype(float), start).any():
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
