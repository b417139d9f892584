"""Kernels of one step that ends at a mode of the objective, or draws from a Gaussian around it."""

from dataclasses import KW_ONLY
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from dtda_prob.compiling import compiled
from dtda_prob.kernels import minimum
from dtda_prob.kernels.kernel import Phase, Sizes, Start, State, Step
from dtda_prob.kernels.minimum import Ending, Potential, Solve, Vector
from dtda_prob.kernels.settings import check_positive
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

SPREAD = 100.0
"""How far searches end from a minimum, over the tolerance: one over its least curvature, as a rule."""
MODEL_STREAM = 0x6D6F6465
"""Folded into a step's key for the model's own randomness; the rest of the step uses the key itself."""


class ModeState(NamedTuple):
    """Parameters, and how the search for the mode ended."""

    params: Params
    ending: Ending


class AtRest(Phase):
    """A kernel of one step, which ends at a stationary point of its objective."""

    def count_steps(self, program: Program) -> int:
        return 1

    def step_sizes(self, program: Program) -> Sizes:
        return np.array([np.inf])


class lbfgs(AtRest):
    """Minimise the objective over all data by L-BFGS, until the norm of its gradient is small.

    Its randomness is the initialisation, which matters where there are several minima; what a model
    draws by itself (dropout) is drawn once a run. `unroll` takes the derivative of the implicit
    function theorem, -H^+ d(grad L)/dw, H the Hessian at the minimum: directions without curvature do
    not move. Where the search does not converge the derivative means nothing: such a draw is kept, and
    `sample_stats` has it as not `converged` and `diverging`.

    Args:
        tolerance: norm of the gradient of L at which the search converges. None for eps^(3/4): 6e-6 in
            single and 2e-12 in double precision, about what rounding leaves of a gradient of size 1.
        max_steps: steps after which the search stops; it also ends where steps change nothing.
        memory_size: pairs of steps and gradients that are kept.
        solve: how the derivative inverts H. "dense" is the pseudo-inverse of a matrix, P up to some
            thousands; "conjugate_gradient" needs the memory of P numbers, is exact to the square root
            of the precision, and is not a number where H is too singular or indefinite for that.

    Raises:
        ValueError: if a number is not positive, or `solve` is unknown.

    >>> lbfgs(max_steps=200)
    lbfgs(max_steps=200)
    """

    _: KW_ONLY
    tolerance: float | None = None
    max_steps: int = 1000
    memory_size: int = 10
    solve: Solve = "dense"

    def __check_init__(self) -> None:
        check_positive(tolerance=self.tolerance, max_steps=self.max_steps, memory_size=self.memory_size)
        if self.solve not in get_args(Solve):
            raise ValueError(f"solve={self.solve!r} must be one of {get_args(Solve)}")

    def init(self, previous: State, program: Program) -> ModeState:
        dtype = ravel_pytree(previous.params)[0].dtype
        return ModeState(previous.params, minimum.not_begun(dtype))

    def num_passes(self, program: Program) -> float:
        """Return the gradients of one search; another start or other weights take about as many."""
        with jax.ensure_compile_time_eval():
            return float(compiled(_num_gradients)(self, program))

    @property
    def resolution(self) -> float:
        """Return how far ends of searches at one minimum lie apart: a hundred times the tolerance."""
        least = minimum.least_gradient(jnp.result_type(float))
        return SPREAD * (least if self.tolerance is None else float(self.tolerance))

    def stats(self, state: ModeState) -> dict[str, Array]:
        """Return statistics of the search; a draw whose search did not converge is `diverging`."""
        return state.ending._asdict() | {"diverging": ~state.ending.converged}

    def step(self, key: PRNGKey, state: ModeState, program: Program, weights: Weights) -> Step:
        theta, ending, potential = self.descend(key, state.params, program, weights)
        return ModeState(ravel_pytree(state.params)[1](theta), ending), potential(theta)

    def descend(
        self, key: PRNGKey, params: Params, program: Program, weights: Weights
    ) -> tuple[Vector, Ending, Potential]:
        """Return a minimum as a vector, statistics of the search, and the objective of a vector."""
        start, unravel = ravel_pytree(params)
        model_key = jax.random.fold_in(key, MODEL_STREAM)

        def potential(theta: Vector) -> Float[Array, ""]:
            return program.objective(unravel(theta), weights, key=model_key)

        settings = self.tolerance, self.max_steps, self.memory_size, self.solve
        return *minimum.find(potential, start, *settings), potential


def _num_gradients(kernel: lbfgs, program: Program) -> Int[Array, ""]:
    key = jax.random.key(0)
    _, ending, _ = kernel.descend(key, program.init(key), program, program.full_weights())
    return ending.num_gradients


class laplace(lbfgs):
    """Draw from N(mode, temperature H^-1), with H the Hessian of n L at a mode that L-BFGS finds.

    That is exp(-n L(theta, w) / temperature) to second order around the mode, and `exact` where L is
    quadratic. Its randomness is the initialisation and the draw, whose standard normal noise the
    key fixes. `unroll` differentiates both the mode and the spread. Where H is not positive definite
    (a saddle, a flat direction without a prior) the draw is not a number, and counts as `diverging`.

    Args:
        temperature: at least 0; 0 is the mode.
        tolerance: see `lbfgs`, as for the others.
        max_steps: of the search.
        memory_size: of L-BFGS.
        solve: how the derivative of the mode inverts H. The draw needs H as a matrix in any case.

    Raises:
        ValueError: if `temperature` is negative or a setting of the search is out of range.

    >>> laplace(temperature=0.5).temperature
    0.5
    """

    temperature: float = 1.0

    def __check_init__(self) -> None:
        _check_temperature(self.temperature)

    def step(self, key: PRNGKey, state: ModeState, program: Program, weights: Weights) -> Step:
        mode, ending, potential = self.descend(key, state.params, program, weights)
        root = jnp.linalg.cholesky(program.num_rows * jax.hessian(potential)(mode))
        theta = _gaussian(key, mode, root, self.temperature)
        return ModeState(ravel_pytree(state.params)[1](theta), ending), potential(theta)


class exact(AtRest):
    """Draw from exp(-n L(theta, w) / temperature) in closed form, for a quadratic objective L.

    That is Gaussian linear regression with known noise and Gaussian priors, where temperature 1 is
    the conjugate posterior N(mode, H^-1), H the Hessian of n L, and temperature 0 its mode. The same
    key gives the same standard normal noise whatever the weights.

    Args:
        temperature: at least 0.

    Raises:
        ValueError: if `temperature` is negative; in `Training`, if the objective is not quadratic.
    """

    temperature: float = 1.0

    def __check_init__(self) -> None:
        _check_temperature(self.temperature)

    def step(self, key: PRNGKey, state: Start, program: Program, weights: Weights) -> Step:
        start, unravel = ravel_pytree(state.params)

        def potential(theta: Vector) -> Float[Array, ""]:
            return program.num_rows * program.objective(unravel(theta), weights)

        gradient, hessian = jax.grad(potential)(start), jax.hessian(potential)(start)
        root = jnp.linalg.cholesky(hessian)
        mode = start - jax.scipy.linalg.cho_solve((root, True), gradient)
        theta = _gaussian(key, mode, root, self.temperature)
        return Start(unravel(theta)), potential(theta) / program.num_rows

    def check_program(self, program: Program) -> None:
        """Compare the curvature along one direction at three points."""
        slopes = compiled(_slopes)(program)
        first, second = slopes[1] - slopes[0], (slopes[2] - slopes[0]) / 3
        if not jnp.allclose(first, second, rtol=1e-3, atol=1e-4 * jnp.abs(first).max()):
            raise ValueError(
                "kernels.exact needs a quadratic objective (Gaussian likelihood with known noise, "
                "linear mean, Gaussian priors), and this program's is not; use another kernel"
            )


def _slopes(program: Program) -> Float[Array, "3 parameter"]:
    theta, unravel = ravel_pytree(program.init(jax.random.key(0)))
    ones = jnp.ones(program.num_data, theta.dtype)
    direction = jax.random.normal(jax.random.key(1), theta.shape, theta.dtype)
    gradient = jax.grad(lambda theta: program.objective(unravel(theta), ones))
    return jnp.stack([gradient(theta + step * direction) for step in (0.0, 1.0, 3.0)])


def _gaussian(
    key: PRNGKey, mode: Vector, root: Float[Array, "parameter parameter"], temperature: Any
) -> Vector:
    """Draw from N(mode, temperature H^-1), where the root is the lower Cholesky factor of H.

    The same key gives the same standard normal noise whatever the mode and the root.
    """
    noise = jax.random.normal(key, mode.shape, mode.dtype)
    spread = jax.scipy.linalg.solve_triangular(root, noise, lower=True, trans="T")
    return mode + temperature**0.5 * spread


def _check_temperature(temperature: Any) -> None:
    if isinstance(temperature, int | float) and temperature < 0:
        raise ValueError(f"temperature={temperature} must be at least 0 (0 is the mode)")
