"""Distributional influence: how far each datum, removed, moves the distribution of a measurement."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from dtda_prob.attribution.arms import Arms, Direction, draw_arms, each_removed
from dtda_prob.attribution.estimation import Options, score_arms
from dtda_prob.attribution.sequential import Until, draw_until
from dtda_prob.divergences import Divergence, resolve
from dtda_prob.outcomes.linear_range import NUM_CHECKED, warn_beyond_range
from dtda_prob.outcomes.source import Source, training_of
from dtda_prob.typing import PRNGKey

Divergences = Sequence[str | Divergence | Callable]
DEFAULT = ("mean", "variance", "wasserstein")


def attribute(
    source: Source,
    key: PRNGKey,
    num_draws: int | Until,
    divergences: Divergences = DEFAULT,
    perturbations: Any = None,
    *,
    direction: Direction | None = None,
    new_key: PRNGKey | None = None,
    level: float = 0.9,
    num_permutations: int = 20,
    num_resamples: int = 100,
    top: int = 10,
    keep_influences: bool = False,
    check: bool = True,
    progress: bool = True,
) -> xr.Dataset:
    """Measure how the distribution of each query's measurement moves under each perturbation.

    By `pull`, one response per draw serves all perturbations: the new sample is the old one plus the
    response times the change of weights. By `push`, every perturbation is carried by itself, which
    costs a push each and keeps what is not linear (the space of the transform, or retraining).

    Args:
        source: a push-forward, or a training (which retrains, by push).
        key: one typed key; draws are those of `sample` with this key.
        num_draws: number of draws, at least 3; or `until(rule)`, to draw until scores are sure. Where
            the kernel keeps several states of a run, these are draws too, and errors are taken from run
            to run, of which there must be 3.
        divergences: names, `Divergence`s or functions `(old, new) -> value`.
        perturbations: weights `(perturbation, datum)`; the removal of each datum in turn if None.
        direction: "pull" or "push"; pull for push-forwards and push for trainings if None.
        new_key: by push, the key of the new samples, which then share no seed with the old one or
            each other; if None they have the keys of the old one, so that arms are coupled.
        level: probability that intervals, of scores and of ranks, cover.
        num_permutations: permutations for null levels and p-values.
        num_resamples: resamples for the certainty of ranks; 0 leaves it out.
        top: `top_probability` is that of being among so many.
        keep_influences: keep the influence of each draw, for `scores.aggregate`; `num_draws` times the
            memory.
        check: retrain one draw at the four perturbations of the longest predicted steps, and warn
            where the prediction is out of range.
        progress: show a progress bar on a terminal.

    Returns:
        A dataset with dimensions `divergence`, `query` and `datum` (or `perturbation`) and variables
        `score`, `error` (standard error), `lower` and `upper` (the interval), `null`, `p_value` (see
        `divergences.estimate`), `q_value` (the false discovery rate at which the datum counts as
        influential, among all data of the query), `rank` (1 is the largest absolute score of a query),
        `rank_lower`, `rank_upper`, `rank_probability` and `top_probability` (over resamples of the
        draws), `settled` where draws were added until a rule was met, and `sd` of the measurement of
        each query over draws. A positive mean score says that the measurement falls when the datum is
        removed; a positive variance score, that it spreads. `to_dataframe()` makes a table;
        `dtda.scores` reads more off it.

    Raises:
        ValueError: for bad weights, unknown divergences or direction, or a training asked to pull.

    Warns:
        RuntimeWarning: if draws are not finite, predictions out of range, or a rule is not met.
    """
    chosen = [resolve(divergence) for divergence in divergences]
    options = Options(level, num_permutations, num_resamples, top, keep_influences)
    coupled = new_key is None
    draw = partial(
        draw_arms,
        source,
        key,
        perturbations=perturbations,
        direction=direction,
        new_key=new_key,
        progress=progress,
    )
    score = partial(
        score_arms,
        divergences=chosen,
        training=training_of(source),
        coupled=coupled,
        options=options,
    )
    if isinstance(num_draws, Until):
        arms, scores = draw_until(num_draws, draw, score)
    else:
        arms = draw(num_draws)
        scores = score(arms)
    if check and coupled:
        _check_range(source, key, arms)
    return scores


def _check_range(source: Source, key: PRNGKey, arms: Arms) -> None:
    """Retrain one draw at the longest steps; of single data, only these are ever laid out."""
    num_states = training_of(source).kernel.num_states
    first = slice(0, None, len(arms.new) // num_states)
    moved, weights = np.moveaxis(arms.new[first], 2, 1), arms.weights
    if weights.ndim == 1:
        steps = (moved - np.moveaxis(arms.old[first], 2, 1)).mean(0)
        lengths = np.linalg.norm(steps.reshape(len(steps), -1), axis=1)
        longest = np.argsort(-lengths)[:NUM_CHECKED]
        moved, weights = moved[:, longest], each_removed(weights, longest)
    warn_beyond_range(source, key, moved, weights)
