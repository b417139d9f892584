"""The Hessian through its products with vectors alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dtda_prob.curvature.curvature import Curvature, check_damping
from dtda_prob.typing import Objective, Params


def conjugate_gradient(damping: float, *, tolerance: float = 1e-4, max_steps: int = 200) -> Curvature:
    """Solve (H + damping I) x = v by conjugate gradients, never forming H.

    The matrix must be positive definite, so a network's Hessian wants damping. A solution whose
    residual stays above ten times the tolerance is returned as NaN, so that it cannot pass for one.

    Args:
        damping: added to H, in units of the objective per squared parameter.
        tolerance: norm of the residual relative to that of v.
        max_steps: products with H at most, per solve.

    Raises:
        ValueError: if `damping` is negative or not finite.
    """
    check_damping(damping)

    def solve(objective: Objective, params: Params, vector: Params) -> Params:
        def product(direction: Params) -> Params:
            along = jax.jvp(jax.grad(objective), (params,), (direction,))[1]
            return jax.tree.map(lambda h, x: h + damping * x, along, direction)

        def checked(product: Callable[[Params], Params], vector: Params) -> Params:
            found, _ = jax.scipy.sparse.linalg.cg(product, vector, tol=tolerance, maxiter=max_steps)
            residual = optax.tree.norm(optax.tree.sub(product(found), vector))
            solved = residual <= 10 * tolerance * optax.tree.norm(vector)
            return jax.tree.map(lambda x: jnp.where(solved, x, jnp.nan), found)

        return jax.lax.custom_linear_solve(product, vector, checked, symmetric=True)

    return Curvature(
        f"conjugate_gradient(damping={damping:g})",
        solve,
        lambda num_params, num_solves: 2.0 * max_steps * num_solves,
    )
