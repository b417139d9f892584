"""Stochastic gradient descent with any optax gradient transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from dtda_prob.kernels import batches
from dtda_prob.kernels.kernel import Kernel, Phase
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

Optimizer = optax.GradientTransformation | Callable[[int], optax.GradientTransformation]


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

    Args:
        optimizer: an optax gradient transformation, or a function of the number of steps that
            returns one. Give the function where a schedule should shrink when rows are dropped.
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
    _check_duration(num_steps, num_epochs)
    visits = _visits(batch_size, replace)

    def count_steps(program: Program) -> int:
        per_epoch = visits.steps_per_epoch(program.num_rows)
        if num_steps is None:
            return (num_epochs or 0) * per_epoch
        whole = visits.steps_per_epoch(program.num_places)
        return max(1, round(num_steps * per_epoch / whole))

    def count_passes(program: Program) -> float:
        return count_steps(program) * (batch_size or program.num_rows) / program.num_rows

    def transformation(program: Program) -> optax.GradientTransformation:
        if isinstance(optimizer, optax.GradientTransformation):
            return optimizer
        return optimizer(count_steps(program))

    def init(params: Params, program: Program) -> SGDState:
        order = jnp.zeros(program.num_rows, int)
        return SGDState(params, transformation(program).init(params), order, jnp.zeros((), int))

    def step(
        key: PRNGKey, state: SGDState, program: Program, weights: Weights
    ) -> tuple[SGDState, Float[Array, ""]]:
        batch_key, model_key = jax.random.split(key)
        indices, order = visits.take(batch_key, state.count, state.order, program, weights)
        loss, gradient = jax.value_and_grad(program.objective)(
            state.params, weights, indices, model_key
        )
        updates, optimizer_state = transformation(program).update(
            gradient, state.optimizer_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return SGDState(params, optimizer_state, order, state.count + 1), loss

    def step_sizes(program: Program) -> Float[np.ndarray, " step"]:
        return _step_sizes(transformation(program), program, count_steps(program))

    return Kernel((Phase(init, step, count_steps, count_passes, visits.check, step_sizes),))


def _step_sizes(
    optimizer: optax.GradientTransformation, program: Program, num_steps: int
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
            "by parameter); give damping as a number, or the time of training"
        )
    return once[:, 0].astype(float) / 1e-3


def _visits(batch_size: int | None, replace: bool) -> batches.Batches:
    if batch_size is None:
        if replace:
            raise ValueError("replace=True needs a batch_size")
        return batches.everything()
    return batches.independent(batch_size) if replace else batches.by_epoch(batch_size)


def _check_duration(num_steps: int | None, num_epochs: int | None) -> None:
    given = [number for number in (num_steps, num_epochs) if number is not None]
    if len(given) != 1 or given[0] < 1:
        raise ValueError(
            f"give one of num_steps and num_epochs, at least 1; got num_steps={num_steps} and "
            f"num_epochs={num_epochs}"
        )
