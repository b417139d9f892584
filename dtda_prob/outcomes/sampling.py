"""Draws over keys, in compiled chunks."""

import warnings
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key
from tqdm import tqdm

from dtda_prob.outcomes.tree import to_datatree
from dtda_prob.perturbations import check_weights, num_removed
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import Outcome, PRNGKey, Pull, Push, check_key

KEEPABLE = ("parameters", "trace")


def sample(
    kernel: Training | PushForward,
    key: PRNGKey,
    num_draws: int,
    weights: Any = None,
    *,
    old: Any = None,
    num_chains: int = 4,
    chunk_size: int = 64,
    keep: Collection[str] = (),
    progress: bool = True,
) -> xr.DataTree:
    """Sample the outcome of training at these weights.

    The i-th draw depends on `key` and i alone, so that draws at different weights (or by different
    transforms) with one key are coupled, and more draws extend fewer. Cost: `num_draws` times the
    number of perturbations times the cost of one draw; memory grows with `chunk_size`.

    Args:
        kernel: a training (draws of mu at `weights`), or a push-forward (draws of mu at `old`
            carried to `weights`).
        key: one typed key.
        num_draws: number of draws, a multiple of `num_chains`.
        weights: one per datum, or several perturbations `(perturbation, datum)`; ones if None.
        old: where a push-forward starts; ones if None.
        num_chains: blocks of independent draws that ArviZ sees as chains, at least 2.
        chunk_size: trainings per compiled call.
        keep: what else to keep, of "parameters" and "trace" (the loss of each step).
        progress: show a progress bar on a terminal.

    Returns:
        A tree with groups `posterior_predictive` (the measure, dimensions chain, draw,
        [perturbation,] query, [output]), `sample_stats` (objective, gradient_norm, diverging, key),
        `constant_data` (weights), and `posterior` where parameters are kept. Draws that are not
        finite are kept and flagged in `sample_stats.diverging`.

    Raises:
        ValueError: for bad weights, a bad number of draws or chains, or unknown things to keep.

    Warns:
        RuntimeWarning: if draws are not finite.
    """
    check_key(key)
    _check_draws(num_draws, num_chains, keep)
    training = kernel if isinstance(kernel, Training) else kernel.training
    new = check_weights(training.program, weights)
    start = jnp.asarray(check_weights(training.program, old).values)
    removed = num_removed(new)
    found = None
    with progress_bar(num_draws * max(1, removed.size), progress) as bar:
        for count in np.unique(removed):
            rows = removed == count
            part = jnp.asarray(new.values if new.ndim == 1 else new.values[rows])
            push = rematch(kernel, int(count)).push
            drawn = _draw_all(push, key, num_draws, start, part, chunk_size, tuple(keep), bar)
            found = drawn if new.ndim == 1 else _place(found, drawn, rows)
    _warn_not_finite(found["stats"]["diverging"])
    return to_datatree(kernel, found, draw_keys(key, num_draws), new, num_chains)


def pull_all(
    pull: Pull, key: PRNGKey, num_draws: int, weights: Float[Array, " datum"], progress: bool
) -> Iterator[np.ndarray]:
    """Give the response of each draw in turn, shape `(query, *output, datum)`."""
    with progress_bar(num_draws, progress) as bar:
        for draw_key in draw_keys(key, num_draws):
            response = np.asarray(_pull_one(pull, draw_key, weights))
            bar.update()
            yield response


def rematch(kernel: Training | PushForward, num_removed: int) -> Training | PushForward:
    """Give the same kernel for trainings in which that many rows are gone."""
    if num_removed == 0:
        return kernel
    if isinstance(kernel, Training):
        return kernel.drop(num_removed)
    return kernel.rebuild(kernel.training.drop(num_removed))


def draw_keys(key: PRNGKey, num_draws: int) -> Key[Array, " draw"]:
    """Give one key per draw; the first ones do not depend on how many there are."""
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num_draws))


def progress_bar(total: int, progress: bool) -> tqdm:
    """Make a bar that counts draws, shown on terminals only."""
    return tqdm(total=total, unit="draw", disable=None if progress else True, leave=False)


def _draw_all(
    push: Push,
    key: PRNGKey,
    num_draws: int,
    old: Float[Array, " datum"],
    new: Float[Array, "*perturbation datum"],
    chunk_size: int,
    keep: tuple[str, ...],
    bar: tqdm,
) -> dict[str, Any]:
    """Draw every pair of key and perturbation, a chunk at a time, onto the host."""
    num_perturbations = 1 if new.ndim == 1 else len(new)
    pairs = np.arange(num_draws * num_perturbations)
    size = min(chunk_size, len(pairs))
    keys = draw_keys(key, num_draws)
    chunks = []
    for first in range(0, len(pairs), size):
        chosen = pairs[first : first + size]
        padded = np.pad(chosen, (0, size - len(chosen)), mode="edge")
        weights = new if new.ndim == 1 else new[padded % num_perturbations]
        drawn = _draw_chunk(push, keys[padded // num_perturbations], old, weights, keep)
        chunks.append(jax.tree.map(lambda x, n=len(chosen): np.asarray(x)[:n], drawn))
        bar.update(len(chosen))
    shape = (num_draws,) if new.ndim == 1 else (num_draws, num_perturbations)
    return jax.tree.map(lambda *x: np.concatenate(x).reshape(*shape, *x[0].shape[1:]), *chunks)


@partial(jax.jit, static_argnames=("push", "keep"))
def _draw_chunk(
    push: Push,
    keys: Key[Array, " pair"],
    old: Float[Array, " datum"],
    new: Float[Array, "*pair datum"],
    keep: tuple[str, ...],
) -> dict[str, Any]:
    def draw(key: PRNGKey, weights: Float[Array, " datum"]) -> dict[str, Any]:
        return _kept(push(key, old, weights), keep)

    return jax.vmap(draw, (0, None if new.ndim == 1 else 0))(keys, new)


@partial(jax.jit, static_argnames="pull")
def _pull_one(pull: Callable, key: PRNGKey, weights: Float[Array, " datum"]) -> Array:
    return pull(key, weights)


def _kept(outcome: Outcome, keep: tuple[str, ...]) -> dict[str, Any]:
    stats = {name: stat for name, stat in outcome.stats.items() if name != "trace"}
    kept: dict[str, Any] = {"value": outcome.value, "stats": stats}
    if "trace" in keep:
        kept["trace"] = outcome.stats["trace"]
    if "parameters" in keep:
        kept["params"] = outcome.params
    return kept


def _place(found: Any, part: Any, rows: np.ndarray) -> Any:
    """Put the perturbations of one part in their places, after the draws."""
    if found is None:
        found = jax.tree.map(lambda x: np.empty((len(x), len(rows), *x.shape[2:]), x.dtype), part)
    for whole, some in zip(jax.tree.leaves(found), jax.tree.leaves(part), strict=True):
        whole[:, rows] = some
    return found


def _check_draws(num_draws: int, num_chains: int, keep: Collection[str]) -> None:
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


def _warn_not_finite(diverging: np.ndarray) -> None:
    if diverging.any():
        warnings.warn(
            f"{diverging.sum()} of {diverging.size} draws are not finite; they are kept and flagged "
            "in sample_stats.diverging (a smaller learning rate or damping may help)",
            RuntimeWarning,
            stacklevel=3,
        )
