"""Stochastic gradient descent with any optax gradient transformation."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from dtda_prob.kernels import batches, hyperparameters
from dtda_prob.kernels.kernel import Kernel, Phase, State
from dtda_prob.kernels.optimizer import Optimizer, Transformation, bind
from dtda_prob.kernels.steps import steps
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class SGDState(NamedTuple):
    """Parameters, the optimizer's own state, the order of this epoch and the steps taken."""

    params: Params
    optimizer_state: Any
    order: batches.Order
    count: Int[Array, ""]


def sgd(
    optimizer: Optimizer,
    *,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    batch_size: int | None = None,
    replace: bool = False,
) -> Kernel:
    """Build mini-batch gradient descent.

    An epoch visits the program's `num_rows` data once, in fresh random order, and leaves out the
    rows that do not fill a batch. A datum of weight 0 keeps its place in its batch, unless rows are
    dropped (`Program.drop`): then epochs visit the rows of non-zero weight, so there are fewer steps.

    Its randomness is the initialisation, the order of batches, and what the model draws by itself
    (dropout, augmentation) through `numpyro.prng_key`. A sample of it is a deep ensemble.

    Args:
        optimizer: any optax chain, or a function of the number of steps that returns one, `MultiSteps`
            (gradient accumulation) included. Give the function where anything in the chain is made for
            a number of steps, such as a schedule that should shrink when rows are dropped.
            Adam's root has no derivative at 0: where a gradient may be exactly 0, `unroll` is not a
            number unless Adam is given `eps_root`, such as 1e-16.
        num_steps: number of steps on all data (fewer, in proportion, when rows are dropped).
        num_epochs: number of epochs instead.
        batch_size: data per step; all of them if None.
        replace: draw each batch afresh, with replacement, instead of by epochs.

    Raises:
        ValueError: unless exactly one of `num_steps` and `num_epochs` is given and positive.

    >>> kernel = sgd(
    ...     lambda steps: optax.sgd(optax.cosine_decay_schedule(0.05, steps), momentum=0.9),
    ...     num_epochs=20,
    ...     batch_size=64,
    ... )
    """
    plan = steps(num_steps, num_epochs, batch_size, replace)
    transformation = bind(optimizer, plan)

    def init(previous: State, program: Program) -> SGDState:
        order, params = jnp.zeros(program.num_rows, int), previous.params
        return SGDState(params, transformation(program).init(params), order, jnp.zeros((), int))

    def step(
        key: PRNGKey, state: SGDState, program: Program, weights: Weights
    ) -> tuple[SGDState, Float[Array, ""]]:
        batch_key, model_key = jax.random.split(key)
        indices, order = plan.visits.take(batch_key, state.count, state.order, program, weights)
        loss, gradient = jax.value_and_grad(program.objective)(
            state.params, weights, indices, model_key
        )
        with_settings = hyperparameters.scaled(state.optimizer_state, program, weights)
        updates, optimizer_state = transformation(program).update(gradient, with_settings, state.params)
        optimizer_state = hyperparameters.restored(optimizer_state, state.optimizer_state, program)
        updates = optax.tree.scale(program.factor(weights, hyperparameters.RATE), updates)
        params = optax.apply_updates(state.params, updates)
        return SGDState(params, optimizer_state, order, state.count + 1), loss

    def step_sizes(program: Program) -> Float[np.ndarray, " step"]:
        return _step_sizes(transformation(program), program, plan.count(program))

    phase = Phase(init, step, plan.count, plan.count_passes, plan.visits.check, step_sizes)
    known = partial(hyperparameters.known, transformation)
    return Kernel((phase._replace(hyperparameters=known, name="sgd"),))


def _step_sizes(
    optimizer: Transformation, program: Program, num_steps: int
) -> Float[np.ndarray, " step"]:
    """Run the optimizer on a constant gradient, from parameters at zero.

    Momentum, schedules and weight decay are all in how far it gets.

    Raises:
        ValueError: if twice the gradient does not move it twice as far, or parameters differ.
    """
    shapes = jax.eval_shape(program.init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def moved(slope: float) -> Float[Array, "step parameter"]:
        def body(carry: tuple[Params, Any], _: None) -> tuple:
            params, state = carry
            gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, slope), params)
            updates, state = optimizer.update(gradient, state, params)
            ends = [leaf.ravel()[0] for leaf in jax.tree.leaves(updates)]
            return (optax.apply_updates(params, updates), state), -jnp.stack(ends)

        return jax.lax.scan(body, (zeros, optimizer.init(zeros)), length=num_steps)[1]

    once, twice = (np.asarray(jax.jit(moved, static_argnums=0)(slope)) for slope in (1e-3, 2e-3))
    if not np.allclose(twice, 2 * once, rtol=1e-3) or not np.allclose(once, once[:, :1], rtol=1e-3):
        raise ValueError(
            "the total step size of training is asked for (damping='auto', segments or trajectory), "
            "and the optimizer's steps are not one multiple of the gradient (Adam, clipping, or rates "
            "by parameter); take influence with its damping as a number"
        )
    return once[:, 0].astype(float) / 1e-3
