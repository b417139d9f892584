"""Draw until scores are sure: rules from scores to whether they are."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import xarray as xr

from dtda_prob.attribution.arms import Comparison
from dtda_prob.attribution.scores import Scores
from dtda_prob.divergences import Divergence
from dtda_prob.studies.options import Options
from dtda_prob.studies.run import Where, run

Rule = Callable[[xr.Dataset], xr.DataArray]
"""From scores to whether each is settled, by divergence and query."""


class Until(NamedTuple):
    """Draws are added until a rule is met; see `until`."""

    rule: Rule
    start: int
    most: int


def until(rule: Rule, *, start: int = 8, most: int = 256) -> Until:
    """Ask for as many draws or retrainings as it takes, doubling their number until a rule is met.

    `attribute` takes it as `num_draws`, `fuse` as `retrainings`. They are kept, and more are added to
    them: the result is the same as for the final number. Intervals hold for a number that is fixed
    beforehand; looking several times makes them a little too short, the less the fewer the looks.

    Args:
        rule: when to stop: `precision`, `settled`, or a function from scores to whether each divergence
            and query is settled.
        start: runs or retrainings at first, at least 3. A run is a draw, or several where the kernel
            keeps several states of it.
        most: runs or retrainings at most.

    Raises:
        ValueError: if `start` is below 3 or exceeds `most`.

    >>> until(settled(0.9), most=64).start
    8
    """
    if not 3 <= start <= most:
        raise ValueError(f"start={start} must be at least 3 and at most most={most}")
    return Until(rule, start, most)


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
    """Stop when it is settled which examples are the first of each query.

    That is, when those ranked first have, on average, at least this `top_probability`: the share of
    resamples of the draws in which an example stays among the first. How many are the first is
    `Options.top`.

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


def draw_until(
    until: Until,
    compared: Comparison,
    divergences: tuple[Divergence, ...],
    options: Options,
    where: Where,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Draw and score until the rule is met for all divergences and queries.

    Returns:
        Draws of both arms, and their scores with `settled` by divergence and query.

    Warns:
        RuntimeWarning: if the most draws do not meet the rule.
    """
    training = compared.training
    num_states, num_queries = training.kernel.num_states, len(training.measure.queries)
    both = compared.draw(until.start * num_states, where)
    while True:
        count = both.sizes["run"]
        scores = run(Scores(compared, num_queries, both, count * num_states, divergences, options))
        done = until.rule(scores)
        if done.all() or count >= until.most:
            break
        more = min(count, until.most - count) * num_states
        both = xr.concat([both, compared.draw(more, where, first=count)], "run")
    if not done.all():
        warn_unsettled(done, f"{count * num_states} draws")
    return both, scores.assign(settled=done)


def warn_unsettled(done: xr.DataArray, after: str) -> None:
    """Warn of queries that are not settled after all that was allowed."""
    left = int((~done).any("divergence").sum())
    warnings.warn(
        f"after {after}, {left} of {done.sizes['query']} queries are not settled; raise most=, "
        "ask for less, or read the intervals as they are",
        RuntimeWarning,
        stacklevel=4,
    )
