"""Draws over keys, in compiled chunks."""

import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

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
from dtda_prob.typing import Outcome, PRNGKey, Pull, Push, Weights, check_key

Source = Training | PushForward
Reader = Callable[[Outcome, Weights], Any]

KEEPABLE = ("parameters", "trace")
READ_AT_ONCE = 4
"""Outcomes read together: few, since their statistics visit all data at once."""


def sample(
    source: Source,
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
        source: a training (draws of mu at `weights`), or a push-forward (draws of mu at `old`
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
    training = training_of(source)
    new = check_weights(training.program, weights)
    read = _Reading(training, frozenset(keep))
    keys = draw_keys(key, num_draws)
    drawn = draw_all(source, keys, old, new, read, chunk_size, progress)
    warn_not_finite(drawn["stats"]["diverging"], "flagged in sample_stats.diverging")
    return to_datatree(source, training, drawn, keys, new, num_chains)


def draw_all(
    source: Source,
    keys: Key[Array, "draw *perturbation"],
    old: Any,
    new: xr.DataArray,
    read: Reader,
    chunk_size: int,
    progress: bool,
) -> Any:
    """Draw every pair of key and perturbation onto the host and keep what `read` reads off it.

    Keys are one per draw, which all perturbations share, or one per draw and perturbation.

    Returns:
        The tree that `read` gives, each leaf with leading axes `(draw,)` or `(draw, perturbation)`.
    """
    start = jnp.asarray(check_weights(training_of(source).program, old).values)
    weights, removed = np.atleast_2d(new.values), np.atleast_1d(num_removed(new))
    num_draws, keys = len(keys), keys.reshape(len(keys), -1)
    found = None
    with progress_bar(num_draws * len(weights), progress) as bar:
        for count in np.unique(removed):
            push = rematch(source, int(count)).push
            rows = np.flatnonzero(removed == count)
            for draws, several, size in _chunks(num_draws, rows, chunk_size):
                chosen = jnp.asarray(weights[several if len(rows) > 1 else rows[0]])
                part = _draw_chunk(push, read, keys[draws, several % keys.shape[1]], start, chosen)
                found = _allocate(part, num_draws, len(weights)) if found is None else found
                _place(found, part, draws[:size], several[:size])
                bar.update(size)
    return found if new.ndim == 2 else jax.tree.map(lambda x: x[:, 0], found)


def pull_all(
    pull: Pull, key: PRNGKey, num_draws: int, weights: Weights, progress: bool
) -> Iterator[np.ndarray]:
    """Give the response of each draw in turn, shape `(query, *output, datum)`."""
    with progress_bar(num_draws, progress) as bar:
        for draw_key in draw_keys(key, num_draws):
            response = np.asarray(_pull_one(pull, draw_key, weights))
            bar.update()
            yield response


def read_value(outcome: Outcome, weights: Weights) -> Float[Array, "query *output"]:
    """Keep the measured value alone."""
    return outcome.value


def training_of(source: Source) -> Training:
    """Give the training behind a source of draws."""
    return source if isinstance(source, Training) else source.training


@overload
def rematch(source: Training, num_removed: int) -> Training: ...
@overload
def rematch(source: PushForward, num_removed: int) -> PushForward: ...
def rematch(source: Source, num_removed: int) -> Source:
    """Give the same source for trainings in which that many rows are gone."""
    if num_removed == 0:
        return source
    if isinstance(source, Training):
        return source.drop(num_removed)
    return source.rebuild(source.training.drop(num_removed))


def draw_keys(key: PRNGKey, num_draws: int) -> Key[Array, " draw"]:
    """Give one key per draw; the first ones do not depend on how many there are."""
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num_draws))


def warn_not_finite(diverging: np.ndarray, consequence: str) -> None:
    """Report draws that are not finite, which are kept."""
    if diverging.any():
        warnings.warn(
            f"{diverging.sum()} of {diverging.size} draws are not finite; they are kept, and "
            f"{consequence} (a smaller learning rate, or damping of the curvature, may help)",
            RuntimeWarning,
            stacklevel=3,
        )


def progress_bar(total: int, progress: bool) -> tqdm:
    """Make a bar that counts draws, shown on terminals only."""
    return tqdm(total=total, unit="draw", disable=None if progress else True, leave=False)


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
        return kept


def _chunks(
    num_draws: int, rows: np.ndarray, chunk_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Give pairs of draw and perturbation, chunk by chunk; the last one is filled by repetition."""
    pairs = np.stack([np.repeat(np.arange(num_draws), len(rows)), np.tile(rows, num_draws)])
    size = min(chunk_size, pairs.shape[1])
    for first in range(0, pairs.shape[1], size):
        chunk = pairs[:, first : first + size]
        missing = size - chunk.shape[1]
        draws, several = np.pad(chunk, ((0, 0), (0, missing)), mode="edge")
        yield draws, several, size - missing


@partial(jax.jit, static_argnames=("push", "read"))
def _draw_chunk(
    push: Push,
    read: Reader,
    keys: Key[Array, " pair"],
    old: Weights,
    new: Float[Array, "*pair datum"],
) -> Any:
    """Draw all pairs at once, and read them a few at a time."""
    axis = None if new.ndim == 1 else 0
    outcomes = jax.vmap(push, (0, None, axis))(keys, old, new)
    if axis is None:
        return jax.lax.map(lambda outcome: read(outcome, new), outcomes, batch_size=READ_AT_ONCE)
    return jax.lax.map(lambda pair: read(*pair), (outcomes, new), batch_size=READ_AT_ONCE)


@partial(jax.jit, static_argnames="pull")
def _pull_one(pull: Pull, key: PRNGKey, weights: Weights) -> Array:
    return pull(key, weights)


def _allocate(part: Any, num_draws: int, num_perturbations: int) -> Any:
    def empty(x: Array) -> np.ndarray:
        return np.empty((num_draws, num_perturbations, *x.shape[1:]), x.dtype)

    return jax.tree.map(empty, part)


def _place(found: Any, part: Any, draws: np.ndarray, perturbations: np.ndarray) -> None:
    for whole, some in zip(jax.tree.leaves(found), jax.tree.leaves(part), strict=True):
        whole[draws, perturbations] = np.asarray(some)[: len(draws)]


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
