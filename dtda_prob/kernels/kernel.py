"""The contract of a training algorithm, and the loop that runs it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class State(Protocol):
    """Whatever a phase carries from step to step; the parameters are read off it."""

    @property
    def params(self) -> Params: ...


class Phase(NamedTuple):
    """One training algorithm with a fixed number of steps.

    Attributes:
        init: `(params, program) -> state`.
        step: `(key, state, program, weights) -> (state, loss)`, pure, with the loss of the step.
        num_steps: `(program) -> int`, which may depend on the program's `num_rows`.
        num_passes: `(program) -> float`, the gradients over all rows that its steps amount to.
        check: `(program) -> None`, raises where the program does not suit the algorithm.
    """

    init: Callable[[Params, Program], Any]
    step: Callable[[PRNGKey, Any, Program, Weights], tuple[Any, Float[Array, ""]]]
    num_steps: Callable[[Program], int]
    num_passes: Callable[[Program], float]
    check: Callable[[Program], None]


class Kernel(NamedTuple):
    """A training algorithm: phases run one after the other, each from the last one's parameters."""

    phases: tuple[Phase, ...]


def then(*kernels: Kernel) -> Kernel:
    """Chain kernels: each starts from the parameters that the one before ends with.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> warm, cold = (sgd(optax.sgd(rate), num_steps=10) for rate in (0.1, 0.01))
    >>> len(then(warm, cold).phases)
    2
    """
    return Kernel(tuple(phase for kernel in kernels for phase in kernel.phases))


def run(
    kernel: Kernel, key: PRNGKey, program: Program, weights: Weights, params: Params | None = None
) -> tuple[Params, Float[Array, " step"]]:
    """Train once: a pure function of key and weights, differentiable in both modes.

    Reverse mode keeps about 2 sqrt(T) states of T steps and recomputes the rest once.

    Args:
        kernel: the training algorithm.
        key: all randomness of the run; the same key means the same initialisation, batches and noise.
        program: the model and its data.
        weights: one per datum.
        params: where to start; a draw of `program.init` if None.

    Returns:
        The trained parameters and the loss of each step.
    """
    init_key, *keys = jax.random.split(key, 1 + len(kernel.phases))
    params = program.init(init_key) if params is None else params
    traces = []
    for phase, phase_key in zip(kernel.phases, keys, strict=True):
        params, trace = _run_phase(phase, phase_key, program, weights, params)
        traces.append(trace)
    return params, jnp.concatenate(traces)


def _run_phase(
    phase: Phase, key: PRNGKey, program: Program, weights: Weights, params: Params
) -> tuple[Params, Float[Array, " step"]]:
    def body(state: Any, count: Int[Array, ""]) -> tuple[Any, Float[Array, ""]]:
        return phase.step(jax.random.fold_in(key, count), state, program, weights)

    state, trace = _scan_in_blocks(body, phase.init(params, program), phase.num_steps(program))
    return state.params, trace


def _scan_in_blocks(body: Callable, state: Any, length: int) -> tuple[Any, Float[Array, " step"]]:
    """Scan with blocks of about sqrt(length) steps, each recomputed in reverse mode."""
    size = _block_size(length)
    num_blocks = length // size

    def block(state: Any, start: Int[Array, ""]) -> tuple[Any, Float[Array, " step"]]:
        return jax.lax.scan(body, state, start + jnp.arange(size))

    starts = size * jnp.arange(num_blocks)
    state, trace = jax.lax.scan(jax.checkpoint(block, prevent_cse=False), state, starts)
    if num_blocks * size == length:
        return state, trace.ravel()
    state, rest = jax.lax.scan(body, state, jnp.arange(num_blocks * size, length))
    return state, jnp.concatenate([trace.ravel(), rest])


def _block_size(length: int) -> int:
    """Give a divisor near the square root, so that the step is compiled once, or the root itself."""
    root = max(1, math.isqrt(length))
    return next((size for size in range(root, root // 2, -1) if length % size == 0), root)
