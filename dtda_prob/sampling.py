"""Sample sets of the outcome of training, and of push-forwards."""

import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
import xarray as xr

from dtda_prob.perturbations import check_weights
from dtda_prob.studies.check import (
    far,
    moves_far,
    warn_beyond_range,
    warn_far_moves,
    warn_few_draws,
)
from dtda_prob.studies.devices import mesh_of
from dtda_prob.studies.draw import Draws, draws, values
from dtda_prob.studies.options import Options
from dtda_prob.studies.price import Price, price
from dtda_prob.studies.reading import KEEPABLE, STATS
from dtda_prob.studies.run import HERE, Where, run, unfinished
from dtda_prob.studies.source import Source, default_draws, start_of, training_of
from dtda_prob.studies.tree import draws_of, values_of
from dtda_prob.training import Training
from dtda_prob.transforms.importance import PARETO_K, importance
from dtda_prob.typing import PRNGKey, check_key

OWN = {"check", "num_chains", "chunk_size"}
DEFAULT = Options()


def sample(
    source: Source,
    key: PRNGKey,
    num_draws: int | None = None,
    weights: Any = None,
    *,
    old: Any = None,
    keep: Collection[str] = (),
    options: Options = DEFAULT,
    where: Where = HERE,
) -> xr.DataTree:
    """Sample the outcome of training at these weights.

    The i-th draw depends on `key` and i alone, so that draws at different weights (or by different
    transforms) with one key are coupled, and more draws extend fewer. Cost: `num_draws` times the
    number of perturbations times the cost of one draw; memory grows with `options.chunk_size`.

    Args:
        source: a training (draws of mu at `weights`), or a push-forward (draws of mu at `old`
            carried to `weights`).
        key: one typed key.
        num_draws: number of draws, a multiple of the number of chains (4), and of the states that the
            kernel keeps of each run. If None all draws that are pretrained, and of other kernels 64
            runs, or 4 that keep several states.
        weights: one per example, or several perturbations `(perturbation, example)`; ones if None.
        old: where a push-forward starts; all data, weighted as the rows that are left, if None.
        keep: what else to keep: "parameters", "losses" (of each step), and what ArviZ's leave-one-out
            and power-scaling functions work on, "log_likelihood" and "log_prior".
        options: `check`, `num_chains` and `chunk_size`; see `Options`.
        where: the store that keeps the draws, the engine that computes them, and whether to show
            progress; see `Where`. Draws that are there are not drawn again: the same call goes on where
            one was interrupted, and more draws extend it.

    Returns:
        A tree with groups `posterior_predictive` (the measure, dimensions chain, draw,
        [perturbation,] query, [output]), `sample_stats` (objective, gradient_norm, diverging, key, what
        the kernel reports, and `pareto_k` by `importance`),
        `constant_data` (weights), and what is kept beside: `posterior` (parameters), `log_likelihood`
        (log p(y_i | theta) of each example in nats, summed over observed sites, whatever its weight)
        and `log_prior` (see `Program.log_prior`). Draws that are not finite are kept and flagged in
        `sample_stats.diverging`. From a store, arrays are read when they are asked for.

    Raises:
        ValueError: for bad weights, a bad number of draws or chains, or unknown things to keep; where
            the log prior is to be kept of a program that has none.
        NotImplementedError: where examples share discrete latent sites, and densities are to be kept.
        StoreError: if the store belongs to another program or other data, or holds other draws under
            this name, which are named; if it is damaged, or another process writes to it.
        OSError: if the store cannot be written to; what is finished is safe.

    Warns:
        RuntimeWarning: if draws are not finite, a prediction is out of range, or importance weights
            rest on few draws.
    """
    check_key(key)
    options.only("sample", OWN)
    num_draws = default_draws(training_of(source)) if num_draws is None else num_draws
    num_chains = _check_draws(training_of(source), num_draws, options.num_chains, keep)
    settings = {"old": old, "keep": ("statistics", *sorted(keep)), "chunk_size": options.chunk_size}
    task = _task(source, key, num_draws, weights, where, num_chains=num_chains, **settings)
    where = where.named("sample")
    is_new = bool(unfinished(task, where))
    tree = run(task, where)
    diverging = tree["sample_stats/diverging"].values
    warn_not_finite(diverging, "flagged in sample_stats.diverging")
    if options.check and weights is not None and is_new:
        if isinstance(source, importance):
            warn_few_draws(source, tree[f"{STATS}/{PARETO_K}"].isel(chain=0, draw=0).values)
        moved, new = _first_run(tree, task.training), task.weights
        moved, new = (moved, new) if new.ndim == 2 else (moved[None], new.expand_dims("perturbation"))
        warn_beyond_range(source, key, moved, new, old)
        if moves_far(source):
            warn_far_moves(source, _furthest(tree, source, key, old))
    return tree


def price_of_sample(
    source: Source, key: PRNGKey, num_draws: int, weights: Any = None, *, where: Where = HERE
) -> Price:
    """Price a sample set; what is compiled for it is not compiled again when it is drawn.

    Raises:
        ValueError: for bad weights, or a bad number of draws.
        NotImplementedError: for a push-forward that cannot push.
    """
    num_chains = _check_draws(training_of(source), num_draws, None, ())
    keep = ("statistics",)
    return price(_task(source, key, num_draws, weights, where, num_chains=num_chains, keep=keep))


def _task(
    source: Source, key: PRNGKey, num_draws: int, weights: Any, where: Where, **settings: Any
) -> Draws:
    training = training_of(source)
    new = check_weights(training.program, weights)
    runs, mesh = training.num_runs(num_draws), mesh_of(where.engine)
    return draws(source, key, runs, new, mesh=mesh, **settings)


def warn_not_finite(diverging: np.ndarray, consequence: str) -> None:
    """Warn of draws that are not finite, which are kept."""
    if diverging.any():
        warnings.warn(
            f"{diverging.sum()} of {diverging.size} draws diverge, did not converge or are not finite; "
            f"they are kept, and {consequence} (a smaller step size, more steps, or damping of the "
            "curvature, may help)",
            RuntimeWarning,
            stacklevel=3,
        )


def _first_run(tree: xr.DataTree, training: Training) -> np.ndarray:
    """Return the measured values of the first run, as the mean over its states."""
    draws = slice(training.kernel.num_states)
    run = tree.isel({"chain": slice(1), "draw": draws}, missing_dims="ignore")
    return values_of(run).isel(chain=0).mean("draw").values


def _furthest(tree: xr.DataTree, source: Source, key: PRNGKey, old: Any) -> np.ndarray:
    """Draw the first run where it starts, and return how far its draws were moved; see `far`."""
    training, start = training_of(source), xr.DataArray(start_of(source, old), dims="example")
    drawn = values(training, key, 1, start)
    moved = draws_of(tree.isel(chain=slice(1)))[: len(drawn)]
    return far(drawn[:, None], moved.values.reshape(len(drawn), -1, *drawn.shape[1:]))


def _check_draws(
    training: Training, num_draws: int, num_chains: int | None, keep: Collection[str]
) -> int:
    """Raise ValueError for bad numbers, and return the number of chains."""
    several = training.kernel.num_states > 1
    runs = training.num_runs(num_draws, 2 if several else 1)
    if several and num_chains not in (None, runs):
        raise ValueError(
            f"num_chains={num_chains}: each of the {runs} runs is a chain, since the kernel keeps "
            "several states of it; leave num_chains out, or change num_draws"
        )
    num_chains = (runs if several else 4) if num_chains is None else num_chains
    if num_draws < 1 or num_draws % num_chains:
        raise ValueError(
            f"num_draws={num_draws} must be a positive multiple of num_chains={num_chains}; "
            "change either"
        )
    if unknown := set(keep) - set(KEEPABLE):
        raise ValueError(f"keep={sorted(unknown)} must be among {KEEPABLE}")
    return num_chains
