"""Laplace's approximation: a Gaussian around a mode, as wide as the objective is flat there."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dtda_prob.kernels import gaussian, minimum
from dtda_prob.kernels.kernel import Kernel
from dtda_prob.kernels.lbfgs import RestState, at_rest, descend
from dtda_prob.kernels.minimum import Search, Solve
from dtda_prob.program import Program
from dtda_prob.typing import PRNGKey, Weights


def laplace(
    temperature: float = 1.0,
    *,
    tolerance: float | None = None,
    max_steps: int = 1000,
    memory_size: int = 10,
    solve: Solve = "dense",
) -> Kernel:
    """Draw from N(mode, temperature H^-1), with H the Hessian of n L at a mode that L-BFGS finds.

    That is exp(-n L(theta, w) / temperature) to second order around the mode, and `exact` where L is
    quadratic. Its randomness is where the search starts and the draw, whose standard normal noise the
    key fixes. `unroll` differentiates both the mode and the spread. Where H is not positive definite
    (a saddle, a flat direction without a prior) the draw is not a number, and counts as `diverging`.

    Args:
        temperature: at least 0; 0 is the mode.
        tolerance: see `lbfgs`, as for the others.
        max_steps: of the search.
        memory_size: of L-BFGS.
        solve: how the derivative of the mode inverts H. The draw needs H as a matrix in any case.

    Raises:
        ValueError: if `temperature` is negative or a setting of the search makes no sense.

    >>> laplace(temperature=0.5).phases[-1].temperature
    0.5
    """
    if temperature < 0:
        raise ValueError(f"temperature={temperature} must be at least 0 (0 is the mode)")
    search = minimum.check(Search(tolerance, max_steps, memory_size, solve))

    def step(
        key: PRNGKey, state: RestState, program: Program, weights: Weights
    ) -> tuple[RestState, Float[Array, ""]]:
        rest = descend(key, state.params, program, weights, search)
        root = jnp.linalg.cholesky(program.num_rows * jax.hessian(rest.potential)(rest.theta))
        theta = gaussian.around(key, rest.theta, root, temperature)
        return RestState(rest.unravel(theta), rest.ending), rest.potential(theta)

    return Kernel((at_rest("laplace", step, search, temperature),))
