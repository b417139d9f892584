"""Sample sets of the outcome of training, and of push-forwards."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import xarray as xr
from jaxtyping import Array

from dtda_prob.outcomes.draws import Source, draw_all, draw_keys, training_of, warn_not_finite
from dtda_prob.outcomes.linear_range import warn_beyond_range
from dtda_prob.outcomes.tree import to_datatree
from dtda_prob.perturbations import check_weights
from dtda_prob.training import Training
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights, check_key

KEEPABLE = ("parameters", "trace", "log_likelihood", "log_prior")
DENSITIES = {"log_likelihood", "log_prior"}


def sample(
    source: Source,
    key: PRNGKey,
    num_draws: int,
    weights: Any = None,
    *,
    old: Any = None,
    num_chains: int | None = None,
    chunk_size: int = 64,
    keep: Collection[str] = (),
    check: bool = True,
    progress: bool = True,
) -> xr.DataTree:
    """Sample the outcome of training at these weights.

    The i-th draw depends on `key` and i alone, so that draws at different weights (or by different
    transforms) with one key are coupled, and more draws extend fewer. Cost: `num_draws` times the
    number of perturbations times the cost of one draw; memory grows with `chunk_size`.

    Args:
        source: a training (draws of mu at `weights`), or a push-forward (draws of mu at `old`
            carried to `weights`).
        key: one typed key.
        num_draws: number of draws, a multiple of `num_chains`, and of the states that the kernel keeps
            of each run.
        weights: one per datum, or several perturbations `(perturbation, datum)`; ones if None.
        old: where a push-forward starts; all data, weighed as the rows that are left, if None.
        num_chains: blocks of independent draws that ArviZ sees as chains, at least 2; 4 if None. Where
            the kernel keeps several states of a run, each run is a chain.
        chunk_size: trainings per compiled call.
        keep: what else to keep: "parameters", "trace" (the loss of each step), and what ArviZ's
            leave-one-out and power-scaling functions work on, "log_likelihood" and "log_prior".
        check: retrain one draw at up to four perturbations, and warn where what a push-forward
            predicts there is out of range.
        progress: show a progress bar on a terminal.

    Returns:
        A tree with groups `posterior_predictive` (the measure, dimensions chain, draw,
        [perturbation,] query, [output]), `sample_stats` (objective, gradient_norm, diverging, key),
        `constant_data` (weights), and what is kept beside: `posterior` (parameters), `log_likelihood`
        (log p(y_i | theta) of each datum in nats, summed over observed sites, whatever it weighs) and
        `log_prior` (see `Program.log_prior`). Draws that are not finite are kept and flagged in
        `sample_stats.diverging`.

    Raises:
        ValueError: for bad weights, a bad number of draws or chains, or unknown things to keep; where
            the log prior is to be kept of a program that has none.
        NotImplementedError: where data share discrete latent sites, and densities are to be kept.

    Warns:
        RuntimeWarning: if draws are not finite, or a prediction is out of range.
    """
    check_key(key)
    training = training_of(source)
    num_chains = _check_draws(training, num_draws, num_chains, keep)
    new = check_weights(training.program, weights)
    read = _Reading(training, frozenset(keep))
    keys = draw_keys(key, training.num_runs(num_draws))
    drawn = draw_all(source, keys, old, new, read, chunk_size, progress)
    warn_not_finite(drawn["stats"]["diverging"], "flagged in sample_stats.diverging")
    if check and weights is not None:
        first = drawn["value"][:: len(keys)][: training.kernel.num_states]
        warn_beyond_range(source, keys[:1], first, new, old)
    return to_datatree(source, training, drawn, keys, new, num_chains)


@dataclass(frozen=True)
class _Reading:
    """Keep the value, the statistics and what else was asked for; equal ones share a compilation."""

    training: Training
    keep: frozenset[str]

    def __call__(self, outcome: Outcome, weights: Weights) -> dict[str, Any]:
        stats = self.training.stats(outcome, weights)
        kept: dict[str, Any] = {"value": outcome.value, "stats": stats}
        if "trace" in self.keep:
            kept["trace"] = outcome.trace
        if "parameters" in self.keep:
            kept["params"] = outcome.params
        return kept | {name: self._densities(name, outcome.params) for name in DENSITIES & self.keep}

    def _densities(self, name: str, params: Params) -> dict[str, Array]:
        program, each = self.training.program, self.training.each_state
        if name == "log_prior":
            return each(program.log_prior)(params)
        return {name: each(lambda params: -program.losses(params))(params)}


def _check_draws(
    training: Training, num_draws: int, num_chains: int | None, keep: Collection[str]
) -> int:
    """Refuse bad numbers, and give the number of chains."""
    runs, several = training.num_runs(num_draws), training.kernel.num_states > 1
    if several and num_chains not in (None, runs):
        raise ValueError(
            f"num_chains={num_chains}: each of the {runs} runs is a chain, since the kernel keeps "
            "several states of it; leave num_chains out, or change num_draws"
        )
    num_chains = (runs if several else 4) if num_chains is None else num_chains
    if num_chains < 2:
        raise ValueError(f"num_chains={num_chains} must be at least 2, which ArviZ needs")
    if num_draws < 1 or num_draws % num_chains:
        raise ValueError(
            f"num_draws={num_draws} must be a positive multiple of num_chains={num_chains}; "
            "change either"
        )
    unknown = set(keep) - set(KEEPABLE)
    if unknown:
        raise ValueError(f"keep={sorted(unknown)} must be among {KEEPABLE}")
    return num_chains
