"""Distributional influence: how far each datum, removed, moves the distribution of a measurement."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dtda_prob.attribution.arms import Arms, Direction, draw_arms, each_removed
from dtda_prob.attribution.effects import longest
from dtda_prob.attribution.estimation import Options
from dtda_prob.attribution.scoring import Comparison
from dtda_prob.attribution.sequential import Until, draw_until
from dtda_prob.attribution.stored import Scored, attribute_into
from dtda_prob.divergences import Divergence, resolve
from dtda_prob.outcomes.linear_range import NUM_CHECKED, has_range, warn_beyond_range
from dtda_prob.outcomes.source import Source, training_of
from dtda_prob.outcomes.study import Place
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
    store: str | Path | None = None,
    name: str = "scores",
    effects: str | None = None,
    engine: Any = None,
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
        store: the folder of a study, see `sample`, that keeps the scores. Queries are then pulled and
            scored a block at a time, which trains anew for each block, and memory holds a block of
            scores and no more; by push, both arms are kept as sample sets of their own. The same call
            goes on where one was interrupted.
        name: of the scores in the store.
        effects: by pull, the name under which the store also keeps the effect of each datum on each
            draw, `(run, query, datum)`. Each draw is then trained for few blocks of queries only, and
            scores of more draws, or by other divergences, under another name, take up those that are
            there. They take 4 bytes each on disk.
        engine: where this is computed, see `sample`.

    Returns:
        A dataset with dimensions `divergence`, `query` and `datum` (or `perturbation`) and variables
        `score`, `error` (standard error), `lower` and `upper` (the interval), `null`, `p_value` (see
        `divergences.estimate`), `q_value` (the false discovery rate at which the datum counts as
        influential, among all data of the query), `rank` (1 is the largest absolute score of a query),
        `rank_lower`, `rank_upper`, `rank_probability` and `top_probability` (over resamples of the
        draws), `settled` where draws were added until a rule was met, and `sd` of the measurement of
        each query over draws. A positive mean score says that removing the datum raises the
        measurement; a positive variance score, that it spreads. `to_dataframe()` makes a table;
        `dtda.scores` reads more off it.

    Raises:
        ValueError: for bad weights, unknown divergences or direction, or a training asked to pull; if
            draws are to be added until a rule is met, in a store.
        StoreError: if the store, or its scores of this name, are those of something else; see `sample`.
        OSError: if the store cannot be written to; what is finished is safe.

    Warns:
        RuntimeWarning: if draws are not finite, predictions out of range, or a rule is not met.
    """
    chosen = [resolve(divergence) for divergence in divergences]
    options = Options(level, num_permutations, num_resamples, top, keep_influences)
    comparison = Comparison(training_of(source), chosen, new_key is None, options)
    check = check and comparison.coupled
    if store is not None:
        place = Place(Path(store), name, engine, progress)
        found = attribute_into(
            place,
            source,
            key,
            _number(num_draws),
            comparison,
            perturbations,
            direction,
            new_key,
            effects,
        )
        if check and found.is_new:
            _check_stored(source, key, found)
        return found.scores
    if effects is not None:
        raise ValueError(f"effects={effects!r} are kept in a store: name one")
    draw = partial(
        draw_arms,
        source,
        key,
        perturbations=perturbations,
        direction=direction,
        new_key=new_key,
        engine=engine,
        progress=progress,
    )
    everything = slice(None)
    if isinstance(num_draws, Until):
        arms, scores = draw_until(num_draws, draw, lambda arms: comparison.score(arms, everything))
    else:
        arms = draw(num_draws)
        scores = comparison.score(arms, everything)
    if check:
        _check_range(source, key, arms)
    return scores


def _number(num_draws: int | Until) -> int:
    if isinstance(num_draws, Until):
        raise ValueError(
            "num_draws=until(...) adds draws round by round: with a store, give their number"
        )
    return num_draws


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


def _check_stored(source: Source, key: PRNGKey, found: Scored) -> None:
    """Do the same where arms are not in memory."""
    if found.arms is not None:
        _check_range(source, key, found.arms)
    elif found.effects is not None and has_range(source):
        weights = found.effects.weights
        positions, moved = longest(found.effects, NUM_CHECKED)
        by_state = moved if found.effects.query_axis == 2 else moved[None]
        alone = weights.ndim == 1
        chosen = each_removed(weights, positions) if alone else weights[positions]
        warn_beyond_range(source, key, np.moveaxis(by_state, 2, 1), chosen)
