"""How certain a ranking is: ranks over resamples of the draws."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dtda_prob.divergences.estimates import Expansion

Ranks = Float[np.ndarray, "... example"]


class Ranking(NamedTuple):
    """Examples ranked by absolute score, 1 first, within each query; NaN where a score is NaN.

    Attributes:
        rank: the rank of each example; of equal scores, those in front come first.
        rank_lower: lower end of its interval.
        rank_upper: upper end of its interval.
        rank_probability: share of resamples in which the example has this very rank, where those that
            are equal share their ranks evenly.
        top_probability: share of resamples in which it is among the first.
    """

    rank: Ranks
    rank_lower: Ranks
    rank_upper: Ranks
    rank_probability: Ranks
    top_probability: Ranks


def rank_pairs(expansion: Expansion, top: int, level: float, num_resamples: int, seed: int) -> Ranking:
    """Rank the last axis, and rank it again in resamples of the draws.

    Draws are drawn with replacement, and each resample's score is its first-order expansion, so that
    errors that examples share (they share draws) do not blur their ranking. NaN where no resamples are
    asked for. An example whose error is as large as the gaps around it has a wide interval; ranks of
    examples without any effect are noise, which their intervals show and do not cure. Equal scores, as
    copies of a row or a query without effect have, share an interval.

    Args:
        expansion: scores `(query, example)` with the contributions of draws.
        top: how many are among the first.
        level: probability of the interval.
        num_resamples: number of resamples.
        seed: seed of the resamples.
    """
    resamples = _resample(expansion, num_resamples, np.random.default_rng(seed))
    return _ranking(expansion.value, resamples if num_resamples else None, top, level)


def ranking_of(
    values: Float[np.ndarray, "query example"],
    samples: Float[np.ndarray, "sample query example"],
    top: int,
    level: float,
) -> Ranking:
    """Rank the last axis, and rank it again in samples of the values; NaN without samples."""
    each = (tied_ranks(samples[:, i].astype(np.float32)) for i in range(len(values)))
    return _ranking(values, each if len(samples) else None, top, level)


def _ranking(
    values: Ranks, ends: Iterator[tuple[Ranks, Ranks]] | None, top: int, level: float
) -> Ranking:
    """Rank the last axis; `ends` are the first and last ranks in each sample, query by query."""
    rank = rank_of(values)
    if ends is None:
        missing = np.full(rank.shape, np.nan)
        return Ranking(rank, missing, missing, missing, missing)
    rows = [_summarise(own, *each, top, level) for own, each in zip(rank, ends, strict=True)]
    return Ranking(rank, *(np.stack(field) for field in zip(*rows, strict=True)))


def rank_of(values: Float[np.ndarray, "... example"]) -> Ranks:
    """Return ranks by absolute value, 1 the largest; NaN has none, equal values keep their order."""
    order = np.argsort(-np.abs(values), axis=-1, kind="stable")
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.arange(1.0, values.shape[-1] + 1), -1)
    return np.where(np.isnan(values), np.nan, ranks)


def tied_ranks(values: Float[np.ndarray, "... example"]) -> tuple[Ranks, Ranks]:
    """Return the first and the last rank of those that are equal to each value."""
    order = np.argsort(-np.abs(values), axis=-1)
    ordered = np.abs(np.take_along_axis(values, order, -1))
    place = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    starts = np.ones(values.shape, bool)
    starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    first = last = place
    if not starts.all():
        ends = np.ones(values.shape, bool)
        ends[..., :-1] = starts[..., 1:]
        first = np.maximum.accumulate(np.where(starts, place, 0), -1)
        backwards = np.where(ends, place, values.shape[-1])[..., ::-1]
        last = np.minimum.accumulate(backwards, -1)[..., ::-1]
    return _put_back(first, order), _put_back(last, order)


def _put_back(places: np.ndarray, order: np.ndarray) -> Ranks:
    ranks = np.empty(places.shape, np.int32)
    np.put_along_axis(ranks, order, places + 1, -1)
    return ranks


def _resample(
    expansion: Expansion, number: int, rng: np.random.Generator
) -> Iterator[tuple[Ranks, Ranks]]:
    """Return, query by query, the first and last ranks in each resample."""
    counts = [_counts(len(arm), number, rng) for arm in expansion.contributions]
    for i, value in enumerate(expansion.value):
        moved = sum(
            count @ arm[:, i] for count, arm in zip(counts, expansion.contributions, strict=True)
        )
        yield tied_ranks((value + moved).astype(np.float32))


def _counts(
    num_draws: int, number: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample draw"]:
    """Return how often each draw is drawn, less one, as a share; scaled so that errors are unbiased."""
    counts = rng.multinomial(num_draws, np.full(num_draws, 1 / num_draws), size=number)
    return (counts - 1) / np.sqrt(num_draws * (num_draws - 1))


def _summarise(rank: Ranks, first: Ranks, last: Ranks, top: int, level: float) -> list[Ranks]:
    outside = int((len(first) - 1) * (1 - level) / 2)
    lower = np.sort(first, axis=0)[outside]
    upper = np.sort(last, axis=0)[len(last) - 1 - outside]
    size = last - first + 1
    here = ((first <= rank) & (rank <= last)) / size
    among = np.clip(top + 1 - first, 0, size) / size
    fields = lower, upper, here.mean(0), among.mean(0)
    return [np.where(np.isnan(rank), np.nan, field) for field in fields]
