"""Stochastic gradient descent with any optax gradient transformation."""

from dataclasses import KW_ONLY
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from dtda_prob.kernels import batches, optimizers
from dtda_prob.kernels.kernel import Masks, Sizes, State, Step
from dtda_prob.kernels.optimizers import Optimizer
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class SGDState(NamedTuple):
    """Parameters, the optimizer's own state, the row order of this epoch and the step count."""

    params: Params
    optimizer_state: Any
    order: batches.Order
    count: Int[Array, ""]


class sgd(batches.BatchPhase):
    """Mini-batch gradient descent.

    An epoch visits the program's `num_rows` examples once, in fresh random order, and leaves out an
    incomplete last batch. An example of weight 0 keeps its place in its batch, unless rows are dropped
    (`Program.drop`): then epochs visit the rows of non-zero weight, as often as before.

    Its randomness is the initialisation, the order of batches, and what the model draws by itself
    (dropout, augmentation) through `numpyro.prng_key`. A sample of it is a deep ensemble.

    Args:
        optimizer: any optax chain, or a function of the number of steps that returns one, `MultiSteps`
            (gradient accumulation) included. Pass the function where anything in the chain is made for
            a number of steps, such as a schedule that should shrink when rows are dropped.
            The derivative of a root in it, such as Adam's, is taken as 0 at 0.
        learning_rate: multiplies every update. As it is traced, one compilation serves all its values:
            `sgd(optax.adam(1.0), learning_rate=0.003)`.
        num_steps: number of steps on all data. Where rows are dropped the number of epochs stays: on
            batches there are fewer steps in proportion, on full batches as many.
        num_epochs: number of epochs instead.
        batch_size: examples per step; all of them if None.
        replace: draw each batch afresh, with replacement, instead of by epochs.

    Raises:
        ValueError: unless exactly one of `num_steps` and `num_epochs` is passed and positive.

    >>> kernel = sgd(
    ...     lambda steps: optax.sgd(optax.cosine_decay_schedule(0.05, steps), momentum=0.9),
    ...     num_epochs=20,
    ...     batch_size=64,
    ... )
    """

    optimizer: Optimizer
    _: KW_ONLY
    learning_rate: float = 1.0

    def transformation(self, program: Program) -> optax.GradientTransformation:
        """Return the optimizer for the number of steps on a program."""
        return optimizers.bind(self.optimizer, self.count_steps(program))

    def init(self, previous: State, program: Program) -> SGDState:
        order, params = jnp.zeros(program.num_rows, int), previous.params
        state = self.transformation(program).init(program.trained(params))
        return SGDState(params, state, order, jnp.zeros((), int))

    def step(self, key: PRNGKey, state: SGDState, program: Program, weights: Weights) -> Step:
        batch_key, model_key = jax.random.split(key)
        indices, order = self.visits.take(batch_key, state.count, state.order, program, weights)
        loss, gradient, left = program.value_and_grad(state.params, weights, indices, model_key)
        before = optimizers.scaled(state.optimizer_state, program, weights)
        trained = program.trained(state.params)
        updates, after = self.transformation(program).update(gradient, before, trained)
        after = optimizers.restored(after, state.optimizer_state, program)
        rate = self.learning_rate * program.factor(weights, optimizers.RATE)
        params = optax.apply_updates(trained, optax.tree.scale(rate, updates)) | left
        return SGDState(params, after, order, state.count + 1), loss

    @property
    def keeps_state(self) -> bool:
        """Return True: each step takes over the state that layers leave."""
        return True

    def step_sizes(self, program: Program) -> Sizes | None:
        num_steps = self.count_steps(program)
        return optimizers.step_sizes(self.optimizer, self.learning_rate, program, num_steps)

    def hyperparameters(self, program: Program) -> frozenset[str]:
        return optimizers.known(self.transformation(program), program)

    def moved(self, program: Program, before: Masks, num_steps: int) -> Masks:
        own = optimizers.moving(self.optimizer, program, self.count_steps(program), num_steps)
        return before | jax.tree.map(np.logical_or, program.trained(before), own)
