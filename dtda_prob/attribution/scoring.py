"""The task of stored scores: both arms of some queries, compared, written and recorded."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr

from dtda_prob.attribution.arms import Arms, from_effects
from dtda_prob.attribution.effects import Effects
from dtda_prob.attribution.estimation import Options, score_arms
from dtda_prob.divergences import Divergence
from dtda_prob.outcomes.shards import Block, Shard
from dtda_prob.storage import Growing
from dtda_prob.training import Training


class Pulled(NamedTuple):
    """Pull both arms of some queries, for all runs."""

    effects: Effects
    num_runs: int

    def __call__(self, queries: slice) -> Arms:
        """Give both arms of these queries."""
        block = Block((0, queries.start), (self.num_runs, queries.stop - queries.start))
        found = self.effects.of_block(block)
        return Arms(*from_effects(self.effects.training, found), self.effects.weights)


class Kept(NamedTuple):
    """Read both arms of some queries from the effects that a store keeps."""

    effects: Effects
    group: Growing
    num_runs: int

    def __call__(self, queries: slice) -> Arms:
        """Give both arms of these queries."""
        where = {"run": slice(self.num_runs), "query": queries}
        found = tuple(self.group.select(name, where) for name in ("value", "effect"))
        return Arms(*from_effects(self.effects.training, found), self.effects.weights)


class Held(NamedTuple):
    """Cut some queries out of arms that are there."""

    arms: Arms

    def __call__(self, queries: slice) -> Arms:
        """Give both arms of these queries."""
        return self.arms._replace(old=self.arms.old[:, queries], new=self.arms.new[:, queries])


class Comparison(NamedTuple):
    """How both arms are compared.

    Attributes:
        training: whose measurements they are.
        divergences: what they are compared by.
        coupled: whether arms share keys.
        options: how scores are estimated.
    """

    training: Training
    divergences: Sequence[Divergence]
    coupled: bool
    options: Options

    def score(self, arms: Arms, queries: slice) -> xr.Dataset:
        """Compare both arms of some queries."""
        return score_arms(
            arms,
            self.divergences,
            self.training,
            coupled=self.coupled,
            options=self.options,
            queries=self.training.measure.queries[queries],
        )

    def template(self, num_draws: int, weights: xr.DataArray) -> xr.DataTree:
        """Give the scores of one query, its arms being noise, for their names, sizes and types."""
        training, several = self.training, len(weights)
        value = jax.eval_shape(training.draw, jax.random.key(0), training.program.full_weights()).value
        output = value.shape[1 + (training.kernel.num_states > 1) :]
        noise = np.random.default_rng(0).uniform(size=(num_draws, 1, 1 + several, *output))
        # Shares that add up to 1 are fit for any divergence, those between probabilities too.
        shares = noise / noise.sum(-1, keepdims=True) if output else noise
        arms = Arms(*np.split(shares.astype(value.dtype), [1], axis=2), weights)
        return xr.DataTree(self.score(arms, slice(0, 1)))


class Scoring(NamedTuple):
    """Score some queries: whoever does it again writes the same bytes.

    Attributes:
        arms: both arms of a block of queries.
        comparison: how they are compared.
        group: where scores are written.
    """

    arms: Callable[[slice], Arms]
    comparison: Comparison
    group: Growing

    def __call__(self, shard: Shard) -> int:
        """Score the queries of a shard; give the number of draws that are not finite."""
        start, queries = time.monotonic(), shard.whole.slices()[1]
        arms = self.arms(queries)
        scores = xr.DataTree(self.comparison.score(arms, queries))
        self.group.write(scores, {"query": queries.start})
        diverging = int((~np.isfinite(arms.new)).reshape(len(arms.new), -1).any(1).sum())
        facts = {"num_diverging": diverging, "milliseconds": round(1000 * (time.monotonic() - start))}
        self.group.finish(self.place(shard), {"query": shard.whole.size[1]}, facts)
        return diverging

    def place(self, shard: Shard) -> tuple[int, ...]:
        """Give the place of a shard among the blocks of the group."""
        return shard.place[1:]
