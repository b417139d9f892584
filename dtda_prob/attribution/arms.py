"""Both sides of a comparison: draws of the measurement on all data and on perturbed data."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from dtda_prob.outcomes.draws import by_draw, draw_all, pull_all, warn_not_finite
from dtda_prob.outcomes.source import Source, draw_keys, read_value, start_of, training_of
from dtda_prob.perturbations import check_weights, num_removed
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, Weights, check_key

Draws = Float[np.ndarray, "draw ..."]
Direction = Literal["pull", "push"]


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
    direction: Direction | None = None,
    new_key: PRNGKey | None = None,
    first: int = 0,
    progress: bool = True,
) -> Arms:
    """Draw both sides of a comparison; see `attribute` for the arguments, errors and warnings.

    `first` is the number of draws to pass over, so that draws can be added to those there are.
    """
    check_key(key)
    training = training_of(source)
    direction = direction or ("push" if isinstance(source, Training) else "pull")
    weights = check_weights(training.program, perturbations)
    if perturbations is not None and weights.ndim == 1:
        weights = weights.expand_dims(perturbation=[0])
    runs, passed = training.num_runs(num_draws), first // training.kernel.num_states
    if direction == "push":
        weights = weights if weights.ndim == 2 else each_removed(weights)
        draw = partial(draw_all, num_runs=runs, first=passed, read=read_value, progress=progress)
        old, new = _arms_by_push(draw, source, key, new_key, weights)
    elif direction == "pull" and isinstance(source, PushForward) and new_key is None:
        old, new = _arms_by_pull(source, draw_keys(key, runs, passed), weights, progress)
    else:
        raise ValueError(
            f"direction={direction!r} must be 'push', or 'pull' with a push-forward and no new_key"
        )
    finite = np.isfinite(new).reshape(num_draws, -1).all(1)
    warn_not_finite(~finite, "scores that they enter are NaN")
    return Arms(old, new, weights)


def each_removed(weights: xr.DataArray, positions: np.ndarray | None = None) -> xr.DataArray:
    """Lay out the removal of each datum, or of those at some positions, from what all data weigh."""
    labels = weights["datum"].values
    chosen = np.arange(len(labels)) if positions is None else positions
    single = np.where(chosen[:, None] == np.arange(len(labels)), 0.0, weights.values)
    coords = {"perturbation": labels[chosen], "datum": labels}
    return xr.DataArray(single, coords, ("perturbation", "datum"), attrs=weights.attrs)


def _arms_by_push(
    draw: Callable, source: Source, key: PRNGKey, new_key: PRNGKey | None, weights: xr.DataArray
) -> tuple[Draws, Draws]:
    """Give draws of both arms, `(draw, query, perturbation, *output)`."""
    training = training_of(source)
    old = draw(training, key, weights=check_weights(training.program, None))
    new = draw(source, key if new_key is None else new_key, weights=weights, shared=new_key is None)
    return old[:, :, None], np.moveaxis(new, 1, 2)


def _arms_by_pull(
    source: PushForward, keys: Key[Array, " draw"], weights: xr.DataArray, progress: bool
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
    query_axis = int(source.training.kernel.num_states > 1)
    pairs = [
        (value, _shift(response, weights.values, np.asarray(start), query_axis))
        for value, response in pull_all(fitting, keys, start, point, progress)
    ]
    stacked = tuple(map(np.stack, zip(*pairs, strict=True)))
    old, shifts = by_draw(source.training, stacked)
    old = old[:, :, None]
    return old, old + shifts


def _expansion_point(source: PushForward, start: Weights, weights: xr.DataArray) -> Weights | None:
    """Give the centre of the perturbations: their mean, or halfway to the only one; None: the start."""
    if weights.ndim == 1 or not isinstance(source.at, str) or source.at == "old":
        return None
    if len(weights) == 1:
        return (start + jnp.asarray(weights.values[0])) / 2
    return jnp.asarray(weights.values.mean(0)) if source.at == "centre" else None


def _shift(response: np.ndarray, weights: np.ndarray, start: np.ndarray, query_axis: int) -> np.ndarray:
    """Apply a response to each change of weights: `(*state, query, perturbation or datum, *output)`."""
    alone = weights.ndim == 1
    shift = -response * start if alone else response @ (weights - start).T.astype(response.dtype)
    return np.moveaxis(shift, -1, query_axis + 1)
