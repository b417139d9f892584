"""The task of stored scores: both arms of some queries, compared, written and recorded."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.attribution.arms import Arms, from_effects
from dtda_prob.attribution.effects import Effects
from dtda_prob.attribution.estimation import Options, score_arms
from dtda_prob.divergences import Divergence
from dtda_prob.outcomes.shards import Block, Shard
from dtda_prob.storage import Growing
from dtda_prob.training import Training

NUM_TRIED = 16
"""Draws of noise that divergences are told apart by."""


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
        arms = Arms(*np.split(self._noise(num_draws, 1 + len(weights)), [1], axis=2), weights)
        return xr.DataTree(self.score(arms, slice(0, 1)))

    def trials(self) -> list[str]:
        """Tell divergences of one name apart, by what they are of some noise."""
        old, new = np.split(self._noise(NUM_TRIED, 2).astype(float), 2, axis=2)
        functionals = [divergence.of(vector=old.ndim > 3) for divergence in self.divergences]
        values = [np.ravel(each.statistic(old, new, self.coupled)) for each in functionals]
        return [" ".join(f"{number:.5g}" for number in value) for value in values]

    def _noise(self, num_draws: int, several: int) -> Float[np.ndarray, "draw 1 several *output"]:
        """Make up measured values of one query, which add up to 1 where they are vectors."""
        training = self.training
        value = jax.eval_shape(training.draw, jax.random.key(0), training.program.full_weights()).value
        output = value.shape[1 + (training.kernel.num_states > 1) :]
        noise = np.random.default_rng(0).uniform(size=(num_draws, 1, several, *output))
        # Shares that add up to 1 are fit for any divergence, those between probabilities too.
        shares = noise / noise.sum(-1, keepdims=True) if output else noise
        return shares.astype(value.dtype)


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
        place, sizes = shard.place[1:], {"query": shard.whole.size[1]}
        if (known := self.group.num_diverging(place, sizes)) is not None:
            return known  # by a worker whose report was lost
        arms = self.arms(queries)
        scores = xr.DataTree(self.comparison.score(arms, queries))
        self.group.write(scores, {"query": queries.start})
        diverging = int((~np.isfinite(arms.new)).reshape(len(arms.new), -1).any(1).sum())
        facts = {"num_diverging": diverging, "milliseconds": round(1000 * (time.monotonic() - start))}
        self.group.finish(place, sizes, facts)
        return diverging
