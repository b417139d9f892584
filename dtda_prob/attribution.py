"""Distributional influence: how far each datum, removed, moves the distribution of a measurement."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.divergences import Divergence, Estimate, estimate, resolve
from dtda_prob.outcomes.sampling import draw_keys, pull_all, rematch, sample
from dtda_prob.perturbations import check_weights, num_removed
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, check_key

Draws = Float[np.ndarray, "draw ..."]
BLOCK = 2**22
"""Numbers per block of pairs that are compared at once."""


def attribute(
    kernel: Training | PushForward,
    key: PRNGKey,
    num_draws: int,
    divergences: Sequence[str | Divergence | Callable] = ("mean", "variance", "wasserstein"),
    perturbations: Any = None,
    *,
    direction: Literal["pull", "push"] | None = None,
    new_key: PRNGKey | None = None,
    num_permutations: int = 20,
    progress: bool = True,
) -> xr.Dataset:
    """Measure how the distribution of each query's measurement moves under each perturbation.

    By `pull`, one response per draw serves all perturbations: the new sample is the old one plus the
    response times the change of weights. By `push`, every perturbation is carried by itself, which
    costs a push each and keeps what is not linear (the space of the transform, or retraining).

    Args:
        kernel: a push-forward, or a training (which retrains, by push).
        key: one typed key; draws are those of `sample` with this key.
        num_draws: number of draws, at least 3.
        divergences: names, `Divergence`s or functions `(old, new) -> value`.
        perturbations: weights `(perturbation, datum)`; the removal of each datum in turn if None.
        direction: "pull" or "push"; pull for push-forwards and push for trainings if None.
        new_key: by push, the key of the new sample; if None it is `key`, so that arms are coupled.
        num_permutations: permutations for null levels.
        progress: show a progress bar on a terminal.

    Returns:
        A dataset with variables `score`, `error` (standard error), `null` (see
        `divergences.estimate`) and `rank` (1 is the largest absolute score of a query), and
        dimensions `divergence`, `query` and `datum` (or `perturbation`). A positive mean score says
        that the measurement falls when the datum is removed; a positive variance score, that it
        spreads.

    Raises:
        ValueError: for bad weights, unknown divergences or direction, or a training asked to pull.
    """
    check_key(key)
    chosen = [resolve(divergence) for divergence in divergences]
    training = kernel if isinstance(kernel, Training) else kernel.training
    direction = direction or ("push" if isinstance(kernel, Training) else "pull")
    weights = check_weights(training.program, perturbations)
    if perturbations is not None and weights.ndim == 1:
        weights = weights.expand_dims(perturbation=[0])
    if direction == "push":
        weights = weights if weights.ndim == 2 else _each_removed(weights)
        old, new = _arms_by_push(kernel, key, new_key, num_draws, weights, progress)
    elif direction == "pull" and isinstance(kernel, PushForward) and new_key is None:
        old, new = _arms_by_pull(kernel, key, num_draws, weights, progress)
    else:
        raise ValueError(
            f"direction={direction!r} must be 'push', or 'pull' with a push-forward and no new_key"
        )
    vector = old.ndim == 4
    coupled = new_key is None
    estimates = [_in_blocks(d, old, new, coupled, vector, num_permutations) for d in chosen]
    return _to_dataset(estimates, chosen, training, weights)


def _each_removed(weights: xr.DataArray) -> xr.DataArray:
    labels = weights["datum"].values
    single = 1.0 - np.eye(len(labels))
    coords = {"perturbation": labels, "datum": labels}
    return xr.DataArray(single, coords, ("perturbation", "datum"), attrs=weights.attrs)


def _arms_by_push(
    kernel: Training | PushForward,
    key: PRNGKey,
    new_key: PRNGKey | None,
    num_draws: int,
    weights: xr.DataArray,
    progress: bool,
) -> tuple[Draws, Draws]:
    """Give draws of both arms, `(draw, query, perturbation, *output)`."""
    training = kernel if isinstance(kernel, Training) else kernel.training
    name = training.measure.name

    def draws(source: Training | PushForward, key: PRNGKey, weights: Any) -> np.ndarray:
        tree = sample(
            source, key, num_draws, weights, num_chains=_num_chains(num_draws), progress=progress
        )
        values = tree["posterior_predictive"][name].transpose("draw", "chain", ...).values
        return values.reshape(num_draws, *values.shape[2:])

    old = draws(training, key, None)[:, :, None]
    new = draws(kernel, key if new_key is None else new_key, weights)
    return old, np.moveaxis(new, 1, 2)


def _num_chains(num_draws: int) -> int:
    """Give the fewest chains, at least 2, that the draws divide into."""
    return next(n for n in range(2, num_draws + 1) if num_draws % n == 0)


def _arms_by_pull(
    kernel: PushForward, key: PRNGKey, num_draws: int, weights: xr.DataArray, progress: bool
) -> tuple[Draws, Draws]:
    """Give draws of both arms, `(draw, query, datum or perturbation, *output)`."""
    removed = np.unique(num_removed(weights))
    if len(removed) > 1:
        raise ValueError(
            f"perturbations drop different numbers of rows ({removed.tolist()}), and each is another "
            "training: attribute them apart, by removal='reweight', or with direction='push'"
        )
    matched = rematch(kernel, int(removed[0]))
    ones = jnp.ones(kernel.training.program.num_data)
    old = np.asarray(jax.vmap(lambda k: matched.training.draw(k, ones).value)(draw_keys(key, num_draws)))
    shifts = [
        _shift(response, weights.values)
        for response in pull_all(matched.pull, key, num_draws, ones, progress)
    ]
    old = old[:, :, None]
    return old, old + np.stack(shifts)


def _shift(response: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Apply a response to each change of weights: `(query, perturbation or datum, *output)`."""
    shift = -response if weights.ndim == 1 else response @ (weights - 1).T.astype(response.dtype)
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
