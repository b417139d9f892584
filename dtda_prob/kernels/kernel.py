"""The contract of a training algorithm, and the loop that runs it."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
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
        step_sizes: `(program) -> sizes`, shape `(step,)`: how far each step moves a parameter whose
            gradient is 1 throughout; infinite for steps that end at rest. Raises ValueError where
            steps are not proportional to gradients.
        temperature: of the posterior exp(-n L / temperature) that the algorithm draws from, if it does.
    """

    init: Callable[[Params, Program], Any]
    step: Callable[[PRNGKey, Any, Program, Weights], tuple[Any, Float[Array, ""]]]
    num_steps: Callable[[Program], int]
    num_passes: Callable[[Program], float]
    check: Callable[[Program], None]
    step_sizes: Callable[[Program], Float[np.ndarray, " step"]]
    temperature: float | None = None


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


class Path(NamedTuple):
    """Where a run has been, segment by segment.

    Attributes:
        ends: the parameters at the end of each segment, stacked; the last is what training gives.
        means: their mean over the steps of each segment.
        trace: the loss of each step.
    """

    ends: Params
    means: Params
    trace: Float[Array, " step"]


def path(kernel: Kernel, key: PRNGKey, program: Program, weights: Weights, num_segments: int) -> Path:
    """Train once and keep `num_segments` segments of each phase.

    Args:
        kernel: the training algorithm.
        key: all randomness, as in `run`.
        program: the model and its data.
        weights: one per datum.
        num_segments: segments of about equal length in each phase (fewer where it has fewer steps).
    """
    init_key, *keys = jax.random.split(key, 1 + len(kernel.phases))
    params, parts, traces = program.init(init_key), [], []
    for phase, phase_key in zip(kernel.phases, keys, strict=True):
        body, state = _body(phase, phase_key, program, weights), phase.init(params, program)
        for start, length in segments(phase, program, num_segments):
            (state, total), trace = jax.lax.scan(
                partial(_with_sum, body), (state, _zeros(params)), start + jnp.arange(length)
            )
            parts.append((state.params, jax.tree.map(lambda x, n=length: x / n, total)))
            traces.append(trace)
        params = state.params
    ends, means = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    return Path(ends, means, jnp.concatenate(traces))


def segment_sizes(kernel: Kernel, program: Program, num_segments: int) -> Float[np.ndarray, " segment"]:
    """Give the total step size of each segment of `path`; see `Phase.step_sizes`."""
    sizes = []
    for phase in kernel.phases:
        steps = phase.step_sizes(program)
        sizes += [steps[a : a + n].sum() for a, n in segments(phase, program, num_segments)]
    return np.array(sizes)


def segments(phase: Phase, program: Program, num_segments: int) -> list[tuple[int, int]]:
    """Give the first step and the number of steps of each segment."""
    num_steps = phase.num_steps(program)
    bounds = np.linspace(0, num_steps, min(num_segments, num_steps) + 1).astype(int)
    return [(int(a), int(b - a)) for a, b in itertools.pairwise(bounds)]


def _zeros(params: Params) -> Params:
    return jax.tree.map(jnp.zeros_like, params)


def _with_sum(body: Callable, carry: tuple[Any, Params], count: Int[Array, ""]) -> tuple:
    state, total = carry
    state, loss = body(state, count)
    return (state, jax.tree.map(jnp.add, total, state.params)), loss


def _run_phase(
    phase: Phase, key: PRNGKey, program: Program, weights: Weights, params: Params
) -> tuple[Params, Float[Array, " step"]]:
    body = _body(phase, key, program, weights)
    state, trace = _scan_in_blocks(body, phase.init(params, program), phase.num_steps(program))
    return state.params, trace


def _body(phase: Phase, key: PRNGKey, program: Program, weights: Weights) -> Callable:
    def body(state: Any, count: Int[Array, ""]) -> tuple[Any, Float[Array, ""]]:
        return phase.step(jax.random.fold_in(key, count), state, program, weights)

    return body


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
