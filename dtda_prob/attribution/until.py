"""Draw until scores are sure: rules from scores to whether they are."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import xarray as xr

Rule = Callable[[xr.Dataset], xr.DataArray]
"""From scores to whether each is settled, by divergence and query."""


class Until(NamedTuple):
    """Draws are added until a rule is met; see `until`."""

    rule: Rule
    start: int
    most: int


def until(rule: Rule, *, start: int = 8, most: int = 256) -> Until:
    """Ask `attribute` for as many draws as it takes, doubling their number until a rule is met.

    Draws are kept, and more are added to them: the result is the same as for the final number of draws.
    Intervals hold for a number of draws that is fixed beforehand; looking several times makes
    them a little too short, the less the fewer the looks.

    Args:
        rule: when to stop: `precision`, `settled`, or a function from scores to whether each divergence
            and query is settled.
        start: runs at first, at least 3. A run is a draw, or several where the kernel keeps several
            states of it.
        most: runs at most.

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
    draw: Callable[[int, int], xr.Dataset],
    score: Callable[[xr.Dataset], xr.Dataset],
) -> tuple[xr.Dataset, xr.Dataset]:
    """Draw and score until the rule is met for all divergences and queries.

    Args:
        until: the rule, and how many runs to start with and to stop at.
        draw: `(number, first) -> both`, draws of both arms from so many runs.
        score: `(both) -> scores`.

    Returns:
        Draws of both arms, and their scores with `settled` by divergence and query.

    Warns:
        RuntimeWarning: if the most draws do not meet the rule.
    """
    both = draw(until.start, 0)
    scores = score(both)
    while not (done := until.rule(scores)).all() and both.sizes["run"] < until.most:
        count = both.sizes["run"]
        more = draw(min(count, until.most - count), count)
        both = xr.concat([both, more], "run")
        scores = score(both)
    if not done.all():
        _warn(done, scores.attrs["num_draws"])
    return both, scores.assign(settled=done)


def _warn(done: xr.DataArray, count: int) -> None:
    left = int((~done).any("divergence").sum())
    warnings.warn(
        f"after {count} draws, {left} of {done.sizes['query']} queries are not settled; raise most=, "
        "ask for less, or read the intervals as they are",
        RuntimeWarning,
        stacklevel=4,
    )
