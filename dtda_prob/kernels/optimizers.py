"""Optax transformations: as they are or made for a number of steps, and what they do to a gradient."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.interpreters import partial_eval
from jaxtyping import Array, Bool, Float, PyTree

from dtda_prob.compiling import compiled, is_tracer, split
from dtda_prob.kernels.held import carried
from dtda_prob.kernels.kernel import Masks, no_step_size
from dtda_prob.kernels.roots import with_roots
from dtda_prob.program import Program
from dtda_prob.typing import Params, Weights, check_kind

Transformation = optax.GradientTransformation | optax.MultiSteps
Optimizer = Transformation | Callable[[int], Transformation]
"""An optax transformation, or a function of the number of steps that makes one."""

OPTIMIZER = "an optax optimizer, such as optax.adam(1e-3), or a function from num_steps to one"
RATE = "learning_rate"
"""Scales every update, whatever the optimizer calls its rate and whatever its schedule."""

SLOPES = 1e-3, 1e3
"""Gradients of dry runs, so far apart that any threshold of clipping lies in between."""

LEAST_STEPS = 3
"""Steps of a dry run at least, so that an update by an earlier gradient is seen."""


def bind(optimizer: Optimizer, num_steps: int) -> optax.GradientTransformation:
    """Return the transformation for a number of steps, with roots that have a derivative at 0."""
    is_made = isinstance(optimizer, Transformation) or not callable(optimizer)
    made = optimizer if is_made else optimizer(num_steps)
    check_kind("optimizer", made, Transformation, OPTIMIZER)
    return optax.GradientTransformation(made.init, with_roots(made.update))


# Hyper-parameters that vary as settings of the program.


def known(transformation: optax.GradientTransformation, program: Program) -> frozenset[str]:
    """Return the hyper-parameters that may vary: the rate, and those that are injected and constant."""
    state = jax.eval_shape(transformation.init, program.trained(program.shapes))
    injected = [part for part in _parts(state) if hasattr(part, "hyperparams")]
    constant = [set(part.hyperparams) - set(part.hyperparams_states) for part in injected]
    return frozenset({RATE}).union(*constant)


def scaled(state: Any, program: Program, weights: Weights) -> Any:
    """Return the optimizer's state with its hyper-parameters scaled as the weights say."""
    for name in _injected(program):
        value = optax.tree.get(state, name) * program.factor(weights, name)
        state = optax.tree.set(state, **{name: value})
    return state


def restored(state: Any, before: Any, program: Program) -> Any:
    """Return the optimizer's state with its hyper-parameters as they were before."""
    for name in _injected(program):
        state = optax.tree.set(state, **{name: optax.tree.get(before, name)})
    return state


def _injected(program: Program) -> list[str]:
    return [name for name in program.hyperparameters if name != RATE]


def _parts(state: Any) -> list[Any]:
    return jax.tree.leaves(state, is_leaf=lambda part: hasattr(part, "hyperparams"))


# Dry runs on gradients that are made up.


def step_sizes(
    optimizer: Optimizer, rate: float, program: Program, num_steps: int
) -> Float[np.ndarray | Array, " step"] | None:
    """Run the optimizer on a constant gradient, from parameters at zero.

    Momentum, schedules and weight decay are all in the distance it covers. Frozen parameters are left
    out. None if a much larger gradient does not move it as much farther, or parameters differ.

    Raises:
        ValueError: if a larger gradient does not lead to larger steps, as where its sign is taken.
    """
    shapes = program.trained(program.shapes)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    once, farther = (
        compiled(_distances, quick=True)(optimizer, num_steps, rate, zeros, slope) for slope in SLOPES
    )
    if is_tracer(once):
        with jax.ensure_compile_time_eval():
            alike = step_sizes(optimizer, 1.0, program, num_steps)
        return None if alike is None else once.max(1) / SLOPES[0]
    once, farther = np.asarray(once, float) / SLOPES[0], np.asarray(farther, float) / SLOPES[1]
    trained = (once != 0).any(0)
    if not trained.any():
        return np.zeros(num_steps)
    once, farther = once[:, trained], farther[:, trained]
    one_size, negligible = once[:, :1], 1e-4 * np.abs(once).max()
    if all(np.allclose(each, one_size, rtol=1e-3, atol=negligible) for each in (once, farther)):
        return once[:, 0]
    if not _grows(bind(optimizer, num_steps), shapes):
        raise no_step_size("a larger gradient does not lead to larger steps of the optimizer (signs?)")
    return None


def _grows(transformation: optax.GradientTransformation, shapes: PyTree) -> bool:
    """Return whether updates change with the size of gradients, their preconditioner held as it is."""

    def update(state: Any, gradient: Params) -> tuple[Any, Params]:
        updates, state = transformation.update(gradient, state, optax.tree.zeros_like(shapes))
        return state, updates

    return any(carried(update, jax.eval_shape(transformation.init, shapes), shapes)[1])


def _distances(
    optimizer: Optimizer, num_steps: int, rate: float, zeros: Params, slope: float
) -> Float[Array, "step end"]:
    """Return the largest and smallest distance that each array moves in each step."""
    transformation = bind(optimizer, num_steps)
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, slope), zeros)

    def body(carry: tuple[Params, Any], _: None) -> tuple:
        params, state = carry
        updates, state = transformation.update(gradient, state, params)
        updates = optax.tree.scale(rate, updates)
        ends = [end for leaf in jax.tree.leaves(updates) for end in _ends(-leaf)]
        return (optax.apply_updates(params, updates), state), jnp.stack(ends)

    return jax.lax.scan(body, (zeros, transformation.init(zeros)), length=num_steps)[1]


def _ends(moved: Array) -> tuple[Array, Array]:
    """Return the largest distance in an array, and the smallest that is not 0."""
    largest = moved.max()
    return largest, jnp.where(moved == 0, largest, moved).min()


def moving(optimizer: Optimizer, program: Program, length: int, num_steps: int) -> Masks:
    """Return which parameters the optimizer moves by the gradient in the first of `length` steps.

    Two dry runs on opposite gradients are compared until every parameter has moved differently, or
    the updates of those that have not are computed from no gradient at all.
    """
    leaves, structure = jax.tree.flatten(program.trained(program.shapes))
    key: Any = optimizer, length, num_steps, structure, tuple(leaves)
    return _masks(*key)


@lru_cache(maxsize=256)
def _masks(optimizer: Optimizer, length: int, num_steps: int, structure: Any, leaves: tuple) -> Masks:
    shapes, rng = jax.tree.unflatten(structure, leaves), np.random.default_rng(0)
    gradient = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    args = optimizer, length, num_steps, gradient, _live(bind(optimizer, length), shapes)
    # Compiled beforehand, since JAX may be tracing the caller; called while it does, it computes.
    run = compiled(_moving, quick=True).lower(*args).compile()
    return jax.tree.map(np.asarray, run(split(args)[0]))


def _moving(
    optimizer: Optimizer, length: int, num_steps: int, gradient: Params, live: PyTree
) -> PyTree:
    transformation = bind(optimizer, length)
    opposite, params = optax.tree.scale(-1, gradient), optax.tree.zeros_like(gradient)

    def goes_on(carry: tuple) -> Bool[Array, ""]:
        count, _, _, moved = carry
        settled = jax.tree.map(lambda each, depends: each.all() | (not depends), moved, live)
        unsettled = ~jnp.stack(jax.tree.leaves(settled)).all()
        return (count < num_steps) & (unsettled | (count < LEAST_STEPS))

    def step(carry: tuple) -> tuple:
        count, up, down, moved = carry
        rise, up = transformation.update(gradient, up, params)
        fall, down = transformation.update(opposite, down, params)
        moved = jax.tree.map(lambda m, a, b: m | (a != b), moved, rise, fall)
        return count + 1, up, down, moved

    state = transformation.init(params)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), params)
    return jax.lax.while_loop(goes_on, step, (jnp.zeros((), int), state, state, nothing))[-1]


def _live(transformation: optax.GradientTransformation, shapes: PyTree) -> PyTree[bool]:
    """Return whether the update of each leaf is computed from any gradient at all."""

    def update(gradient: Params, state: Any, params: Params) -> list[Array]:
        return jax.tree.leaves(transformation.update(gradient, state, params)[0])

    leaves, structure = jax.tree.flatten(shapes)
    state = jax.eval_shape(transformation.init, shapes)
    jaxpr = jax.make_jaxpr(update)(shapes, state, shapes).jaxpr
    each = [[i == j for j in range(len(leaves))] for i in range(len(leaves))]
    used = [partial_eval.dce_jaxpr(jaxpr, only)[1][: len(leaves)] for only in each]
    return jax.tree.unflatten(structure, [any(inputs) for inputs in used])
