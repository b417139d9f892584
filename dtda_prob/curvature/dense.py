"""The Hessian as a matrix, for small models."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dtda_prob.curvature.curvature import Curvature, check_damping
from dtda_prob.typing import Objective, Params


def dense(damping: float = 0.0, rtol: float | None = None) -> Curvature:
    """Invert H + damping I through its eigendecomposition, as a pseudo-inverse.

    Eigenvalues with absolute value at most `rtol` times the largest are treated as zero, so that a
    singular Hessian has an answer: the least move. Costs P^2 memory and P^3 time for P parameters.

    Args:
        damping: added to every eigenvalue, in units of the objective per squared parameter.
        rtol: relative cutoff; P times the machine epsilon if None.

    Raises:
        ValueError: if `damping` is negative or not finite.
    """
    check_damping(damping)

    def solve(objective: Objective, params: Params, vector: Params) -> Params:
        theta, unravel = ravel_pytree(params)
        matrix = jax.hessian(lambda theta: objective(unravel(theta)))(theta)
        values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(matrix))
        values = values + damping
        cutoff = (theta.size * jnp.finfo(theta.dtype).eps if rtol is None else rtol) * jnp.max(
            jnp.abs(values)
        )
        inverse = jnp.where(jnp.abs(values) > cutoff, 1 / values, 0.0)
        return unravel(vectors @ (inverse * (vectors.T @ ravel_pytree(vector)[0])))

    return Curvature(
        f"dense(damping={damping:g})", solve, lambda num_params, num_solves: 2.0 * num_params
    )
