"""Influence functions: implicit differentiation at the outcome of training."""

from functools import partial

import jax
import optax

from dtda_prob import curvature as curvatures
from dtda_prob.training import Training
from dtda_prob.transforms.at_outcome import AtOutcome
from dtda_prob.transforms.push_forward import At, Cost, PushForward, Space
from dtda_prob.transforms.response import check_options, push_forward
from dtda_prob.typing import Params, PRNGKey, Weights


def influence(
    training: Training,
    curvature: curvatures.Curvature | None = None,
    *,
    at: At = "centre",
    space: Space = "outputs",
    batch_size: int | None = 64,
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
        ValueError: if `at` or `space` is unknown, or the curvature does not suit the program.
    """
    check_options(at, space)
    chosen = curvatures.dense() if curvature is None else curvature
    chosen.check(training.program)
    chosen.check_time(training.total_step_size)

    def move(key: PRNGKey, params: Params, here: Weights, weights: Weights) -> Params:
        """Follow the stationary point."""
        spectrum = chosen.at(training.program, key, params, here)
        inverse = chosen.inverse(spectrum, params, training.total_step_size)
        change = change_of_gradient(training, params, weights)
        return optax.tree.sub(params, spectrum.apply(inverse, change))

    def cost(num_solves: int) -> float:
        return chosen.passes(training.program, num_solves) / training.num_passes()

    return push_forward(
        f"influence[{chosen}]",
        training,
        AtOutcome(training, move),
        at,
        space,
        batch_size=batch_size,
        cost=Cost(1.0 + cost(1), 1.0 + cost(len(training.measure.queries))),
        make=partial(influence, curvature=chosen, space=space, batch_size=batch_size),
        curvature=chosen,
    )


def change_of_gradient(training: Training, params: Params, weights: Weights) -> Params:
    """Give grad L(params, weights) less its own value: zero, with the derivative d grad L / dw."""
    gradient = jax.grad(training.program.objective)(params, weights)
    return optax.tree.sub(gradient, jax.lax.stop_gradient(gradient))
