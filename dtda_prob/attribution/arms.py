"""Both sides of a comparison: draws of the measurement on all data and on perturbed data."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.attribution.effects import Effects, effects_of
from dtda_prob.outcomes.devices import mesh_of
from dtda_prob.outcomes.draws import LOST, by_draw, draw_all, finish, warn_not_finite
from dtda_prob.outcomes.shards import Shard
from dtda_prob.outcomes.source import Source, read_value, training_of
from dtda_prob.perturbations import check_weights
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, check_key

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
    engine: Any = None,
    progress: bool = True,
) -> Arms:
    """Draw both sides of a comparison; see `attribute` for the arguments, errors and warnings.

    `first` is the number of draws to pass over, so that draws can be added to those there are.
    """
    training = training_of(source)
    weights, direction = check_request(source, key, perturbations, direction, new_key)
    runs, passed = training.num_runs(num_draws), first // training.kernel.num_states
    if isinstance(source, PushForward) and direction == "pull":
        effects = effects_of(source, key, weights, first=passed, mesh=mesh_of(engine))
        old, new = _arms_by_pull(effects, runs, engine, progress)
    else:
        draw = partial(
            draw_all, num_runs=runs, first=passed, read=read_value, engine=engine, progress=progress
        )
        old, new = _arms_by_push(draw, source, key, new_key, weights)
    finite = np.isfinite(new).reshape(num_draws, -1).all(1)
    warn_not_finite(~finite, "scores that they enter are NaN")
    return Arms(old, new, weights)


def check_request(
    source: Source,
    key: PRNGKey,
    perturbations: Any,
    direction: Direction | None,
    new_key: PRNGKey | None,
) -> tuple[xr.DataArray, Direction]:
    """Give the perturbations as weights, and the direction; see `attribute` for what is refused."""
    check_key(key)
    direction = direction or ("push" if isinstance(source, Training) else "pull")
    weights = check_weights(training_of(source).program, perturbations)
    if perturbations is not None and weights.ndim == 1:
        weights = weights.expand_dims(perturbation=[0])
    if direction == "push":
        return weights if weights.ndim == 2 else each_removed(weights), direction
    if direction == "pull" and isinstance(source, PushForward) and new_key is None:
        return weights, direction
    raise ValueError(
        f"direction={direction!r} must be 'push', or 'pull' with a push-forward and no new_key"
    )


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


def _arms_by_pull(effects: Effects, num_runs: int, engine: Any, progress: bool) -> tuple[Draws, Draws]:
    """Give draws of both arms, `(draw, query, datum or perturbation, *output)`."""
    size, found = (num_runs, len(effects.training.measure.queries)), None

    def done(shard: Shard, part: tuple[np.ndarray, np.ndarray]) -> int:
        nonlocal found
        found = _allocate(part, size, effects.query_axis) if found is None else found
        runs, queries = shard.whole.slices()
        for whole, some in zip(found, part, strict=True):
            whole[runs, ..., queries, *[slice(None)] * (some.ndim - effects.query_axis - 1)] = some
        return 0

    finish(effects, [*effects.grid().shards(size)], done, LOST, engine, progress)
    return from_effects(effects.training, found)


def from_effects(training: Training, effects: Any) -> tuple[Draws, Draws]:
    """Give draws of both arms from values of runs on all data, and their changes."""
    old, change = by_draw(training, effects)
    return old[:, :, None], old[:, :, None] + change


def _allocate(part: tuple[np.ndarray, ...], size: tuple[int, int], axis: int) -> tuple[np.ndarray, ...]:
    def empty(leaf: np.ndarray) -> np.ndarray:
        shape = size[0], *leaf.shape[1:axis], size[1], *leaf.shape[axis + 1 :]
        return np.empty(shape, leaf.dtype)

    return tuple(map(empty, part))
