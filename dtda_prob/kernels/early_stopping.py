"""Early stopping: the parameters of the best step by a measure on other data."""

from collections.abc import Callable
from dataclasses import KW_ONLY, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dtda_prob.kernels.kernel import Kernel, Phase, State, Step
from dtda_prob.kernels.wrappers import PhaseWrapper, Wrapper
from dtda_prob.measures import Measure
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class best(Wrapper):
    """Keep the parameters of the step at which a measure on validation data is the lowest.

    The measure is taken after every `every` steps of the last phase and after its last step, as a mean
    over its queries. Training itself runs to its end; with `patience`, nothing counts after so many
    checks in a row that are no better, as if training had stopped there. The derivative is the kept
    step's, and the choice of the step is held fixed. It draws from no posterior.

    Args:
        kernel: the training algorithm.
        measure: a measure of validation data, such as `dtda.measures.loss(x, y=y)`.
        every: steps from one check to the next.
        patience: checks in a row without improvement after which no more are made; None for all.
        highest: whether the highest value is the best, as of `accuracy`.

    Raises:
        ValueError: if `every` or `patience` is not positive.

    >>> import optax
    >>> from dtda_prob.kernels import sgd
    >>> from dtda_prob.measures import loss
    >>> validation = loss(jnp.ones((2, 3)), y=jnp.zeros(2))
    >>> kernel = best(sgd(optax.adam(1e-3), num_steps=100), validation, every=10)
    """

    measure: Measure | Callable[[Program], Measure]
    _: KW_ONLY
    every: int = 1
    patience: int | None = None
    highest: bool = False

    def __check_init__(self) -> None:
        if self.every < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError(f"every={self.every} and patience={self.patience} must be at least 1")

    def bind(self, program: Program) -> Kernel:
        """Return the kernel with its measure bound to the program."""
        is_bound = isinstance(self.measure, Measure) and self.measure.program is not None
        measure = self.measure if is_bound else self.measure(program)
        return replace(self, kernel=self.kernel.bind(program), measure=measure)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases, the last with its best step for its parameters."""
        *before, last = self.kernel.phases
        return (*before, Best(last, self))

    @property
    def num_states(self) -> int:
        """Return 1: the best step of a run is its only draw."""
        return 1

    def score(self, params: Params) -> Float[Array, ""]:
        """Compute the number of which the lowest is the best."""
        measure: Any = self.measure
        value = jax.lax.stop_gradient(measure.readout(measure.outputs(params)).mean())
        return -value if self.highest else value


class BestState(NamedTuple):
    """The best parameters so far, the state that training goes on from, and what is known of them."""

    params: Params
    inner: Any
    score: Float[Array, ""]
    stale: Int[Array, ""]
    count: Int[Array, ""]


class Best(PhaseWrapper):
    """A phase that hands on the parameters of its best step."""

    best: best

    @property
    def temperature(self) -> None:
        """Return None: the best step is a draw from no posterior."""

    def init(self, previous: State, program: Program) -> BestState:
        inner, zero = self.phase.init(previous, program), jnp.zeros((), int)
        shape = jax.eval_shape(self.best.score, inner.params)
        return BestState(inner.params, inner, jnp.full((), jnp.inf, shape.dtype), zero, zero)

    def step(self, key: PRNGKey, state: BestState, program: Program, weights: Weights) -> Step:
        inner, loss = self.phase.step(key, state.inner, program, weights)
        count = state.count + 1
        is_due = (count % self.best.every == 0) | (count == self.count_steps(program))
        is_due &= state.stale < (self.best.patience or count + 1)
        none = jnp.full_like(state.score, jnp.inf)
        score = jax.lax.cond(is_due, self.best.score, lambda params: none, inner.params)
        better = score < state.score
        params = jax.tree.map(lambda new, old: jnp.where(better, new, old), inner.params, state.params)
        stale = jnp.where(better, 0, state.stale + is_due)
        return BestState(params, inner, jnp.minimum(score, state.score), stale, count), loss

    def step_sizes(self, program: Program) -> None:
        """Return None: which step is kept is known after training only."""

    def stats(self, state: BestState) -> dict[str, Array]:
        score = -state.score if self.best.highest else state.score
        return self.phase.stats(state.inner) | {"best": score}
