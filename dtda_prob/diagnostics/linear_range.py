"""Check predicted steps against retraining with the same keys."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from dtda_prob.perturbations import check_weights, num_removed
from dtda_prob.studies.source import draw_keys
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.push_forward import check_differentiable
from dtda_prob.typing import Params, PRNGKey, Weights, check_key

ENDS = ("old", "midpoint")
FIELDS = ("norm_ratio", "cosine", "halves", "growth")


def linear_range(
    push_forward: PushForward,
    key: PRNGKey,
    perturbations: Any,
    *,
    num_draws: int = 4,
    num_segments: int = 4,
) -> xr.Dataset:
    """Compare predicted steps with retrained ones, to see whether they are in a transform's range.

    Costs a training and two or three pushes for each draw and perturbation.

    Args:
        push_forward: the transform that predicts.
        key: key of the draws.
        perturbations: weights `(perturbation, datum)`; all must drop the same number of rows.
        num_draws: number of draws.
        num_segments: points along training at which `growth` is taken.

    Returns:
        Per draw and perturbation `norm_ratio`, the length (over queries) of the predicted step divided
        by the length of the step of retraining with the same key, and `cosine`, of the angle between
        them: both 1 if the prediction is right. For transforms with a response `halves`, the difference
        between the responses at the old weights and halfway, relative to the latter: 0 where the
        outcome is linear in the weights, near 1 where a derivative is useless. And `growth`, the norm
        of the exact derivative of the parameters along the step after each share of training: if it
        explodes, training is unstable and its derivative useless.

    Raises:
        ValueError: for bad weights, perturbations that drop different numbers of rows, or a kernel
            without a derivative, whose single draws do not follow the weights.
    """
    check_key(key)
    check_differentiable(push_forward.training, "linear_range")
    weights = check_weights(push_forward.training.program, perturbations)
    weights = weights if weights.ndim == 2 else weights.expand_dims("perturbation")
    removed = np.unique(num_removed(weights))
    if len(removed) > 1:
        raise ValueError(f"perturbations drop {removed.tolist()} rows: diagnose each number separately")
    fitting = push_forward.matched(int(removed[0]))
    variants = [] if fitting.at is None else [replace(fitting, at=at) for at in ENDS]
    measure = partial(_steps, fitting, variants, num_segments)
    pairs = _over_pairs(measure, key, num_draws, weights)
    dims = ("draw", "perturbation", "share")
    fields = {name: (dims[: each.ndim], each) for name, each in zip(FIELDS, pairs, strict=True)}
    coords = {"share": np.linspace(0, 1, pairs[-1].shape[-1] + 1)[1:]}
    if "perturbation" in weights.coords:
        coords["perturbation"] = weights["perturbation"].values
    return xr.Dataset(fields, coords, attrs={"transform": push_forward.name})


def _steps(
    push_forward: PushForward,
    variants: list[PushForward],
    num_segments: int,
    key: PRNGKey,
    new: Weights,
) -> tuple[Array, Array, Array, Array]:
    training, old = push_forward.training, push_forward.training.program.full_weights()
    base = training.draw(key, old).value
    true = (training.draw(key, new).value - base).ravel()
    predicted = (push_forward.push(key, old, new).value - base).ravel()
    ratio = jnp.linalg.norm(predicted) / jnp.linalg.norm(true)
    cosine = predicted @ true / (jnp.linalg.norm(predicted) * jnp.linalg.norm(true))
    return (
        ratio,
        cosine,
        _halves(variants, key, old, new),
        _growth(training, key, new, num_segments),
    )


def _halves(variants: list[PushForward], key: PRNGKey, old: Weights, new: Weights) -> Array:
    """Compare the responses at the old weights and halfway, along the step."""
    if not variants:
        return jnp.full((), jnp.nan)
    base = variants[0].training.draw(key, old).value
    there, halfway = (variant.push(key, old, new).value - base for variant in variants)
    return jnp.linalg.norm(there - halfway) / jnp.linalg.norm(halfway)


def _growth(
    training: Training, key: PRNGKey, new: Weights, num_segments: int
) -> Float[Array, " share"]:
    old = training.program.full_weights()

    def ends(weights: Weights) -> Params:
        return training.kernel.path(key, training.program, weights, num_segments).ends

    tangents = jax.jvp(ends, (old,), (new - old,))[1]
    return jax.vmap(optax.tree.norm)(tangents)


def _over_pairs(
    function: Callable, key: PRNGKey, num_draws: int, weights: xr.DataArray
) -> list[np.ndarray]:
    """Map over draws and perturbations, one at a time."""

    @jax.jit
    def each(rows: Float[Array, "perturbation datum"]) -> Any:
        def of_draw(key: PRNGKey) -> Any:
            return jax.lax.map(lambda new: function(key, new), rows)

        return jax.lax.map(of_draw, draw_keys(key, num_draws))

    rows = jnp.asarray(weights.values, jnp.result_type(float))
    return [np.asarray(values) for values in each(rows)]
