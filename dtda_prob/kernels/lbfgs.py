"""Full-batch optimisation to convergence, differentiated as the stationary point that it finds."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from dtda_prob.kernels import minimum
from dtda_prob.kernels.kernel import Kernel, Phase, State
from dtda_prob.kernels.minimum import Ending, Potential, Search, Solve, Vector
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

MODEL_STREAM = 0x6D6F6465
"""Folded into a step's key for the model's own randomness; the rest of the step uses the key itself."""


class RestState(NamedTuple):
    """Parameters at rest, and how the search for them ended."""

    params: Params
    ending: Ending


def lbfgs(
    *,
    tolerance: float | None = None,
    max_steps: int = 1000,
    memory_size: int = 10,
    solve: Solve = "dense",
) -> Kernel:
    """Minimise the objective over all data by L-BFGS, until the norm of its gradient is small.

    Its randomness is where it starts, so that there may be several minima; what a model draws by
    itself (dropout) is drawn once a run. It counts as one step. `unroll` takes the derivative of the
    implicit function theorem, -H^+ d(grad L)/dw, H the Hessian at the minimum: what no datum curves
    does not move. A search that ends early is nowhere at rest, and its derivative means nothing: such
    a draw is kept, and `sample_stats` has it as not `converged` and `diverging`.

    Args:
        tolerance: norm of the gradient of L at which the search ends. None for eps^(3/4): 6e-6 in
            single and 2e-12 in double precision, about what rounding leaves of a gradient of size 1.
        max_steps: steps after which the search is given up; it also ends where steps change nothing.
        memory_size: pairs of steps and gradients that are kept.
        solve: how the derivative inverts H. "dense" is the pseudo-inverse of a matrix, P up to some
            thousands; "conjugate_gradient" needs the memory of P numbers, is exact to the square root
            of the precision, and is not a number where H is too singular or indefinite for that.

    Raises:
        ValueError: if a number is not positive, or `solve` is unknown.

    >>> len(lbfgs(max_steps=200).phases)
    1
    """
    search = minimum.check(Search(tolerance, max_steps, memory_size, solve))

    def step(
        key: PRNGKey, state: RestState, program: Program, weights: Weights
    ) -> tuple[RestState, Float[Array, ""]]:
        rest = descend(key, state.params, program, weights, search)
        return RestState(rest.unravel(rest.theta), rest.ending), rest.potential(rest.theta)

    return Kernel((at_rest("lbfgs", step, search),))


class Descent(NamedTuple):
    """A minimum as a vector, and the objective that it minimises."""

    theta: Vector
    ending: Ending
    potential: Potential
    unravel: Callable[[Vector], Params]


def descend(
    key: PRNGKey, params: Params, program: Program, weights: Weights, search: Search
) -> Descent:
    """Find a minimum of the objective over all data."""
    start, unravel = ravel_pytree(params)
    model_key = jax.random.fold_in(key, MODEL_STREAM)

    def potential(theta: Vector) -> Float[Array, ""]:
        return program.objective(unravel(theta), weights, key=model_key)

    return Descent(*minimum.find(potential, start, search), potential, unravel)


def at_rest(name: str, step: Callable, search: Search, temperature: float | None = None) -> Phase:
    """Make the phase of one step that ends at rest."""

    def init(previous: State, program: Program) -> RestState:
        dtype = ravel_pytree(previous.params)[0].dtype
        return RestState(previous.params, minimum.unending(dtype))

    return Phase(
        init,
        step,
        num_steps=lambda program: 1,
        num_passes=partial(_count_passes, search),
        check=lambda program: None,
        step_sizes=lambda program: np.array([np.inf]),
        temperature=temperature,
        stats=_stats,
        name=name,
    )


def _stats(state: RestState) -> dict[str, Array]:
    """Say how the search ended; one that did not converge counts as diverging."""
    return state.ending._asdict() | {"diverging": ~state.ending.converged}


def _count_passes(search: Search, program: Program) -> float:
    """Count the gradients of one search; another start or other weights take about as many."""
    name = f"passes to rest over {program.num_rows} rows by {search}"
    if name not in program.derived:
        with jax.ensure_compile_time_eval():
            program.derived[name] = float(jax.jit(partial(_num_gradients, search, program))())
    return program.derived[name]


def _num_gradients(search: Search, program: Program) -> Int[Array, ""]:
    key = jax.random.key(0)
    rest = descend(key, program.init(key), program, program.full_weights(), search)
    return rest.ending.num_gradients
