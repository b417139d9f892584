"""Sample sets of the outcome of training, and of push-forwards."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.outcomes.draws import draw_shards, lay_out, warn_not_finite
from dtda_prob.outcomes.linear_range import warn_beyond_range
from dtda_prob.outcomes.reading import KEEPABLE, Reading
from dtda_prob.outcomes.source import Source, draw_keys, training_of
from dtda_prob.outcomes.stored import fill
from dtda_prob.outcomes.study import Place
from dtda_prob.outcomes.tree import to_datatree, values_of
from dtda_prob.perturbations import check_weights
from dtda_prob.training import Training
from dtda_prob.typing import PRNGKey, check_key


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
    store: str | Path | None = None,
    name: str = "sample",
    engine: Any = None,
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
        keep: what else to keep: "parameters", "losses" (the loss of each step), and what ArviZ's
            leave-one-out and power-scaling functions work on, "log_likelihood" and "log_prior".
        check: retrain one draw at up to four perturbations, and warn where what a push-forward
            predicts there is out of range.
        progress: show a progress bar on a terminal.
        store: a folder that keeps the draws, and those of other sample sets of the same program and
            data, under their names. Draws that are there are not drawn again: the same call goes on
            where one was interrupted, and more draws or perturbations (behind those that are there)
            extend it. `chunk_size` is that of the first call.
        name: of the sample set in the store.
        engine: where draws are computed: this process, with all its devices, if None; some of its
            devices, a `jax.sharding.Mesh`; a `concurrent.futures.Executor`; a Dask client, or its
            scheduler's address.

    Returns:
        A tree with groups `posterior_predictive` (the measure, dimensions chain, draw,
        [perturbation,] query, [output]), `sample_stats` (objective, gradient_norm, diverging, key),
        `constant_data` (weights), and what is kept beside: `posterior` (parameters), `log_likelihood`
        (log p(y_i | theta) of each datum in nats, summed over observed sites, whatever it weighs) and
        `log_prior` (see `Program.log_prior`). Draws that are not finite are kept and flagged in
        `sample_stats.diverging`. From a store, arrays are read when they are asked for.

    Raises:
        ValueError: for bad weights, a bad number of draws or chains, or unknown things to keep; where
            the log prior is to be kept of a program that has none.
        NotImplementedError: where data share discrete latent sites, and densities are to be kept.
        StoreError: if the store belongs to another program or other data, or holds other draws under
            this name, which are named; if it is damaged, or another process writes to it.
        OSError: if the store cannot be written to; what is finished is safe.

    Warns:
        RuntimeWarning: if draws are not finite, or a prediction is out of range.
    """
    check_key(key)
    training = training_of(source)
    num_chains = _check_draws(training, num_draws, num_chains, keep)
    new = check_weights(training.program, weights)
    runs, read = training.num_runs(num_draws), Reading(training, frozenset(keep))
    multiple = 1 if training.kernel.num_states > 1 else num_chains
    drawing = lay_out(
        source, key, runs, new, read, old=old, chunk_size=chunk_size, engine=engine, multiple=multiple
    )
    if store is None:
        drawn, is_new = draw_shards(drawing, runs, engine, progress), True
        tree = to_datatree(source, training, drawn, draw_keys(key, runs), new, num_chains)
    else:
        place = Place(Path(store), name, engine, progress)
        tree, is_new = fill(place, drawing, runs, num_chains)
    stats = tree.children["sample_stats"].to_dataset()
    warn_not_finite(stats["diverging"].values, "flagged in sample_stats.diverging")
    if check and weights is not None and is_new:
        warn_beyond_range(source, key, _of_first_run(tree, training), new, old)
    return tree


def _of_first_run(tree: xr.DataTree, training: Training) -> Float[np.ndarray, "state ..."]:
    draws = slice(1) if training.kernel.num_states == 1 else slice(None)
    run = tree.isel({"chain": slice(1), "draw": draws}, missing_dims="ignore")
    return values_of(run).isel(chain=0).values


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
