"""Kernels made of kernels: they hold them, and change one thing each."""

from dataclasses import KW_ONLY
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dtda_prob.compiling import is_tracer
from dtda_prob.kernels.kernel import Kernel, Masks, Phase, Sizes, State, Step
from dtda_prob.kernels.settings import check_between
from dtda_prob.module import call
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class sequence(Kernel):
    """Run kernels one after the other, each from where the previous one ended.

    The states of the last one are the draws.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> warm, cold = (sgd(optax.sgd(rate), num_steps=10) for rate in (0.1, 0.01))
    >>> len(sequence(warm, cold).phases)
    2
    """

    kernels: tuple[Kernel, ...]

    def __init__(self, *kernels: Kernel):
        if not kernels:
            raise ValueError("sequence: pass at least one kernel")
        self.kernels = kernels

    def __repr__(self) -> str:
        return call("sequence", *self.kernels)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of all kernels."""
        return tuple(phase for kernel in self.kernels for phase in kernel.phases)

    @property
    def num_states(self) -> int:
        """Return the number of states that the last kernel keeps."""
        return self.kernels[-1].num_states

    @property
    def thinning(self) -> int:
        """Return the thinning of the last kernel."""
        return self.kernels[-1].thinning


class keep(Kernel):
    """Keep the last states of each run as draws, not its end alone.

    States of one run are a chain: they share its start and are correlated, so that errors are computed
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

    kernel: Kernel
    num_states: int = 1
    _: KW_ONLY
    thinning: int = 1

    def __check_init__(self) -> None:
        if self.num_states < 1 or self.thinning < 1:
            raise ValueError(
                f"num_states={self.num_states} and thinning={self.thinning} must be at least 1"
            )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of the kernel."""
        return self.kernel.phases


class Wrapper(Kernel):
    """A kernel that changes the phases of another, and keeps as many of its states."""

    kernel: Kernel

    @property
    def num_states(self) -> int:
        """Return the number of states that the kernel keeps."""
        return self.kernel.num_states

    @property
    def thinning(self) -> int:
        """Return the thinning of the kernel."""
        return self.kernel.thinning


class PhaseWrapper(Phase):
    """A phase that is another one but for what a subclass overrides."""

    phase: Phase

    @property
    def temperature(self) -> float | None:
        """Return the temperature of the phase."""
        return self.phase.temperature

    @property
    def resolution(self) -> float:
        """Return the resolution of the phase."""
        return self.phase.resolution

    @property
    def not_differentiable(self) -> str:
        """Return why the phase has no derivative."""
        return self.phase.not_differentiable

    @property
    def keeps_state(self) -> bool:
        """Return whether the phase takes over the state of layers."""
        return self.phase.keeps_state

    @property
    def rounds(self) -> bool:
        """Return whether the phase computes with fewer digits than float32."""
        return self.phase.rounds

    def init(self, previous: State, program: Program) -> Any:
        return self.phase.init(previous, program)

    def step(self, key: PRNGKey, state: Any, program: Program, weights: Weights) -> Step:
        return self.phase.step(key, state, program, weights)

    def count_steps(self, program: Program) -> int:
        return self.phase.count_steps(program)

    def num_passes(self, program: Program) -> float:
        return self.phase.num_passes(program)

    def check_program(self, program: Program) -> None:
        self.phase.check_program(program)

    def step_sizes(self, program: Program) -> Sizes | None:
        return self.phase.step_sizes(program)

    def stats(self, state: Any) -> dict[str, Array]:
        return self.phase.stats(state)

    def hyperparameters(self, program: Program) -> frozenset[str]:
        return self.phase.hyperparameters(program)

    def moved(self, program: Program, before: Masks, num_steps: int) -> Masks:
        return self.phase.moved(program, before, num_steps)


class truncate(Wrapper):
    """Stop after a share of the steps, the first of which are the very same.

    With the same key the parameters are some that the whole training passes through: phases keep
    their keys, batches their order and schedules their length. At least one step is taken; a phase that
    is not reached takes none. A training that stops early draws from no posterior, and its end is its
    only draw.

    Args:
        kernel: the training algorithm.
        share: above 0 and at most 1.

    Raises:
        ValueError: if `share` is out of range.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> len(truncate(sgd(optax.sgd(0.1), num_steps=10), 0.5).phases)
    1
    """

    share: float = eqx.field(static=True)

    def __check_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} must be above 0 and at most 1")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases, shortened."""
        phases = self.kernel.phases
        return tuple(Truncated(phase, phases, i, self.share) for i, phase in enumerate(phases))

    @property
    def num_states(self) -> int:
        """Return 1: the end of the run is its only draw."""
        return 1


class Truncated(PhaseWrapper):
    """A phase of a truncated run, by its position among all phases."""

    all_phases: tuple[Phase, ...]
    position: int
    share: float = eqx.field(static=True)

    @property
    def temperature(self) -> float | None:
        """Return the temperature where nothing is cut off."""
        return self.phase.temperature if self.share == 1 else None

    def count_steps(self, program: Program) -> int:
        lengths = [phase.count_steps(program) for phase in self.all_phases]
        left = max(1, round(self.share * sum(lengths))) - sum(lengths[: self.position])
        return min(max(left, 0), lengths[self.position])

    def num_passes(self, program: Program) -> float:
        whole = max(1, self.phase.count_steps(program))
        return self.phase.num_passes(program) * self.count_steps(program) / whole

    def step_sizes(self, program: Program) -> Sizes | None:
        sizes = self.phase.step_sizes(program)
        return None if sizes is None else sizes[: self.count_steps(program)]


class average(Wrapper):
    """Average the iterates of the last phase; training itself goes on from the iterates.

    With `decay` the average is exponential and not biased towards the start: iterate t of T has
    weight in proportion to decay^(T - t). With `share` it is the plain mean over the last share of
    the steps (Polyak and Ruppert), and before that the iterate. The average is what is measured or
    handed on, and `unroll` differentiates it through all iterates. It draws from no posterior.

    Args:
        kernel: the training algorithm.
        decay: above 0 and below 1, such as 0.99.
        share: above 0 and at most 1.

    Raises:
        ValueError: unless exactly one of `decay` and `share` is passed and in range.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> kernel = average(sgd(optax.sgd(0.1), num_steps=100), share=0.5)
    """

    _: KW_ONLY
    decay: float | None = None
    share: float | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        if (self.decay is None) == (self.share is None):
            raise ValueError(f"pass one of decay and share; got decay={self.decay}, share={self.share}")
        check_between(0, 1, decay=self.decay)
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} must be above 0 and at most 1")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases, the last with its average for its parameters."""
        *before, last = self.kernel.phases
        return (*before, Averaged(last, self))

    def rate(self, count: Int[Array, "*step"], num_steps: int) -> Float[Array, "*step"]:
        """Return how far the average moves to the iterate at a step (1 first) out of all steps."""
        if self.share is not None:
            return 1 / jnp.maximum(count - num_steps + max(1, round(self.share * num_steps)), 1)
        decay = jnp.asarray(self.decay)
        return (1 - decay) / -jnp.expm1(count * jnp.log(decay))


class AverageState(NamedTuple):
    """The average, the state that training goes on from, and the step count."""

    params: Params
    inner: Any
    count: Int[Array, ""]


class Averaged(PhaseWrapper):
    """A phase whose parameters are an average of its iterates."""

    average: average

    @property
    def temperature(self) -> None:
        """Return None: averages draw from no posterior."""

    def init(self, previous: State, program: Program) -> AverageState:
        inner = self.phase.init(previous, program)
        return AverageState(inner.params, inner, jnp.zeros((), int))

    def step(self, key: PRNGKey, state: AverageState, program: Program, weights: Weights) -> Step:
        inner, loss = self.phase.step(key, state.inner, program, weights)
        count = state.count + 1
        part = self.average.rate(count, self.count_steps(program))

        def move(mean: Array, iterate: Array) -> Array:
            return mean + jnp.asarray(part, mean.dtype) * (iterate - mean)

        return AverageState(jax.tree.map(move, state.params, inner.params), inner, count), loss

    def step_sizes(self, program: Program) -> Sizes | None:
        """Return how far the average moves at each step where the iterates move so far."""
        sizes = self.phase.step_sizes(program)
        if sizes is None:
            return None
        rates = self.average.rate(jnp.arange(1, len(sizes) + 1), len(sizes))
        if is_tracer(sizes):
            return _moves_of_average(rates, jnp.cumsum(jnp.asarray(sizes)))
        rates, places = np.asarray(rates), np.zeros(len(sizes) + 1)
        for count, iterate in enumerate(np.cumsum(sizes)):
            places[count + 1] = places[count] + rates[count] * (iterate - places[count])
        return np.diff(places)

    def stats(self, state: AverageState) -> dict[str, Array]:
        return self.phase.stats(state.inner)


class in_precision(Wrapper):
    """Evaluate the objective and its gradient in this precision; train in the parameters' own.

    Parameters and floating data are cast before the model sees them. The weights of the examples, the
    parameters that are updated and the optimizer's state keep their precision, so that small weights
    and small updates count. `unroll` differentiates what is run, in as few digits; finite differences
    with small steps see rounding alone. Float16 loses small gradients, for which nothing is scaled
    here.

    A model that makes arrays of its own should take their precision from its arguments.

    Args:
        kernel: the training algorithm; one that trains on the program's objective.
        dtype: a floating type.

    Raises:
        ValueError: if `dtype` is not a floating type, or the kernel trains on something else than the
            program's objective, as `svi` does.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> kernel = in_precision(sgd(optax.adam(1e-3), num_steps=100), jnp.bfloat16)
    """

    dtype: DTypeLike = eqx.field(default=jnp.bfloat16, static=True)

    def __check_init__(self) -> None:
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise ValueError(f"dtype={self.dtype} must be a floating type, such as jnp.bfloat16")
        others = [phase.own_objective for phase in self.kernel.phases if phase.own_objective]
        if others:
            raise ValueError(
                f"in_precision rounds the program's objective, and this kernel trains on {others[0]}; "
                "use sgd, or a sampler that draws from the program"
            )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases, with the program in this precision."""
        return tuple(Rounded(phase, self.dtype) for phase in self.kernel.phases)


class Rounded(PhaseWrapper):
    """A phase whose steps see the program in another precision."""

    dtype: DTypeLike = eqx.field(static=True)

    @property
    def rounds(self) -> bool:
        """Return whether the precision has fewer digits than float32."""
        return jnp.finfo(self.dtype).bits < jnp.finfo(jnp.float32).bits

    def step(self, key: PRNGKey, state: Any, program: Program, weights: Weights) -> Step:
        return self.phase.step(key, state, program.cast(self.dtype), weights)


def _moves_of_average(rates: Array, places: Array) -> Array:
    """Return how far an average moves at each step, after iterates at these places."""

    def body(mean: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        moved = pair[0] * (pair[1] - mean)
        return mean + moved, moved

    return jax.lax.scan(body, jnp.zeros_like(places[0]), (rates.astype(places.dtype), places))[1]
