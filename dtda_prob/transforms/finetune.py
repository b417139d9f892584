"""A few more steps of training on the perturbed data, from each sample."""

import jax
import optax

from dtda_prob import kernels
from dtda_prob.training import Training
from dtda_prob.transforms.at_outcome import side_key, weights_of_states
from dtda_prob.transforms.pulling import pull_of_push
from dtda_prob.transforms.push_forward import At, Cost, PushForward
from dtda_prob.transforms.pushing import push_of_carry
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights


def finetune(training: Training, kernel: kernels.Kernel, *, batch_size: int | None = 64) -> PushForward:
    """Build the push-forward by training on from the sample at the old weights.

    The sample moves by the difference of two short runs from it with one key, on the new weights and
    on the old: what more training alone would do drops out. Not linear in the new weights; `pull` is
    its derivative at the old ones.

    Args:
        training: the stochastic kernel.
        kernel: the short training, such as `kernels.sgd(optax.sgd(0.01), num_epochs=2)`.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: if the program does not suit the kernel, or its steps have no derivative.
    """
    program = training.program
    kernel.check(program)
    if kernel.not_differentiable:
        raise ValueError(f"kernel must follow the weights, and {kernel.not_differentiable}; take sgd")

    def carry(key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        outcome = jax.lax.stop_gradient(outcome)

        def moved(params: Params, new: Weights) -> Params:
            def more(weights: Weights) -> Params:
                return kernel.run(side_key(key), program, weights, params).params

            change = optax.tree.sub(more(new), jax.lax.stop_gradient(more(old)))
            return optax.tree.add(params, change)

        params = training.each_state(moved)(outcome.params, weights_of_states(training, new))
        outputs, value = training.observe(params)
        return outcome._replace(params=params, outputs=outputs, value=value)

    push = push_of_carry(training, carry)
    share = kernel.num_passes(program) / training.num_passes()

    def rebuild(other: Training, at: At | None) -> PushForward:
        return finetune(other, kernel, batch_size=batch_size)

    return PushForward(
        name="finetune",
        training=training,
        push=push,
        carry=carry,
        pull=pull_of_push(training, push, batch_size),
        cost=Cost(1.0 + 2 * share, 1.0 + 2.5 * share * len(training.measure.queries)),
        rebuild=rebuild,
    )
