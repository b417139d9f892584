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


class Start(NamedTuple):
    """What the first phase starts from: parameters alone."""

    params: Params


def _no_stats(state: Any) -> dict[str, Array]:
    return {}


class Phase(NamedTuple):
    """One training algorithm with a fixed number of steps.

    Attributes:
        init: `(previous, program) -> state`, from the state that the phase before ends with, whose
            `params` are where this one starts.
        step: `(key, state, program, weights) -> (state, loss)`, pure, with the loss of the step.
        num_steps: `(program) -> int`, which may depend on the program's `num_rows`.
        num_passes: `(program) -> float`, the gradients over all rows that its steps amount to.
        check: `(program) -> None`, raises where the program does not suit the algorithm.
        step_sizes: `(program) -> sizes`, shape `(step,)`: how far each step moves a parameter whose
            gradient is 1 throughout; infinite for steps that end at rest. Raises ValueError where
            steps are not proportional to gradients.
        temperature: of the posterior exp(-n L / temperature) that the algorithm draws from, if it does.
        stats: `(state) -> numbers`, what else is kept of a state: energy, acceptance, convergence.
        hyperparameters: `(program) -> names`, those that may vary as settings of the program.
        no_derivative: why its steps cannot be differentiated, in a sentence, if they cannot.
        own_objective: what it trains on, where that is not the program's objective.
        name: the algorithm, for those who read what is shown of it.
    """

    init: Callable[[State, Program], Any]
    step: Callable[[PRNGKey, Any, Program, Weights], tuple[Any, Float[Array, ""]]]
    num_steps: Callable[[Program], int]
    num_passes: Callable[[Program], float]
    check: Callable[[Program], None]
    step_sizes: Callable[[Program], Float[np.ndarray, " step"]]
    temperature: float | None = None
    stats: Callable[[Any], dict[str, Array]] = _no_stats
    hyperparameters: Callable[[Program], frozenset[str]] = lambda program: frozenset()
    no_derivative: str | None = None
    own_objective: str | None = None
    name: str = "training"


class Kernel(NamedTuple):
    """A training algorithm: phases run one after the other, each from where the last one ended.

    Attributes:
        phases: the phases.
        num_states: how many states of a run are outcomes, the last of the last phase; see `keep`.
        thinning: steps from one of them to the next.
    """

    phases: tuple[Phase, ...]
    num_states: int = 1
    thinning: int = 1

    def __repr__(self) -> str:
        names = ", then ".join(phase.name for phase in self.phases)
        return names if self.num_states == 1 else f"{names}, {self.num_states} states of each run"

    def describe(self, program: Program) -> str:
        """Say which algorithms run on a program, and how many steps they take."""
        return ", then ".join(_steps_in_words(phase, program) for phase in self.phases)

    @property
    def no_derivative(self) -> str | None:
        """Say why training cannot be differentiated, if it cannot."""
        return next((phase.no_derivative for phase in self.phases if phase.no_derivative), None)

    def check(self, program: Program) -> None:
        """Refuse a program that does not suit the algorithm.

        Raises:
            ValueError: if a phase cannot run on it, the last is too short for its states, or a setting
                varies that is neither an argument of the model nor a hyper-parameter.
        """
        for phase in self.phases:
            phase.check(program)
        known = frozenset().union(*(phase.hyperparameters(program) for phase in self.phases))
        unknown = [name for name in program.hyperparameters if name not in known]
        if unknown:
            raise ValueError(
                f"settings {unknown} vary, and are neither arguments of the model nor hyper-parameters "
                f"of the kernel that can, which are {sorted(known)}"
            )
        available = self.phases[-1].num_steps(program)
        if self.num_states > 1 and self.num_states * self.thinning > available:
            raise ValueError(
                f"num_states={self.num_states}, {self.thinning} steps apart, do not fit into the "
                f"{available} steps of the last phase; keep fewer or train longer"
            )


def _steps_in_words(phase: Phase, program: Program) -> str:
    count = phase.num_steps(program)
    return phase.name if count < 2 else f"{phase.name}, {count} steps"


def keep(kernel: Kernel, num_states: int, *, thinning: int = 1) -> Kernel:
    """Take the last states of each run for outcomes, not its end alone.

    States of one run are a chain: they share its start and are correlated, so that errors are taken
    from run to run. Right for samplers, and for the late iterates of SGD at a constant rate.

    Args:
        kernel: the training algorithm.
        num_states: states of each run, the last of which is its end.
        thinning: steps of the last phase from state to state.

    Raises:
        ValueError: if either is not positive; in `Training`, if the last phase is too short.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> keep(sgd(optax.sgd(0.1), num_steps=100), 5, thinning=10).num_states
    5
    """
    if num_states < 1 or thinning < 1:
        raise ValueError(f"num_states={num_states} and thinning={thinning} must be at least 1")
    return kernel._replace(num_states=num_states, thinning=thinning)


def then(*kernels: Kernel) -> Kernel:
    """Chain kernels: each starts from where the one before ends; the last one's states are kept.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> warm, cold = (sgd(optax.sgd(rate), num_steps=10) for rate in (0.1, 0.01))
    >>> len(then(warm, cold).phases)
    2
    """
    return kernels[-1]._replace(phases=tuple(phase for each in kernels for phase in each.phases))


class Run(NamedTuple):
    """What a run ends with; where several states are kept, each leaf has a leading axis `state`.

    Attributes:
        params: the trained parameters.
        trace: the loss of each step; of several states, of the steps since the one before.
        stats: what the last phase says of its state.
    """

    params: Params
    trace: Float[Array, "*state step"]
    stats: dict[str, Array]


def run(
    kernel: Kernel, key: PRNGKey, program: Program, weights: Weights, params: Params | None = None
) -> Run:
    """Train once: a pure function of key and weights, differentiable in both modes.

    Reverse mode keeps about 2 sqrt(T) states of T steps and recomputes the rest once.

    Args:
        kernel: the training algorithm.
        key: all randomness of the run; the same key means the same initialisation, batches and noise.
        program: the model and its data.
        weights: one per datum.
        params: where to start; a draw of `program.init` if None.
    """
    init_key, *keys = jax.random.split(key, 1 + len(kernel.phases))
    state: State = Start(program.init(init_key) if params is None else params)
    traces, last = [], kernel.phases[-1]
    for phase, phase_key in zip(kernel.phases[:-1], keys[:-1], strict=True):
        body = _body(phase, phase_key, program, weights)
        state, trace = _scan_in_blocks(body, phase.init(state, program), phase.num_steps(program))
        traces.append(trace)
    body, length = _body(last, keys[-1], program, weights), last.num_steps(program)
    state = last.init(state, program)
    if kernel.num_states > 1:
        return _late_states(body, last, state, length, kernel)
    state, trace = _scan_in_blocks(body, state, length)
    return Run(state.params, jnp.concatenate([*traces, trace]), last.stats(state))


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
    state: State = Start(program.init(init_key))
    parts, traces = [], []
    for phase, phase_key in zip(kernel.phases, keys, strict=True):
        body, state = _body(phase, phase_key, program, weights), phase.init(state, program)
        for start, length in segments(phase, program, num_segments):
            (state, total), trace = jax.lax.scan(
                partial(_with_sum, body), (state, _zeros(state.params)), start + jnp.arange(length)
            )
            parts.append((state.params, jax.tree.map(lambda x, n=length: x / n, total)))
            traces.append(trace)
    if not parts:  # No step is taken, and training has been where it starts.
        parts, traces = [(state.params, state.params)], [jnp.zeros(0)]
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


def _late_states(body: Callable, phase: Phase, state: Any, length: int, kernel: Kernel) -> Run:
    """Run up to the first of the states that are kept, and from each to the next."""
    before = length - kernel.num_states * kernel.thinning
    if before:
        state, _ = _scan_in_blocks(body, state, before)

    def block(state: Any, start: Int[Array, ""]) -> tuple[Any, Run]:
        state, trace = jax.lax.scan(body, state, start + jnp.arange(kernel.thinning))
        return state, Run(state.params, trace, phase.stats(state))

    starts = before + kernel.thinning * jnp.arange(kernel.num_states)
    return jax.lax.scan(jax.checkpoint(block, prevent_cse=False), state, starts)[1]


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
