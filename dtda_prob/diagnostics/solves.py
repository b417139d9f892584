"""Check a curvature: what its solve leaves, and how much of a measurement it cannot see."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key, PyTree

from dtda_prob.blocks import map_rows
from dtda_prob.compiling import compiled
from dtda_prob.curvature import Curvature
from dtda_prob.curvature.curvature import Spectrum
from dtda_prob.curvature.filters import NullSpace, relative
from dtda_prob.curvature.matrices import resolve
from dtda_prob.curvature.quadratic import Quadratic
from dtda_prob.studies.source import draw_keys
from dtda_prob.training import Training
from dtda_prob.transforms.influence import influence
from dtda_prob.transforms.push_forward import side_key
from dtda_prob.typing import Params, PRNGKey, Weights, check_key

QUERIES_AT_ONCE = 16
EVERYTHING = NullSpace(float("inf"))
"""A filter that leaves every vector as it is."""


def residuals(training: Training, curvature: Curvature, key: PRNGKey) -> xr.DataArray:
    """Compute |(H + damping I) x - v| / |v| for each query, where v is the gradient of its measurement.

    H is the curvature's whole matrix, applied by products, and x the curvature's own solution: the
    residual shows what an iteration has left and what an approximation gives away. Nothing is
    retrained. 0 is exact; above 1 the solution is worse than none. Where damping="auto" takes the
    distance of each parameter for its unit, all of them are in these units.

    Args:
        training: the stochastic kernel.
        curvature: one whose damping is a number or "auto".
        key: key of one draw.

    Raises:
        ValueError: if the curvature has no matrix, or its damping is relative.
    """
    check_key(key)
    if curvature.matrix is None:
        raise ValueError(f"{curvature} has no matrix, so it leaves no residual")
    if isinstance(curvature.damping, relative):
        raise ValueError(f"{curvature}: its damping is relative to the mean eigenvalue; pass a number")
    source = influence(training, curvature)
    values = np.asarray(compiled(_residuals)(source, draw_keys(key, 1)[0]))
    dims = ("query", "output")[: values.ndim]
    return xr.DataArray(values, {"query": training.measure.queries}, dims, name="residual")


def null_space(
    training: Training,
    curvature: Curvature,
    key: PRNGKey,
    *,
    num_draws: int = 4,
    rtol: float | None = None,
) -> xr.Dataset:
    """Compute |P0 g|^2 / |g|^2 for each query, where g is the gradient of its measurement.

    P0 projects on the eigenvectors of the curvature whose eigenvalues are at most `rtol` times the
    largest in size. The objective is flat along them: nothing brings parameters back, so where they end
    depends on the seed, and what a response predicts there is set by the damping. Costs a training and
    a decomposition per draw, and a product per query.

    Args:
        training: the stochastic kernel.
        curvature: one that can apply any function of its eigenvalues. For `lanczos` and `nystroem`
            whatever they have not captured counts as flat, up to the prior's curvature.
        key: key of the draws.
        num_draws: number of draws.
        rtol: relative cutoff; the curvature's own, for its pseudo-inverse, if None.

    Returns:
        `share`, per draw and query (NaN where a gradient is zero), and `random_share`, per draw, for a
        random direction, which is about the share of dimensions that are flat.

    Raises:
        ValueError: if the curvature applies inverses only, or works between random directions.
    """
    check_key(key)
    if curvature.inverse_only:
        raise ValueError(
            f"curvature={curvature} can apply inverses alone, not the projection on its null "
            "space; take dense or gram (factorization='eigen'), kronecker, lanczos, nystroem, "
            "block_diagonal or diagonal"
        )
    curvature.check(training.program)
    keys = draw_keys(key, num_draws)
    share, random_share, lost = map(np.asarray, compiled(_shares)(training, curvature, rtol, keys))
    if (lost > 1e-2).any():
        raise ValueError(
            f"curvature={curvature} works between random directions and has no eigenvalues on all "
            "parameters, so no null space either; take dense, gram, kronecker, lanczos or nystroem"
        )
    dims = ("draw", "query", "output")[: share.ndim]
    return xr.Dataset(
        {"share": (dims, share), "random_share": ("draw", random_share)},
        {"query": training.measure.queries},
        attrs={"curvature": repr(curvature)},
    )


def _residuals(source: influence, key: PRNGKey) -> Float[Array, "query *output"]:
    training, curvature = source.training, source.settled
    assert curvature is not None
    damping: Any = curvature.damping
    weights = training.program.full_weights()
    outcome = source.drawn(key, weights)
    params, distances = last_state(source.states(key, outcome, weights))
    scale = None if distances is None else source.scale(distances)
    moving = source.moving
    at = training.program, resolve(curvature.matrix), side_key(key), params, weights, moving, scale
    h = Quadratic(*at)
    spectrum = curvature.decompose(h)
    inverse = curvature.inverse(spectrum, h.point, training.total_step_size)

    def residual(gradient: Params) -> Float[Array, ""]:
        gradient = moving.part(gradient)
        if scale is not None:
            gradient = jax.tree.map(jnp.multiply, gradient, scale)
        solution = spectrum.apply(inverse, gradient)
        damped = optax.tree.add_scale(h.product(solution), damping, solution)
        return optax.tree.norm(optax.tree.sub(damped, gradient)) / optax.tree.norm(gradient)

    return map_gradients(residual, training, params)


def _shares(
    training: Training, curvature: Curvature, rtol: float | None, keys: Key[Array, " draw"]
) -> tuple[Float[Array, "draw query *output"], Array, Array]:
    weights = training.program.full_weights()

    def of_draw(key: PRNGKey) -> tuple[Array, Array, Array]:
        params = _end(training, key, weights)
        spectrum = curvature.at(training.program, side_key(key), params, weights)
        flat = NullSpace(curvature.cutoff(params) if rtol is None else rtol)
        # Sketches start from the side key itself, and would know a probe that was drawn with it.
        probe_key = jax.random.fold_in(side_key(key), 1)
        probe = optax.tree.random_like(probe_key, params, jax.random.normal)
        shares = map_gradients(lambda gradient: _share(spectrum, flat, gradient), training, params)
        return shares, _share(spectrum, flat, probe), _lost(spectrum, probe)

    return jax.lax.map(of_draw, keys)


def _end(training: Training, key: PRNGKey, weights: Weights) -> Params:
    """Return the parameters at the end of a run."""
    return last_state(training.kernel.run(key, training.program, weights).params)


def last_state(tree: PyTree) -> PyTree:
    """Return the last state of a run."""
    return jax.tree.map(lambda leaf: leaf[-1], tree)


def map_gradients(function: Callable[[Params], Any], training: Training, params: Params) -> Any:
    """Apply a function to the gradient of each measured value; results lead with `(query, *output)`."""
    value, pullback = jax.vjp(lambda params: training.observe(params)[1], params)
    basis = jnp.eye(value.size, dtype=value.dtype).reshape(value.size, *value.shape)
    each = map_rows(lambda row: function(pullback(row)[0]), basis, QUERIES_AT_ONCE)
    return jax.tree.map(lambda leaf: leaf.reshape(*value.shape, *leaf.shape[1:]), each)


def _share(spectrum: Spectrum, flat: NullSpace, vector: Params) -> Float[Array, ""]:
    part = spectrum.apply(flat, vector)
    return jnp.asarray(optax.tree.norm(part, squared=True) / optax.tree.norm(vector, squared=True))


def _lost(spectrum: Spectrum, vector: Params) -> Float[Array, ""]:
    """Compute the relative part of a vector that is lost although every eigenvalue is kept."""
    kept = spectrum.apply(EVERYTHING, vector)
    return jnp.asarray(optax.tree.norm(optax.tree.sub(kept, vector)) / optax.tree.norm(vector))
