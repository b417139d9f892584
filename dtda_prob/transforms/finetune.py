"""A few more steps of training on the perturbed data, from each sample."""

import jax
import optax

from dtda_prob import kernels
from dtda_prob.training import Training
from dtda_prob.transforms.response import At, Cost, PushForward, pull_of_push, side_key
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
        ValueError: if the program does not suit the kernel.
    """
    program = training.program
    for phase in kernel.phases:
        phase.check(program)

    def push(key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        outcome = jax.lax.stop_gradient(training.draw(key, old))

        def more(weights: Weights) -> Params:
            return kernels.run(kernel, side_key(key), program, weights, outcome.params)[0]

        change = optax.tree.sub(more(new), jax.lax.stop_gradient(more(old)))
        params = optax.tree.add(outcome.params, change)
        return Outcome(params, *training.observe(params), outcome.trace)

    share = sum(phase.num_passes(program) for phase in kernel.phases) / training.num_passes()

    def rebuild(other: Training, at: At | None) -> PushForward:
        return finetune(other, kernel, batch_size=batch_size)

    return PushForward(
        name="finetune",
        training=training,
        push=push,
        pull=pull_of_push(push, batch_size),
        cost=Cost(1.0 + 2 * share, 1.0 + 2.5 * share * len(training.measure.queries)),
        rebuild=rebuild,
    )
