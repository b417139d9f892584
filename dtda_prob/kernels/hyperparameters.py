"""Hyper-parameters of an optimizer that vary as settings of the program."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from dtda_prob.kernels.optimizer import Transformation
from dtda_prob.program import Program
from dtda_prob.typing import Weights

RATE = "learning_rate"
"""Scales every update, whatever the optimizer calls its rate and whatever its schedule."""


def known(transformation: Callable[[Program], Transformation], program: Program) -> frozenset[str]:
    """Name the hyper-parameters that may vary: the rate, and those that are injected and constant."""
    params = jax.eval_shape(program.init, jax.random.key(0))
    state = jax.eval_shape(transformation(program).init, params)
    injected = [part for part in _parts(state) if hasattr(part, "hyperparams")]
    constant = [set(part.hyperparams) - set(part.hyperparams_states) for part in injected]
    return frozenset({RATE}).union(*constant)


def scaled(state: Any, program: Program, weights: Weights) -> Any:
    """Give the optimizer's state with its hyper-parameters as the weights say."""
    for name in _injected(program):
        value = optax.tree.get(state, name) * program.factor(weights, name)
        state = optax.tree.set(state, **{name: value})
    return state


def restored(state: Any, before: Any, program: Program) -> Any:
    """Give the state with hyper-parameters as they were before."""
    for name in _injected(program):
        state = optax.tree.set(state, **{name: optax.tree.get(before, name)})
    return state


def _injected(program: Program) -> list[str]:
    return [name for name in program.hyperparameters if name != RATE]


def _parts(state: Any) -> list[Any]:
    return jax.tree.leaves(state, is_leaf=lambda part: hasattr(part, "hyperparams"))
