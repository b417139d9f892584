"""How sure a ranking is: ranks over resamples of the draws."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dtda_prob.divergences.divergence import Expansion

Ranks = Int[np.ndarray, "... datum"]
Kind = Literal["stable", "quicksort"]


class Ranking(NamedTuple):
    """Data ranked by absolute score, 1 first, within each query.

    Attributes:
        rank: the rank of each datum.
        rank_lower: lower end of its interval.
        rank_upper: upper end of its interval.
        rank_probability: share of resamples in which the datum has this very rank.
        top_probability: share of resamples in which it is among the first.
    """

    rank: Ranks
    rank_lower: Float[np.ndarray, "... datum"]
    rank_upper: Float[np.ndarray, "... datum"]
    rank_probability: Float[np.ndarray, "... datum"]
    top_probability: Float[np.ndarray, "... datum"]


def rank_pairs(expansion: Expansion, top: int, level: float, num_resamples: int, seed: int) -> Ranking:
    """Rank the last axis, and rank it again in resamples of the draws.

    Draws are drawn with replacement, and each resample's score is its first-order expansion, so that
    errors that data share (they share draws) do not blur their ranking. NaN where no resamples are
    asked for. A datum whose error is as large as the gaps around it has a wide interval; ranks of data
    that have no effect at all are noise, which their intervals show and do not cure.

    Args:
        expansion: scores `(query, datum)` with the influences of draws.
        top: how many are among the first.
        level: probability of the interval.
        num_resamples: number of resamples.
        seed: seed of the resamples.
    """
    rank = rank_of(expansion.value)
    if not num_resamples:
        missing = np.full(rank.shape, np.nan)
        return Ranking(rank, missing, missing, missing, missing)
    resamples = _resample(expansion, num_resamples, np.random.default_rng(seed))
    found = [_summarise(rank[i], ranks, top, level) for i, ranks in enumerate(resamples)]
    return Ranking(rank, *(np.stack(field) for field in zip(*found, strict=True)))


def rank_of(values: Float[np.ndarray, "... datum"], kind: Kind = "stable") -> Ranks:
    """Give ranks by absolute value, 1 the largest; NaN comes last."""
    order = np.argsort(-np.abs(values), axis=-1, kind=kind)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, values.shape[-1] + 1), -1)
    return ranks


def _resample(expansion: Expansion, number: int, rng: np.random.Generator):
    """Give, query by query, the ranks in each resample."""
    counts = [_counts(len(arm), number, rng) for arm in expansion.influences]
    for i, value in enumerate(expansion.value):
        moved = sum(count @ arm[:, i] for count, arm in zip(counts, expansion.influences, strict=True))
        yield rank_of((value + moved).astype(np.float32), "quicksort")


def _counts(
    num_draws: int, number: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample draw"]:
    """Give how often each draw is drawn, less one, as a share; scaled so that errors are unbiased."""
    counts = rng.multinomial(num_draws, np.full(num_draws, 1 / num_draws), size=number)
    return (counts - 1) / np.sqrt(num_draws * (num_draws - 1))


def _summarise(rank: Ranks, ranks: Int[np.ndarray, "resample datum"], top: int, level: float) -> tuple:
    last = len(ranks) - 1
    outside = int(last * (1 - level) / 2)
    ordered = np.sort(ranks, axis=0)
    lower, upper = ordered[outside], ordered[last - outside]
    return lower, upper, (ranks == rank).mean(0), (ranks <= top).mean(0)
