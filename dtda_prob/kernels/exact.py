"""Exact draws where the objective is quadratic: the oracle of every approximation."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dtda_prob.kernels import gaussian
from dtda_prob.kernels.kernel import Kernel, Phase, Start, State
from dtda_prob.program import Program
from dtda_prob.typing import PRNGKey, Weights


def exact(temperature: float = 1.0) -> Kernel:
    """Draw from exp(-n L(theta, w) / temperature) in closed form, for a quadratic objective L.

    That is Gaussian linear regression with known noise and Gaussian priors, where temperature 1 is
    the conjugate posterior N(mode, H^-1), H the Hessian of n L, and temperature 0 its mode. The same
    key gives the same standard normal noise whatever the weights.

    Args:
        temperature: at least 0.

    Raises:
        ValueError: if `temperature` is negative; in `Training`, if the objective is not quadratic.
    """
    if temperature < 0:
        raise ValueError(f"temperature={temperature} must be at least 0 (0 is the mode)")

    def init(previous: State, program: Program) -> Start:
        return Start(previous.params)

    def step(
        key: PRNGKey, state: Start, program: Program, weights: Weights
    ) -> tuple[Start, Float[Array, ""]]:
        start, unravel = ravel_pytree(state.params)

        def potential(theta: Float[Array, " parameter"]) -> Float[Array, ""]:
            return program.num_rows * program.objective(unravel(theta), weights)

        gradient, hessian = jax.grad(potential)(start), jax.hessian(potential)(start)
        root = jnp.linalg.cholesky(hessian)
        mode = start - jax.scipy.linalg.cho_solve((root, True), gradient)
        theta = gaussian.around(key, mode, root, temperature)
        return Start(unravel(theta)), potential(theta) / program.num_rows

    phase = Phase(
        init,
        step,
        num_steps=lambda program: 1,
        num_passes=lambda program: 1.0,
        check=_check_quadratic,
        step_sizes=lambda program: np.array([np.inf]),
        temperature=temperature,
        name="exact" if temperature else "exact mode",
    )
    return Kernel((phase,))


def _check_quadratic(program: Program) -> None:
    """Compare the curvature along one direction at three points."""
    theta, unravel = ravel_pytree(program.init(jax.random.key(0)))
    ones = jnp.ones(program.num_data, theta.dtype)
    direction = jax.random.normal(jax.random.key(1), theta.shape, theta.dtype)
    gradient = jax.grad(lambda theta: program.objective(unravel(theta), ones))
    slopes = jnp.stack([gradient(theta + step * direction) for step in (0.0, 1.0, 3.0)])
    first, second = slopes[1] - slopes[0], (slopes[2] - slopes[0]) / 3
    if not jnp.allclose(first, second, rtol=1e-3, atol=1e-4 * jnp.abs(first).max()):
        raise ValueError(
            "kernels.exact needs a quadratic objective (Gaussian likelihood with known noise, linear "
            "mean, Gaussian priors), and this program's is not; use another kernel"
        )
