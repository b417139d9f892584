"""Can a push-forward be trusted: its range, the residuals of its solves, the tail of its weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from dtda_prob import kernels
from dtda_prob.curvature import Curvature
from dtda_prob.curvature.krylov import bind_product
from dtda_prob.outcomes.draws import draw_keys
from dtda_prob.perturbations import check_weights, num_removed
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.response import side_key
from dtda_prob.transforms.reweigh import population
from dtda_prob.typing import Params, PRNGKey, Weights, check_key

QUERIES_AT_ONCE = 16
_ENDS = ("old", "midpoint")


def linear_range(
    push_forward: PushForward,
    key: PRNGKey,
    perturbations: Any,
    *,
    num_draws: int = 4,
    num_segments: int = 4,
) -> xr.Dataset:
    """Say how far the steps asked for lie within the range of a transform.

    Costs a training and two or three pushes for each draw and perturbation.

    Args:
        push_forward: what predicts.
        key: key of the draws.
        perturbations: weights `(perturbation, datum)`; all must drop the same number of rows.
        num_draws: number of draws.
        num_segments: points along training at which `growth` is taken.

    Returns:
        Per draw and perturbation: `norm_ratio`, the length (over queries) of the predicted step
        over that of the step of retraining with the same key, and `cosine`, of the angle between
        them: both 1 where the prediction is right. `halves`, for transforms with a response: the
        difference between the responses at the old weights and halfway, relative to the latter: 0
        where the outcome is linear in the weights, and near 1 where a derivative is useless.
        `growth`: the exact derivative of the parameters along the step after each share of
        training, as a norm: where it explodes, training is unstable and its derivative of no use.

    Raises:
        ValueError: for bad weights or perturbations that drop different numbers of rows.
    """
    check_key(key)
    weights = check_weights(push_forward.training.program, perturbations)
    weights = weights if weights.ndim == 2 else weights.expand_dims("perturbation")
    removed = np.unique(num_removed(weights))
    if len(removed) > 1:
        raise ValueError(f"perturbations drop {removed.tolist()} rows: diagnose them apart")
    fitting = push_forward.matched(int(removed[0]))
    variants = [] if fitting.at is None else [fitting.rebuild(fitting.training, at) for at in _ENDS]
    measure = partial(_steps, fitting, variants, num_segments)
    pairs = _over_pairs(measure, key, num_draws, weights)
    names = ("norm_ratio", "cosine", "halves", "growth")
    dims = ("draw", "perturbation")
    fields = {
        name: (dims if name != "growth" else (*dims, "share"), values)
        for name, values in zip(names, pairs, strict=True)
    }
    shares = np.linspace(0, 1, pairs[-1].shape[-1] + 1)[1:]
    coords = {"share": shares}
    if "perturbation" in weights.coords:
        coords["perturbation"] = weights["perturbation"].values
    return xr.Dataset(fields, coords, attrs={"transform": push_forward.name})


def residuals(training: Training, curvature: Curvature, key: PRNGKey) -> xr.DataArray:
    """Give |(H + damping I) x - v| / |v| of each query, v the gradient of its measurement.

    H is the curvature's whole matrix, by its products, and x what the curvature gives for its inverse:
    the residual tells what an iteration has left, and what an approximation gives away. It needs no
    retraining; 0 is exact, and above 1 the solution is worse than none.

    Args:
        training: the stochastic kernel.
        curvature: with a damping that is a number or "auto".
        key: key of one draw.

    Raises:
        ValueError: if the curvature has no matrix, or its damping is relative.
    """
    check_key(key)
    if curvature.matrix is None:
        raise ValueError(f"{curvature.name} has no matrix, so that it leaves no residual")
    damping = curvature.damping_of(training.total_step_size)
    multiply = bind_product(curvature.matrix, training.program)
    decompose = curvature.bind(training.program)
    choose = curvature.inverse_filter(training.total_step_size)
    weights = training.program.full_weights()

    @jax.jit
    def measure(key: PRNGKey) -> Float[Array, " row"]:
        params = training.draw(key, weights).params
        spectrum = decompose(side_key(key), params, weights)
        inverse, product = choose(spectrum, params), multiply(side_key(key), params, weights)
        value, pullback = jax.vjp(lambda params: training.observe(params)[1], params)

        def residual(cotangent: Array) -> Float[Array, ""]:
            slope = pullback(cotangent)[0]
            found = spectrum.apply(inverse, slope)
            left = optax.tree.sub(optax.tree.add_scale(product(found), damping, found), slope)
            return optax.tree.norm(left) / optax.tree.norm(slope)

        basis = jnp.eye(value.size, dtype=value.dtype).reshape(value.size, *value.shape)
        return jax.lax.map(residual, basis, batch_size=QUERIES_AT_ONCE).reshape(value.shape)

    found = np.asarray(measure(draw_keys(key, 1)[0]))
    dims = ("query", "output")[: found.ndim]
    return xr.DataArray(found, {"query": training.measure.queries}, dims, name="residual")


def pareto_k(
    training: Training,
    key: PRNGKey,
    perturbations: Any,
    *,
    num_draws: int = 256,
    match_moments: bool = False,
) -> xr.DataArray:
    """Give the Pareto k-hat of the importance weights of each perturbation; see `reweigh`.

    Below 0.7 the weights carry samples of the posterior reliably; above, remove less, take more draws,
    match moments, or refit (Vehtari et al., arXiv 1507.02646).

    Args:
        training: the stochastic kernel, which must draw from a posterior.
        key: key of the population.
        perturbations: weights `(perturbation, datum)`.
        num_draws: size of the population.
        match_moments: see `reweigh`.
    """
    check_key(key)
    weights = check_weights(training.program, perturbations)
    old = training.program.full_weights()
    find = partial(population, training, key, num_draws, match_moments, old)

    @jax.jit
    def each(rows: Float[Array, "perturbation datum"]) -> Float[Array, " perturbation"]:
        return jax.lax.map(lambda new: find(new).pareto_k, rows)

    found = np.asarray(each(jnp.atleast_2d(jnp.asarray(weights.values, old.dtype))))
    return weights.isel(datum=0, drop=True).copy(data=found.reshape(weights.shape[:-1])).rename("k_hat")


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
        return kernels.path(training.kernel, key, training.program, weights, num_segments).ends

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
    return [np.asarray(found) for found in each(rows)]
