"""A minimum of an objective, with the derivative of the implicit function theorem."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

Vector = Float[Array, " parameter"]
Potential = Callable[[Vector], Float[Array, ""]]
Linear = Callable[[Vector], Vector]
Solve = Literal["dense", "conjugate_gradient"]


class Ending(NamedTuple):
    """Statistics of a search.

    Attributes:
        gradient_norm: the norm of the gradient of L at the end.
        num_steps: steps taken.
        num_gradients: evaluations of L and its gradient, line searches included.
        converged: whether the norm is below the tolerance.
    """

    gradient_norm: Float[Array, ""]
    num_steps: Int[Array, ""]
    num_gradients: Int[Array, ""]
    converged: Bool[Array, ""]


def not_begun(dtype: Any) -> Ending:
    """Return placeholder statistics, before the search."""
    zero = jnp.zeros((), int)
    return Ending(jnp.full((), jnp.inf, dtype), zero, zero, jnp.array(False))


def least_gradient(dtype: Any) -> float:
    """Return about what rounding leaves of the norm of a gradient of size 1."""
    return float(jnp.finfo(dtype).eps) ** 0.75


def find(
    potential: Potential,
    start: Vector,
    tolerance: float | None,
    max_steps: int,
    memory_size: int,
    solve: Solve,
) -> tuple[Vector, Ending]:
    """Find a minimum near the start by L-BFGS with a zoom line search.

    Its derivative with respect to whatever the potential closes over is -H^+ d(grad), by the implicit
    function theorem; with respect to the start it is zero.
    """

    def descend(_: Callable, start: Vector) -> tuple[Vector, Ending]:
        return _descend(potential, start, tolerance, max_steps, memory_size)

    invert = _by_conjugate_gradient if solve == "conjugate_gradient" else _densely
    return jax.lax.custom_root(jax.grad(potential), start, descend, invert, has_aux=True)


class _Position(NamedTuple):
    theta: Vector
    state: Any
    moved: Bool[Array, ""]
    num_steps: Int[Array, ""]
    num_gradients: Int[Array, ""]


def _descend(
    potential: Potential, start: Vector, tolerance: float | None, max_steps: int, memory_size: int
) -> tuple[Vector, Ending]:
    """Step until the gradient is small, steps run out, or the position stops changing."""
    optimizer = optax.lbfgs(memory_size=memory_size)
    evaluate = optax.value_and_grad_from_state(potential)
    least = least_gradient(start.dtype) if tolerance is None else tolerance

    def carries_on(position: _Position) -> Bool[Array, ""]:
        steep = _gradient_norm(position.state) > least
        return (position.num_steps == 0) | (steep & position.moved & (position.num_steps < max_steps))

    def step(position: _Position) -> _Position:
        theta, state, _, num_steps, num_gradients = position
        value, gradient = evaluate(theta, state=state)
        updates, state = optimizer.update(
            gradient, state, theta, value=value, grad=gradient, value_fn=potential
        )
        tried = optax.tree.get(state, "num_linesearch_steps")
        new = jax.tree.map(jnp.add, theta, updates)
        return _Position(new, state, jnp.any(new != theta), num_steps + 1, num_gradients + tried)

    zero = jnp.zeros((), int)
    begin = _Position(start, optimizer.init(start), jnp.array(True), zero, zero + 1)
    end = jax.lax.while_loop(carries_on, step, begin)
    norm = _gradient_norm(end.state)
    return end.theta, Ending(norm, end.num_steps, end.num_gradients, norm <= least)


def _gradient_norm(state: Any) -> Float[Array, ""]:
    return jnp.linalg.norm(optax.tree.get(state, "grad"))


def _by_conjugate_gradient(hessian: Linear, right: Vector) -> Vector:
    """Solve to the square root of the precision; a singular Hessian is inverted on its range.

    Returns NaN where the solve does not converge.
    """
    tolerance = float(jnp.finfo(right.dtype).eps) ** 0.5

    def solve(product: Linear, vector: Vector) -> Vector:
        solution, _ = jax.scipy.sparse.linalg.cg(product, vector, tol=tolerance)
        residual = jnp.linalg.norm(product(solution) - vector)
        solved = residual <= 2 * tolerance * jnp.linalg.norm(vector)
        return jnp.where(solved, solution, jnp.nan)

    return jax.lax.custom_linear_solve(hessian, right, solve, symmetric=True)


def _densely(hessian: Linear, right: Vector) -> Vector:
    return jnp.linalg.pinv(jax.jacobian(hessian)(right), hermitian=True) @ right
