"""Distributional influence: how far each datum, removed, moves the distribution of a measurement."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.divergences import Divergence, Estimate, estimate, resolve
from dtda_prob.outcomes.draws import (
    Source,
    draw_all,
    draw_keys,
    pull_all,
    read_value,
    start_of,
    training_of,
    warn_not_finite,
)
from dtda_prob.outcomes.linear_range import NUM_CHECKED, warn_beyond_range
from dtda_prob.perturbations import check_weights, num_removed
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, Weights, check_key

Draws = Float[np.ndarray, "draw ..."]
BLOCK = 2**22
"""Numbers per block of pairs that are compared at once."""
CHUNK = 64
"""Trainings per compiled call."""


def attribute(
    source: Source,
    key: PRNGKey,
    num_draws: int,
    divergences: Sequence[str | Divergence | Callable] = ("mean", "variance", "wasserstein"),
    perturbations: Any = None,
    *,
    direction: Literal["pull", "push"] | None = None,
    new_key: PRNGKey | None = None,
    num_permutations: int = 20,
    check: bool = True,
    progress: bool = True,
) -> xr.Dataset:
    """Measure how the distribution of each query's measurement moves under each perturbation.

    By `pull`, one response per draw serves all perturbations: the new sample is the old one plus the
    response times the change of weights. By `push`, every perturbation is carried by itself, which
    costs a push each and keeps what is not linear (the space of the transform, or retraining).

    Args:
        source: a push-forward, or a training (which retrains, by push).
        key: one typed key; draws are those of `sample` with this key.
        num_draws: number of draws, at least 3.
        divergences: names, `Divergence`s or functions `(old, new) -> value`.
        perturbations: weights `(perturbation, datum)`; the removal of each datum in turn if None.
        direction: "pull" or "push"; pull for push-forwards and push for trainings if None.
        new_key: by push, the key of the new samples, which then share no seed with the old one or
            each other; if None they have the keys of the old one, so that arms are coupled.
        num_permutations: permutations for null levels.
        check: retrain one draw at the four perturbations of the longest predicted steps, and warn
            where the prediction is out of range.
        progress: show a progress bar on a terminal.

    Returns:
        A dataset with variables `score`, `error` (standard error), `null` (see
        `divergences.estimate`) and `rank` (1 is the largest absolute score of a query), and
        dimensions `divergence`, `query` and `datum` (or `perturbation`). A positive mean score says
        that the measurement falls when the datum is removed; a positive variance score, that it
        spreads.

    Raises:
        ValueError: for bad weights, unknown divergences or direction, or a training asked to pull.

    Warns:
        RuntimeWarning: if draws are not finite, or predictions out of range.
    """
    chosen = [resolve(divergence) for divergence in divergences]
    arms = draw_arms(
        source, key, num_draws, perturbations, direction=direction, new_key=new_key, progress=progress
    )
    coupled, vector = new_key is None, arms.old.ndim == 4
    estimates = [_in_blocks(d, arms.old, arms.new, coupled, vector, num_permutations) for d in chosen]
    if check and coupled:
        _check_range(source, key, arms)
    return _to_dataset(estimates, chosen, training_of(source), arms.weights)


def _check_range(source: Source, key: PRNGKey, arms: "Arms") -> None:
    """Retrain one draw at the longest steps; of single data, only these are ever laid out."""
    moved, weights = np.moveaxis(arms.new[0], 1, 0), arms.weights
    if weights.ndim == 1:
        lengths = np.linalg.norm((moved - arms.old[0, :, 0]).reshape(len(moved), -1), axis=1)
        longest = np.argsort(-lengths)[:NUM_CHECKED]
        moved, weights = moved[longest], _each_removed(weights, longest)
    warn_beyond_range(source, draw_keys(key, 1), moved, weights)


class Arms(NamedTuple):
    """Draws of the measurement on all data and on perturbed data.

    Attributes:
        old: shape `(draw, query, 1, *output)`.
        new: shape `(draw, query, perturbation, *output)`.
        weights: the perturbations, `(perturbation, datum)`, or `(datum,)` where each datum is removed
            in turn.
    """

    old: Draws
    new: Draws
    weights: xr.DataArray


def draw_arms(
    source: Source,
    key: PRNGKey,
    num_draws: int,
    perturbations: Any = None,
    *,
    direction: Literal["pull", "push"] | None = None,
    new_key: PRNGKey | None = None,
    progress: bool = True,
) -> Arms:
    """Draw both sides of a comparison; see `attribute` for the arguments, errors and warnings."""
    check_key(key)
    training = training_of(source)
    direction = direction or ("push" if isinstance(source, Training) else "pull")
    weights = check_weights(training.program, perturbations)
    if perturbations is not None and weights.ndim == 1:
        weights = weights.expand_dims(perturbation=[0])
    if direction == "push":
        weights = weights if weights.ndim == 2 else _each_removed(weights)
        old, new = _arms_by_push(source, key, new_key, num_draws, weights, progress)
    elif direction == "pull" and isinstance(source, PushForward) and new_key is None:
        old, new = _arms_by_pull(source, key, num_draws, weights, progress)
    else:
        raise ValueError(
            f"direction={direction!r} must be 'push', or 'pull' with a push-forward and no new_key"
        )
    finite = np.isfinite(new).reshape(num_draws, -1).all(1)
    warn_not_finite(~finite, "scores that they enter are NaN")
    return Arms(old, new, weights)


def _each_removed(weights: xr.DataArray, positions: np.ndarray | None = None) -> xr.DataArray:
    labels = weights["datum"].values
    chosen = np.arange(len(labels)) if positions is None else positions
    single = (chosen[:, None] != np.arange(len(labels))).astype(float)
    coords = {"perturbation": labels[chosen], "datum": labels}
    return xr.DataArray(single, coords, ("perturbation", "datum"), attrs=weights.attrs)


def _arms_by_push(
    source: Source,
    key: PRNGKey,
    new_key: PRNGKey | None,
    num_draws: int,
    weights: xr.DataArray,
    progress: bool,
) -> tuple[Draws, Draws]:
    """Give draws of both arms, `(draw, query, perturbation, *output)`."""
    training = training_of(source)
    ones = check_weights(training.program, None)

    keys = draw_keys(key, num_draws)
    old = draw_all(training, keys, None, ones, read_value, CHUNK, progress)
    if new_key is not None:
        each = draw_keys(new_key, num_draws * len(weights))
        keys = each.reshape(num_draws, len(weights))
    new = draw_all(source, keys, None, weights, read_value, CHUNK, progress)
    return old[:, :, None], np.moveaxis(new, 1, 2)


def _arms_by_pull(
    source: PushForward, key: PRNGKey, num_draws: int, weights: xr.DataArray, progress: bool
) -> tuple[Draws, Draws]:
    """Give draws of both arms, `(draw, query, datum or perturbation, *output)`."""
    removed = np.unique(num_removed(weights))
    if len(removed) > 1:
        raise ValueError(
            f"perturbations drop different numbers of rows ({removed.tolist()}), and each is another "
            "training: attribute them apart, by removal='reweight', or with direction='push'"
        )
    fitting = source.matched(int(removed[0]))
    start = start_of(fitting, None)
    point = _expansion_point(source, start, weights)
    pairs = [
        (value, _shift(response, weights.values, np.asarray(start)))
        for value, response in pull_all(fitting, key, num_draws, start, point, progress)
    ]
    old, shifts = map(np.stack, zip(*pairs, strict=True))
    old = old[:, :, None]
    return old, old + shifts


def _expansion_point(source: PushForward, start: Weights, weights: xr.DataArray) -> Weights | None:
    """Give the centre of the perturbations: their mean, or halfway to the only one; None: the start."""
    if weights.ndim == 1 or not isinstance(source.at, str) or source.at == "old":
        return None
    if len(weights) == 1:
        return (start + jnp.asarray(weights.values[0])) / 2
    return jnp.asarray(weights.values.mean(0)) if source.at == "centre" else None


def _shift(response: np.ndarray, weights: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Apply a response to each change of weights: `(query, perturbation or datum, *output)`."""
    alone = weights.ndim == 1
    shift = -response if alone else response @ (weights - start).T.astype(response.dtype)
    return np.moveaxis(shift, -1, 1)


def _in_blocks(
    divergence: Divergence,
    old: Draws,
    new: Draws,
    coupled: bool,
    vector: bool,
    num_permutations: int,
) -> Estimate:
    """Estimate a few queries at a time, so that memory stays bounded."""
    num_queries = new.shape[1]
    step = max(1, BLOCK * num_queries // new.size)
    parts = [
        estimate(
            divergence,
            old[:, first : first + step],
            new[:, first : first + step],
            coupled=coupled,
            vector=vector,
            num_permutations=num_permutations,
        )
        for first in range(0, num_queries, step)
    ]
    return Estimate(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _to_dataset(
    estimates: list[Estimate], chosen: list[Divergence], training: Training, weights: xr.DataArray
) -> xr.Dataset:
    last = str(weights.dims[0])
    fields = {
        name: np.stack([getattr(estimate, field) for estimate in estimates])
        for name, field in (("score", "value"), ("error", "error"), ("null", "null"))
    }
    order = np.argsort(-np.abs(fields["score"]), axis=-1, kind="stable")
    fields["rank"] = np.argsort(order, axis=-1) + 1
    return xr.Dataset(
        {name: (("divergence", "query", last), values) for name, values in fields.items()},
        coords={
            "divergence": [divergence.name for divergence in chosen],
            "query": training.measure.queries,
            last: weights[last].values,
        },
        attrs={"measure": training.measure.name},
    )
