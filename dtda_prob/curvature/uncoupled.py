"""Curvatures that ignore what couples parameters: by site, by scalar, or altogether."""

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from dtda_prob.curvature.curvature import Curvature, Decompose, Spectrum, num_params
from dtda_prob.curvature.dense import by_eigen
from dtda_prob.curvature.factor import bind_factor, flat, sum_rows
from dtda_prob.curvature.filters import Damping, Filter, check_damping, describe
from dtda_prob.curvature.matrices import (
    MatrixLike,
    check_prior,
    num_features,
    prior_diagonal,
    resolve,
)
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


def block_diagonal(
    matrix: MatrixLike = "gauss_newton", *, damping: Damping = "auto", rtol: float | None = None
) -> Curvature:
    """Keep the block of each array of parameters, and nothing between arrays.

    Costs a pass over the rows and the cube of each array's size; memory the squares of the sizes.

    Args:
        matrix: any but the Hessian.
        damping: see `Curvature`; 0 takes the pseudo-inverse.
        rtol: relative cutoff of the pseudo-inverse.

    Raises:
        ValueError: for bad damping; when bound, if the prior's Hessian is not diagonal.
    """
    check_damping(damping)
    chosen = resolve(matrix, factored=True)

    def bind(program: Program) -> Decompose:
        build = bind_factor(chosen, program)
        check_prior(program, "block_diagonal", isotropic=False)

        def contribution(rows: Params) -> list[Array]:
            parts = [flat(leaf) for leaf in jax.tree.leaves(rows)]
            return [part.T @ part for part in parts]

        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            blocks = sum_rows(contribution, build(key, params, weights), program.num_data)
            prior = jax.tree.leaves(prior_diagonal(program, params))
            whole = [b + jnp.diag(p.ravel()) for b, p in zip(blocks, prior, strict=True)]
            multiply = [by_eigen(block) for block in jax.lax.stop_gradient(whole)]

            def apply(function: Filter, vector: Params) -> Params:
                leaves, structure = jax.tree.flatten(vector)
                solved = [
                    m(function, leaf.ravel()).reshape(leaf.shape)
                    for m, leaf in zip(multiply, leaves, strict=True)
                ]
                return structure.unflatten(solved)

            trace = jnp.stack([jnp.trace(block) for block in whole]).sum()
            return Spectrum(apply, trace / num_params(params))

        return decompose

    def passes(program: Program, num_solves: int) -> float:
        return float(num_features(chosen, program))

    name = f"block_diagonal({chosen.name}, damping={describe(damping)})"
    return Curvature(name, chosen, damping, bind, passes, rtol)


def diagonal(
    matrix: MatrixLike = "gauss_newton", *, damping: Damping = "auto", rtol: float | None = None
) -> Curvature:
    """Keep the diagonal alone. Costs a pass over the rows; memory P.

    Args:
        matrix: any but the Hessian.
        damping: see `Curvature`; 0 takes the pseudo-inverse.
        rtol: relative cutoff of the pseudo-inverse.

    Raises:
        ValueError: for bad damping; when bound, if the prior's Hessian is not diagonal.
    """
    check_damping(damping)
    chosen = resolve(matrix, factored=True)

    def bind(program: Program) -> Decompose:
        build = bind_factor(chosen, program)
        check_prior(program, "diagonal", isotropic=False)

        def contribution(rows: Params) -> Params:
            return jax.tree.map(lambda leaf: jnp.sum(leaf**2, axis=0), rows)

        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            squares = sum_rows(contribution, build(key, params, weights), program.num_data)
            values = jax.lax.stop_gradient(optax.tree.add(squares, prior_diagonal(program, params)))
            flat_values = ravel_pytree(values)[0]
            largest = jnp.max(flat_values)

            def apply(function: Filter, vector: Params) -> Params:
                return jax.tree.map(lambda h, v: function(h, largest) * v, values, vector)

            return Spectrum(apply, flat_values.mean())

        return decompose

    def passes(program: Program, num_solves: int) -> float:
        return float(num_features(chosen, program))

    name = f"diagonal({chosen.name}, damping={describe(damping)})"
    return Curvature(name, chosen, damping, bind, passes, rtol)


def identity(*, damping: Damping = "auto") -> Curvature:
    """Know of no curvature but the damping: the response is a multiple of the gradient.

    Args:
        damping: see `Curvature`; above 0. With "auto" the response is that of gradient descent over
            the time of training on a flat objective.

    Raises:
        ValueError: if `damping` is not positive.
    """
    check_damping(damping, "identity")

    def bind(program: Program) -> Decompose:
        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            def apply(function: Filter, vector: Params) -> Params:
                return optax.tree.scale(function(jnp.zeros(()), 0.0), vector)

            return Spectrum(apply, jnp.ones(()))

        return decompose

    name = f"identity(damping={describe(damping)})"
    return Curvature(name, None, damping, bind, lambda program, num_solves: 0.0, inverse_only=True)
