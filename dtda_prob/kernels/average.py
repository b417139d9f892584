"""Averages of the iterates in place of the last one."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dtda_prob.kernels.kernel import Kernel, Phase, State
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class AverageState(NamedTuple):
    """The average, the state that training goes on from, and the steps taken."""

    params: Params
    inner: Any
    count: Int[Array, ""]


Rate = Callable[[Int[Array, "*step"], int], Float[Array, "*step"]]
"""How far the average moves to the iterate, from the number of this step (1 first) and of all steps."""


def average(kernel: Kernel, *, decay: float | None = None, share: float | None = None) -> Kernel:
    """Average the iterates of the last phase; training itself goes on from the iterates.

    With `decay` the average is exponential and not biased towards the start: iterate t of T has
    weight in proportion to decay^(T - t). With `share` it is the plain mean over the last share of
    the steps (Polyak and Ruppert), and up to there the iterate. The average is what is measured or
    handed on, and `unroll` differentiates it through all iterates. It draws from no posterior.

    Args:
        kernel: the training algorithm.
        decay: above 0 and below 1, such as 0.99.
        share: above 0 and at most 1.

    Raises:
        ValueError: unless exactly one of `decay` and `share` is given and in range.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> kernel = average(sgd(optax.sgd(0.1), num_steps=100), share=0.5)
    """
    rate = _rate(decay, share)
    return kernel._replace(phases=(*kernel.phases[:-1], _averaged(kernel.phases[-1], rate)))


def _rate(decay: float | None, share: float | None) -> Rate:
    if decay is not None and share is None:
        return _exponential(decay)
    if share is not None and decay is None:
        return _late(share)
    raise ValueError(f"give one of decay and share; got decay={decay} and share={share}")


def _exponential(decay: float) -> Rate:
    if not 0 < decay < 1:
        raise ValueError(f"decay={decay} must be above 0 and below 1")
    return lambda count, num_steps: (1 - decay) / -jnp.expm1(count * math.log(decay))


def _late(share: float) -> Rate:
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be above 0 and at most 1")

    def rate(count: Int[Array, "*step"], num_steps: int) -> Float[Array, "*step"]:
        return 1 / jnp.maximum(count - num_steps + max(1, round(share * num_steps)), 1)

    return rate


def _averaged(phase: Phase, rate: Rate) -> Phase:
    def init(previous: State, program: Program) -> AverageState:
        inner = phase.init(previous, program)
        return AverageState(inner.params, inner, jnp.zeros((), int))

    def step(
        key: PRNGKey, state: AverageState, program: Program, weights: Weights
    ) -> tuple[AverageState, Float[Array, ""]]:
        inner, loss = phase.step(key, state.inner, program, weights)
        count = state.count + 1
        part = rate(count, phase.num_steps(program))

        def move(mean: Array, iterate: Array) -> Array:
            return mean + jnp.asarray(part, mean.dtype) * (iterate - mean)

        return AverageState(jax.tree.map(move, state.params, inner.params), inner, count), loss

    def step_sizes(program: Program) -> Float[np.ndarray, " step"]:
        return _follow(phase.step_sizes(program), rate)

    def stats(state: AverageState) -> dict[str, Array]:
        return phase.stats(state.inner)

    return phase._replace(
        init=init,
        step=step,
        step_sizes=step_sizes,
        temperature=None,
        stats=stats,
        name=f"average of {phase.name}",
    )


def _follow(sizes: Float[np.ndarray, " step"], rate: Rate) -> Float[np.ndarray, " step"]:
    """Give how far the average moves at each step where the iterates move so far."""
    rates = np.asarray(rate(jnp.arange(1, len(sizes) + 1), len(sizes)))
    places = np.zeros(len(sizes) + 1)
    for count, iterate in enumerate(np.cumsum(sizes)):
        places[count + 1] = places[count] + rates[count] * (iterate - places[count])
    return np.diff(places)
