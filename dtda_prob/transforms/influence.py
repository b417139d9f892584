"""Influence functions: implicit differentiation at the outcome of training."""

import jax
from jaxtyping import PyTree

from dtda_prob import curvature as curvatures
from dtda_prob.training import Training
from dtda_prob.transforms.response import (
    At,
    Cost,
    PushForward,
    Space,
    check_options,
    describe,
    is_old,
    pull_back,
    push_along,
)
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights


def influence(
    training: Training,
    curvature: curvatures.Curvature | None = None,
    *,
    at: At = "old",
    space: Space = "outputs",
    batch_size: int | None = None,
) -> PushForward:
    """Build the push-forward that treats the outcome of training as a stationary point.

    Removing datum k moves the parameters by + H^+ g_k / n, with g_k the gradient of its loss and H
    the curvature of the objective at the outcome (Koh and Liang, arXiv 1703.04730; as the limit of
    unrolling, Mlodozeniec et al., arXiv 2506.12965).

    Args:
        training: the stochastic kernel.
        curvature: H and how it is inverted, from `dtda.curvature`; the dense Hessian's
            pseudo-inverse if None.
        at: where the outcome is taken that the derivative is of; see `unroll`.
        space: what is moved; see `displace`.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: if `at` or `space` is unknown.
    """
    check_options(at, space)
    solver = curvatures.dense() if curvature is None else curvature

    def draw(key: PRNGKey, weights: Weights) -> Outcome:
        """Draw with the value of training and the derivative of a stationary point."""
        outcome = jax.lax.stop_gradient(training.draw(key, jax.lax.stop_gradient(weights)))
        params = _stationary(training, solver, outcome.params, weights)
        return Outcome(params, *training.observe(params), outcome.trace)

    def cost(num_solves: int) -> float:
        shapes = jax.eval_shape(training.program.init, jax.random.key(0))
        num_params = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        return solver.passes(num_params, num_solves) / training.num_passes()

    return PushForward(
        name=describe(f"influence[{solver.name}]", at, space),
        training=training,
        push=push_along(training, draw, at, space),
        pull=pull_back(draw, at, batch_size),
        cost=Cost(
            push=(1.0 if is_old(at) else 2.0) + cost(1),
            pull=1.0 + cost(len(training.measure.queries)),
        ),
        rebuild=lambda other: influence(other, solver, at=at, space=space, batch_size=batch_size),
    )


def _stationary(
    training: Training, solver: curvatures.Curvature, params: Params, weights: Weights
) -> PyTree:
    """Give params, with the derivative -H^+ d/dw grad L: a Newton step from where it is zero."""
    here = jax.lax.stop_gradient(weights)
    gradient = jax.grad(training.program.objective)
    still = jax.lax.stop_gradient(gradient(params, here))
    change = jax.tree.map(lambda new, old: new - old, gradient(params, weights), still)
    step = solver.solve(lambda theta: training.program.objective(theta, here), params, change)
    return jax.tree.map(lambda theta, move: theta - move, params, step)
