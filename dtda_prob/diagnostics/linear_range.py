"""Check predicted steps against retraining with the same keys."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key

from dtda_prob.compiling import compiled
from dtda_prob.perturbations import check_weights, num_removed
from dtda_prob.studies.check import changes_group
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
        perturbations: weights `(perturbation, example)`; all must drop the same number of rows.
        num_draws: number of draws.
        num_segments: points along training at which `growth` is taken.

    Returns:
        Per draw and perturbation `norm_ratio`, the length (over queries) of the predicted step divided
        by the length of the step of retraining with the same key, and `cosine`, of the angle between
        them: both 1 if the prediction is right. Per perturbation `group`, whether it changes the
        weights of more than one example, so that its length must be right more narrowly. For transforms
        with a response `halves`, the difference between the responses at the old weights and halfway,
        relative to the latter: 0 where the outcome is linear in the weights, near 1 where a derivative
        is useless. And `growth`, the norm of the exact derivative of the parameters along the step
        after each share of training: if it explodes, training is unstable and its derivative useless.

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
    rows = jnp.asarray(weights.values, jnp.result_type(float))
    keys = draw_keys(key, num_draws)
    pairs = [np.asarray(each) for each in compiled(_pairs)(fitting, variants, num_segments, keys, rows)]
    dims = ("draw", "perturbation", "share")
    fields = {name: (dims[: each.ndim], each) for name, each in zip(FIELDS, pairs, strict=True)}
    coords = {"share": np.linspace(0, 1, pairs[-1].shape[-1] + 1)[1:]}
    old = push_forward.training.program.full_weights()
    fields["group"] = (("perturbation",), changes_group(weights, old))
    if "perturbation" in weights.coords:
        coords["perturbation"] = weights["perturbation"].values
    return xr.Dataset(fields, coords, attrs={"transform": push_forward.name})


def _pairs(
    push_forward: PushForward,
    variants: list[PushForward],
    num_segments: int,
    keys: Key[Array, " draw"],
    rows: Float[Array, "perturbation example"],
) -> tuple[Array, ...]:
    """Compare steps for each draw and perturbation, one at a time."""
    old = push_forward.training.program.full_weights()

    def of_draw(key: PRNGKey) -> tuple[Array, ...]:
        base = push_forward.training.draw(key, old).value

        def of_pair(new: Weights) -> tuple[Array, ...]:
            true = (push_forward.training.draw(key, new).value - base).ravel()
            predicted, *ends = (
                (each.push(key, old, new).value - base).ravel() for each in (push_forward, *variants)
            )
            length, norm = jnp.linalg.norm(predicted), jnp.linalg.norm(true)
            growth = _growth(push_forward.training, key, old, new, num_segments)
            return length / norm, predicted @ true / (length * norm), _apart(*ends), growth

        return jax.lax.map(of_pair, rows)

    return jax.lax.map(of_draw, keys)


def _apart(*ends: Array) -> Array:
    """Compute how far responses at the old weights and halfway are apart; NaN without responses."""
    if not ends:
        return jnp.full((), jnp.nan)
    start, halfway = ends
    return jnp.linalg.norm(start - halfway) / jnp.linalg.norm(halfway)


def _growth(
    training: Training, key: PRNGKey, old: Weights, new: Weights, num_segments: int
) -> Float[Array, " share"]:
    def ends(weights: Weights) -> Params:
        return training.kernel.path(key, training.program, weights, num_segments).ends

    return jax.vmap(optax.tree.norm)(jax.jvp(ends, (old,), (new - old,))[1])
