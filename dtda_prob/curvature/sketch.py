"""Curvatures seen through random directions."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from dtda_prob.curvature.curvature import Curvature, Decompose, Spectrum, num_params, params_of
from dtda_prob.curvature.factor import bind_factor, flat, sum_rows
from dtda_prob.curvature.filters import Damping, Filter, check_damping, describe
from dtda_prob.curvature.krylov import bind_product
from dtda_prob.curvature.low_rank import low_rank
from dtda_prob.curvature.matrices import (
    MatrixLike,
    check_prior,
    num_features,
    prior_scale,
    resolve,
)
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

COLUMNS = 16
"""Directions that are multiplied at once."""


def nystroem(
    matrix: MatrixLike = "gauss_newton",
    *,
    rank: int,
    damping: Damping = "auto",
    rtol: float | None = None,
) -> Curvature:
    """Approximate H by the products with `rank` random directions, H O (O' H O)^-1 (H O)'.

    In the stable form of Frangella, Tropp and Udell (arXiv 2110.02820). Costs `rank` products; memory
    `rank` times P.

    Args:
        matrix: any but the Hessian.
        rank: number of directions.
        damping: see `Curvature`; 0 takes the pseudo-inverse.
        rtol: relative cutoff of the pseudo-inverse.

    Raises:
        ValueError: for bad damping; when bound, if the prior's Hessian is no multiple of the identity,
            or `rank` exceeds the rank that the matrix can have.
    """
    check_damping(damping)
    chosen = resolve(matrix, factored=True)

    def bind(program: Program) -> Decompose:
        multiply = bind_product(chosen, program, prior=False)
        check_prior(program, "nystroem", isotropic=True)
        check_rank("rank", rank, program, num_features(chosen, program))

        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            product = multiply(key, params, weights)
            theta, unravel = ravel_pytree(params)
            directions = jnp.linalg.qr(jax.random.normal(key, (theta.size, rank), theta.dtype))[0]

            def column(direction: Array) -> Array:
                return ravel_pytree(product(unravel(direction)))[0]

            image = jax.lax.map(column, directions.T, batch_size=COLUMNS).T
            nudge = jnp.finfo(theta.dtype).eps * jnp.linalg.norm(image)
            image = image + nudge * directions
            core = directions.T @ image
            values, vectors = jnp.linalg.eigh((core + core.T) / 2)
            root = image @ (vectors / jnp.sqrt(jnp.maximum(values, nudge)))
            left, singular, _ = jnp.linalg.svd(root, full_matrices=False)
            pairs = jnp.maximum(singular**2 - nudge, 0.0), left.T
            return low_rank(*jax.lax.stop_gradient(pairs), prior_scale(program, params), params)

        return decompose

    name = f"nystroem({chosen.name}, rank={rank}, damping={describe(damping)})"
    return Curvature(name, chosen, damping, bind, lambda program, num_solves: 2.0 * rank, rtol)


def projection(
    matrix: MatrixLike = "gauss_newton",
    *,
    dimension: int,
    damping: Damping = "auto",
    rtol: float | None = None,
) -> Curvature:
    """Invert the curvature between random directions, O f(O' H O) O', as TRAK does (arXiv 2303.14186).

    O is P x `dimension` with entries of variance 1 / `dimension`. Unlike in `nystroem`, what lies
    outside the directions has no response at all. Costs a pass over the rows; memory `dimension`
    times P.

    Args:
        matrix: any but the Hessian.
        dimension: number of directions.
        damping: see `Curvature`; 0 takes the pseudo-inverse.
        rtol: relative cutoff of the pseudo-inverse.

    Raises:
        ValueError: for bad damping; when bound, if the prior's Hessian is no multiple of the identity,
            or `dimension` exceeds the rank that the matrix can have.
    """
    check_damping(damping)
    chosen = resolve(matrix, factored=True)

    def bind(program: Program) -> Decompose:
        build = bind_factor(chosen, program)
        check_prior(program, "projection", isotropic=True)
        check_rank("dimension", dimension, program, num_features(chosen, program))

        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            theta, unravel = ravel_pytree(params)
            shape = (theta.size, dimension)
            directions = jax.random.normal(key, shape, theta.dtype) / dimension**0.5

            def contribution(rows: Params) -> Array:
                projected = flat(rows) @ directions
                return projected.T @ projected

            kernel = sum_rows(contribution, build(key, params, weights), program.num_data)
            shift = prior_scale(program, params)
            kernel = jax.lax.stop_gradient(kernel + shift * directions.T @ directions)
            values, vectors = jnp.linalg.eigh(kernel)
            values = jnp.maximum(values, 0.0)

            def apply(function: Filter, vector: Params) -> Params:
                projected = vectors.T @ (directions.T @ ravel_pytree(vector)[0])
                solved = vectors @ (function(values, values[-1]) * projected)
                return unravel(directions @ solved)

            return Spectrum(apply, values.sum() / theta.size)

        return decompose

    def passes(program: Program, num_solves: int) -> float:
        return float(num_features(chosen, program))

    name = f"projection({chosen.name}, dimension={dimension}, damping={describe(damping)})"
    return Curvature(name, chosen, damping, bind, passes, rtol)


def check_rank(name: str, rank: int, program: Program, num_features: int) -> None:
    """Refuse a sketch that is larger than the rank of what it sketches.

    Raises:
        ValueError: if it is, or is not positive.
    """
    size, rows = num_params(params_of(program)), num_features * program.num_rows
    if not 1 <= rank <= min(size, rows):
        raise ValueError(
            f"{name}={rank} must lie between 1 and {min(size, rows)}: the curvature has {size} "
            f"parameters and {rows} rows ({program.num_rows} data times {num_features} features), so a "
            "larger sketch would be rank-deficient"
        )
