"""Draw until the scores are sure enough."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from dtda_prob.attribution.arms import Arms, Direction, draw_arms
from dtda_prob.attribution.attribute import DEFAULT, Divergences, check_range
from dtda_prob.attribution.estimation import Options, score_arms
from dtda_prob.divergences import resolve
from dtda_prob.outcomes.draws import Source, training_of
from dtda_prob.typing import PRNGKey

Rule = Callable[[xr.Dataset], xr.DataArray]
"""From scores to whether each is settled, by divergence and query."""


def precision(relative: float, top: int = 10) -> Rule:
    """Stop when the standard errors of the first scores are small relative to the scores.

    Args:
        relative: the largest ratio of a standard error to its score, among the `top` scores of a query.
        top: how many scores of each query must be so precise.

    Raises:
        ValueError: if either is not positive.
    """
    if not (relative > 0 and top > 0):
        raise ValueError(f"relative={relative} and top={top} must be positive")

    def rule(scores: xr.Dataset) -> xr.DataArray:
        ratio = scores["error"] / abs(scores["score"])
        among = scores["rank"] <= top
        precise = (ratio <= relative) | ~among
        return precise.all(str(among.dims[-1]))

    return rule


def settled(probability: float = 0.9) -> Rule:
    """Stop when it is settled which data are the first of each query.

    That is, when those ranked first have, on average, at least this `top_probability`: the share of
    resamples of the draws in which a datum stays among the first. How many are the first is the
    argument `top` of `attribute_until`.

    Args:
        probability: between 0 and 1.

    Raises:
        ValueError: if it is not.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability={probability} must lie between 0 and 1, both excluded")

    def rule(scores: xr.Dataset) -> xr.DataArray:
        among = scores["rank"] <= scores.attrs["top"]
        return scores["top_probability"].where(among).mean(str(among.dims[-1])) >= probability

    return rule


def attribute_until(
    source: Source,
    key: PRNGKey,
    rule: Rule,
    divergences: Divergences = DEFAULT,
    perturbations: Any = None,
    *,
    start: int = 8,
    most: int = 256,
    direction: Direction | None = None,
    new_key: PRNGKey | None = None,
    level: float = 0.9,
    num_permutations: int = 20,
    num_resamples: int = 100,
    top: int = 10,
    check: bool = True,
    progress: bool = True,
) -> xr.Dataset:
    """Attribute with ever more draws, doubling their number until a rule is met for all queries.

    Draws that there are are kept, and more are added to them: the result is that of `attribute` with
    the final number of draws. Intervals hold for a number of draws that is fixed beforehand; looking
    several times makes them a little too short, the less the fewer the looks.

    Args:
        source: see `attribute`.
        key: see `attribute`.
        rule: when to stop: `precision`, `settled`, or a function from scores to whether each divergence
            and query is settled.
        divergences: see `attribute`.
        perturbations: see `attribute`.
        start: draws at first, at least 3.
        most: draws at most.
        direction: see `attribute`.
        new_key: see `attribute`.
        level: see `attribute`.
        num_permutations: see `attribute`.
        num_resamples: see `attribute`.
        top: see `attribute`.
        check: see `attribute`.
        progress: show a progress bar on a terminal.

    Returns:
        What `attribute` gives, with `settled` by divergence and query.

    Raises:
        ValueError: as `attribute`, or if `start` exceeds `most`.

    Warns:
        RuntimeWarning: as `attribute`, or if `most` draws do not meet the rule.
    """
    if not 3 <= start <= most:
        raise ValueError(f"start={start} must be at least 3 and at most most={most}")
    chosen = [resolve(divergence) for divergence in divergences]
    options = Options(level, num_permutations, num_resamples, top)
    draw = _drawing(source, key, perturbations, direction, new_key, progress)
    arms, count = draw(start, 0), start
    while True:
        coupled = new_key is None
        scores = score_arms(arms, chosen, training_of(source), coupled=coupled, options=options)
        done = rule(scores)
        if done.all() or count >= most:
            break
        more = min(count, most - count)
        arms, count = _joined(arms, draw(more, count)), count + more
    if not done.all():
        _warn(done, count)
    if check and new_key is None:
        check_range(source, key, arms)
    return scores.assign(settled=done)


def _drawing(
    source: Source,
    key: PRNGKey,
    perturbations: Any,
    direction: Direction | None,
    new_key: PRNGKey | None,
    progress: bool,
) -> Callable[[int, int], Arms]:
    def draw(number: int, first: int) -> Arms:
        return draw_arms(
            source,
            key,
            number,
            perturbations,
            direction=direction,
            new_key=new_key,
            first=first,
            progress=progress,
        )

    return draw


def _joined(arms: Arms, more: Arms) -> Arms:
    return Arms(
        np.concatenate([arms.old, more.old]), np.concatenate([arms.new, more.new]), arms.weights
    )


def _warn(done: xr.DataArray, count: int) -> None:
    left = int((~done).any("divergence").sum())
    warnings.warn(
        f"after {count} draws, {left} of {done.sizes['query']} queries are not settled; raise most=, "
        "ask for less, or read the intervals as they are",
        RuntimeWarning,
        stacklevel=3,
    )
