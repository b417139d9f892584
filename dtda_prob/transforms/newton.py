"""Newton steps on the perturbed objective, from each sample."""

import jax
import optax

from dtda_prob import curvature as curvatures
from dtda_prob.training import Training
from dtda_prob.transforms.at_outcome import side_key, weights_of_states
from dtda_prob.transforms.pulling import pull_of_push
from dtda_prob.transforms.push_forward import At, Cost, PushForward
from dtda_prob.transforms.pushing import push_of_carry
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights


def newton(
    training: Training,
    curvature: curvatures.Curvature | None = None,
    *,
    num_steps: int = 1,
    batch_size: int | None = 64,
) -> PushForward:
    """Build the push-forward by Newton steps from the sample at the old weights.

    Each step is theta <- theta - H(theta, new)^+ (grad L(theta, new) - grad L(theta_old, old)): the
    gradient that training left over is left over again. The curvature is that of the perturbed
    objective, without the removed data: one step is the rescaled influence function, exact where
    the objective is quadratic. Not linear in the new weights; `pull` is its derivative at the old
    ones, which is that of `influence`.

    Args:
        training: the stochastic kernel.
        curvature: H and how it is inverted; the dense Hessian's pseudo-inverse if None.
        num_steps: steps.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: if the curvature does not suit the program, or `num_steps` is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    chosen = curvatures.dense() if curvature is None else curvature
    chosen.check(training.program)
    chosen.check_time(training.total_step_size)
    gradient = jax.grad(training.program.objective)

    def carry(key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        outcome = jax.lax.stop_gradient(outcome)

        def moved(params: Params, new: Weights) -> Params:
            left_over = jax.lax.stop_gradient(gradient(params, old))
            for _ in range(num_steps):
                here = jax.lax.stop_gradient((params, new))
                spectrum = chosen.at(training.program, side_key(key), *here)
                residual = optax.tree.sub(gradient(params, new), left_over)
                inverse = chosen.inverse(spectrum, here[0], training.total_step_size)
                step = spectrum.apply(inverse, residual)
                params = optax.tree.sub(params, step)
            return params

        params = training.each_state(moved)(outcome.params, weights_of_states(training, new))
        outputs, value = training.observe(params)
        return outcome._replace(params=params, outputs=outputs, value=value)

    push = push_of_carry(training, carry)

    def cost(num_solves: int) -> float:
        return 1.0 + num_steps * chosen.passes(training.program, num_solves) / training.num_passes()

    def rebuild(other: Training, at: At | None) -> PushForward:
        return newton(other, chosen, num_steps=num_steps, batch_size=batch_size)

    return PushForward(
        name=f"newton[{num_steps}, {chosen}]",
        training=training,
        push=push,
        carry=carry,
        pull=pull_of_push(training, push, batch_size),
        cost=Cost(cost(1), cost(len(training.measure.queries))),
        rebuild=rebuild,
        curvature=chosen,
    )
