"""Distributional influence: how far each example, removed, moves the distribution of a measurement."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import xarray as xr

from dtda_prob.attribution.arms import Comparison, Direction, arms_of, comparison, part
from dtda_prob.attribution.choose import can_choose, choose
from dtda_prob.attribution.scores import Scores, tried
from dtda_prob.attribution.until import Until, draw_until
from dtda_prob.divergences import Divergence, resolve
from dtda_prob.sampling import warn_not_finite
from dtda_prob.studies.check import (
    NUM_CHECKED,
    far,
    has_range,
    moves_far,
    warn_beyond_range,
    warn_far_moves,
    warn_few_draws,
)
from dtda_prob.studies.options import Options
from dtda_prob.studies.price import Price, price
from dtda_prob.studies.pull import Responses
from dtda_prob.studies.run import HERE, Where, check_stored, run, unfinished
from dtda_prob.studies.source import Source, default_draws
from dtda_prob.transforms.importance import PARETO_K, importance
from dtda_prob.typing import PRNGKey

Divergences = Sequence[str | Divergence | Callable]
DEFAULT = ("mean", "variance", "wasserstein")
USUAL = Options()
CHOICE = 0x636F
"""Leads to the key of a choice of method, which no draw has."""
LEAST_RUNS = 3
"""Runs that an error is taken from, at least."""


def attribute(
    source: Source,
    key: PRNGKey,
    num_draws: int | Until | None = None,
    divergences: Divergences = DEFAULT,
    perturbations: Any = None,
    *,
    direction: Direction | None = None,
    options: Options = USUAL,
    where: Where = HERE,
) -> xr.Dataset:
    """Measure how the distribution of each query's measurement moves under each perturbation.

    By `pull`, one response per draw serves all perturbations: the new sample is the old one plus the
    response times the change of weights. By `push`, every perturbation is carried by itself, which
    costs a push each and keeps what is not linear (the space of the transform, or retraining).

    Args:
        source: a push-forward; or a training, which retrains the perturbations that are given. Without
            perturbations, `choose` takes a push-forward by some retrainings, unless `direction` is
            "push" or the kernel draws from a posterior; the attribute `choice` describes it.
        key: one typed key; draws are the same as in `sample` with this key.
        num_draws: number of draws, at least 3; or `until(rule)`, to draw until scores are sure. Where
            the kernel keeps several states of a run, these are draws too, and errors are taken from run
            to run, of which there must be 3. If None see `sample`.
        divergences: names, `Divergence`s or functions `(old, new) -> value`.
        perturbations: weights `(perturbation, example)`, or `(example,)` for a single dataset; the
            removal of each example in turn if None.
        direction: "pull" or "push"; pull where the source can if None, unless `options.new_key` is set.
        options: how scores are estimated; see `Options`.
        where: the store that keeps scores, the engine that computes them, and whether to show progress;
            see `Where`. In a store, queries are pulled and scored a block at a time, which trains anew
            for each block unless `effects` are kept, and memory holds one block; by push, both arms are
            kept as sample sets of their own. The same call goes on where one was interrupted.

    Returns:
        A dataset with dimensions `divergence`, `query` and `example` (or `perturbation`) and variables
        `score`, `error` (standard error), `lower` and `upper` (the interval), `null`, `p_value` (see
        `divergences.estimate`), `q_value` (the false discovery rate at which the example counts as
        influential, among all examples of the query), `rank` (1 is the largest absolute score of a
        query), `rank_lower`, `rank_upper`, `rank_probability` and `top_probability` (over resamples of
        the draws), `settled` where draws were added until a rule was met, `sd` of the measurement of
        each query over draws, and `num_not_finite`, its draws that are not finite. A positive mean
        score says that removing the example raises the measurement; a positive variance score, that
        the measurement spreads. `to_dataframe()` makes a table; `dtda.scores` reads more off it.

    Raises:
        ValueError: for bad weights, unknown divergences or direction, or too few draws; if draws are to
            be added until a rule is met, in a store. All of it before anything is drawn.
        StoreError: if the store, or its scores of this name, belong to something else; see `sample`.
        OSError: if the store cannot be written to; what is finished is safe.

    Warns:
        RuntimeWarning: if draws are not finite or all the same, predictions out of range, a few draws
            move far, or a rule is not met.
    """
    choice = ""
    if perturbations is None and direction is None and options.new_key is None and can_choose(source):
        found = choose(source, jax.random.fold_in(key, CHOICE), where=where / "choose")
        source, choice = found.push_forward, found.summary
    compared = comparison(source, key, perturbations, direction, options.new_key)
    chosen = resolved(divergences, compared)
    num_draws = default_draws(compared.training) if num_draws is None else num_draws
    _check_where(num_draws, compared, where)
    if isinstance(num_draws, Until):
        both, scores = draw_until(num_draws, compared, chosen, options, where)
        is_new = True
    else:
        compared.training.num_runs(num_draws, LEAST_RUNS)
        both, scores, is_new = _scored(compared, num_draws, chosen, options, where.named("scores"))
    warn_not_finite(np.arange(scores.attrs["num_draws"]) < int(scores["num_not_finite"].max()), NAN)
    _warn_identical(scores)
    if options.check and isinstance(source, importance) and isinstance(both, xr.Dataset):
        warn_few_draws(source, both[PARETO_K].values[0])
    if options.check and compared.coupled and is_new and has_range(source):
        warn_beyond_range(source, key, *longest_steps(compared, both))
    if options.check and is_new and moves_far(source):
        warn_far_moves(source, furthest(both))
    return scores.assign_attrs(choice=choice) if choice else scores


def price_of_scores(
    source: Source, key: PRNGKey, num_draws: int, perturbations: Any = None, *, where: Where = HERE
) -> Price:
    """Price scores, up to the comparison of the draws; see `attribute` for the arguments.

    Raises:
        ValueError: for bad weights, or a bad number of draws.
    """
    compared = comparison(source, key, perturbations)
    compared.training.num_runs(num_draws, LEAST_RUNS)
    return price(*compared.tasks(num_draws, where))


NAN = "scores that they enter are NaN"


def resolved(divergences: Divergences, compared: Comparison) -> tuple[Divergence, ...]:
    """Return divergences by name or function, tried on noise.

    Raises:
        ValueError: if the list is empty, or one is unknown or does not reduce draws alone.
    """
    if isinstance(divergences, str) or callable(divergences) or isinstance(divergences, Divergence):
        raise ValueError(f"divergences={divergences!r} must be a list: write [{divergences!r}]")
    if divergences is None or not len(divergences):
        raise ValueError(f"divergences={divergences!r} is an empty list: name one, such as 'mean'")
    chosen = tuple(resolve(divergence) for divergence in divergences)
    for divergence in chosen:
        tried(divergence, compared)
    return chosen


def _scored(
    compared: Comparison,
    num_draws: int,
    divergences: tuple[Divergence, ...],
    options: Options,
    where: Where,
) -> tuple[xr.Dataset | Responses, xr.Dataset, bool]:
    """Return both arms, their scores, and whether any was scored just now."""
    columns = compared.columns(num_draws)
    task = Scores(compared, columns, xr.Dataset(), num_draws, divergences, options)
    check_stored(task, where)  # what is refused is refused before anything is drawn
    is_new = bool(unfinished(task, where))
    as_scored = compared.direction == "pull" and where.store and not where.effects
    both: Any = compared.tasks(num_draws, where)[0] if as_scored else compared.draw(num_draws, where)
    if compared.direction == "push" or not where.store:
        where = replace(where, engine=None)  # draws are here: sent elsewhere, they would take longer
    return both, run(replace(task, both=both), where), is_new


def _check_where(num_draws: int | Until, compared: Comparison, where: Where) -> None:
    """Raise ValueError for requests that no store can keep."""
    if isinstance(num_draws, Until) and where.store:
        raise ValueError(
            "num_draws=until(...) adds draws round by round: with a store, give their number"
        )
    if not where.effects:
        return
    if not where.store:
        raise ValueError(f"effects={where.effects!r} are kept in a store: name one")
    if compared.direction != "pull":
        raise ValueError(
            f"effects={where.effects!r} come from a pull: omit them, or take direction='pull'"
        )
    if where.effects == where.named("scores").name:
        raise ValueError(f"effects={where.effects!r} have the name of the scores; choose another")


def _warn_identical(scores: xr.Dataset) -> None:
    """Warn of queries whose draws are all the same."""
    last = str(scores["error"].dims[-1])
    unknown = (scores["error"].isnull() & scores["score"].notnull()).all(("divergence", last))
    if unknown.any():
        warnings.warn(
            f"{int(unknown.sum())} of {unknown.size} queries: all draws are the same model, whatever "
            "the key, so that errors and p-values are NaN; give each draw its own training instead "
            "of one checkpoint, or read the scores as statements about this one model",
            RuntimeWarning,
            stacklevel=3,
        )


def longest_steps(
    compared: Comparison, both: xr.Dataset | Responses
) -> tuple[np.ndarray, xr.DataArray]:
    """Find the perturbations that move the first run most, over all queries.

    Returns:
        The values that they move it to, `(perturbation, query, *output)`, and their weights, which are
        laid out for these alone.
    """
    columns = (
        both.block[1]
        if isinstance(both, Responses)
        else compared.columns(compared.training.kernel.num_states)
    )
    num_queries = len(compared.training.measure.queries)
    places = [slice(i, min(i + columns, num_queries)) for i in range(0, num_queries, columns)]

    @lru_cache(maxsize=1)  # a second pull of the run is cheaper than to hold the first one
    def first_run(start: int) -> tuple[np.ndarray, np.ndarray]:
        queries = next(place for place in places if place.start == start)
        old, new = arms_of(part(both, queries, slice(0, 1)))
        return old.mean(0), new.mean(0)

    squares = sum(_lengths(*first_run(place.start)) for place in places)
    positions = np.argsort(-np.asarray(squares), kind="stable")[:NUM_CHECKED]
    chosen = [first_run(place.start)[1][:, positions] for place in places]
    return np.moveaxis(np.concatenate(chosen), 1, 0), compared.perturbed.weights(positions)


def furthest(both: xr.Dataset | Responses) -> np.ndarray:
    """Return how much variance the furthest moves of each query add; see `far`.

    Of responses that are pulled when they are scored, one run and block of queries is pulled for it.
    """
    some = both if isinstance(both, xr.Dataset) else part(both, slice(both.block[1]), slice(1))
    arms = (arms_of(part(some, slice(i, i + 1))) for i in range(some.sizes["query"]))
    return np.concatenate([far(old, new) for old, new in arms])


def _lengths(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the squared length of each perturbation's step."""
    steps = np.moveaxis(new - old, 1, 0)
    return (steps.reshape(len(steps), -1) ** 2).sum(1)
