"""Langevin dynamics on batches: stochastic gradients with noise, whose states draw from a posterior."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from dtda_prob.kernels import batches
from dtda_prob.kernels.kernel import Sizes, State, Step, no_step_size
from dtda_prob.kernels.settings import check_positive
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

StepSize = float | optax.Schedule
Gradient = Callable[[Params], tuple[Float[Array, ""], Params]]
"""From a position to the loss of a batch and its estimate of the gradient of the log posterior."""

RMS_FLOOR = 1e-5
"""Added to the root of averaged squared gradients, so that flat directions have finite steps."""


class LangevinState(NamedTuple):
    """Parameters, what the dynamics carry besides, the row order of this epoch and the step count."""

    params: Params
    carried: Any
    order: batches.Order
    count: Int[Array, ""]


class Langevin(batches.BatchPhase):
    """Dynamics that advance on batches.

    Attributes:
        step_size: of the dynamics, a number or a schedule `(step) -> size`.
        temperature: of the posterior, above 0.
    """

    step_size: StepSize
    _: KW_ONLY
    temperature: float = 1.0

    def __check_init__(self) -> None:
        check_positive(temperature=self.temperature)
        if not callable(self.step_size):
            check_positive(step_size=self.step_size)

    def begin(self, params: Params) -> Any:
        """Return what the dynamics carry besides the parameters, before the first step."""
        return None

    @abstractmethod
    def advance(
        self, key: PRNGKey, state: LangevinState, gradient_at: Gradient, size: Array, scale: Any
    ) -> tuple[Params, Any, Array]:
        """Return the next parameters, what is carried besides, and the loss of the batch.

        Args:
            key: of the noise.
            state: of the dynamics.
            gradient_at: loss and gradient at a position.
            size: step size.
            scale: n / temperature, by which gradients of the objective are multiplied.
        """

    def init(self, previous: State, program: Program) -> LangevinState:
        order, params = jnp.zeros(program.num_rows, int), previous.params
        return LangevinState(params, self.begin(params), order, jnp.zeros((), int))

    def step(self, key: PRNGKey, state: LangevinState, program: Program, weights: Weights) -> Step:
        batch_key, model_key, noise_key = jax.random.split(key, 3)
        indices, order = self.visits.take(batch_key, state.count, state.order, program, weights)
        scale = program.num_rows / self.temperature

        def gradient_at(position: Params) -> tuple[Array, Params]:
            loss, slope = jax.value_and_grad(program.objective)(position, weights, indices, model_key)
            return loss, optax.tree.scale(-scale, slope)

        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        size = self.size_at(state.count) * program.factor(weights, "step_size")
        size = jnp.asarray(size, dtype)
        params, carried, loss = self.advance(noise_key, state, gradient_at, size, scale)
        return LangevinState(params, carried, order, state.count + 1), loss

    def size_at(self, count: Any) -> Any:
        """Return the step size of one step."""
        return self.step_size(count) if callable(self.step_size) else self.step_size

    def hyperparameters(self, program: Program) -> frozenset[str]:
        return frozenset({"step_size"})

    def step_sizes(self, program: Program) -> Sizes | None:
        raise no_step_size("dynamics with momentum have none, unlike sgld")


class sgld(Langevin):
    """Stochastic gradient Langevin dynamics (Welling and Teh, 2011; BlackJAX's).

    theta <- theta + h grad log p + sqrt(2 h) noise, with p proportional to exp(-n L / temperature): its
    states draw from p up to an error of the order of h and of the noise of batches. The same key gives
    the same noise whatever the weights. For several states of a run, see `keep`.

    Args:
        step_size: h, in units of squared parameters, well below the smallest posterior variance; or a
            schedule `(step) -> h`.
        num_steps: number of steps on all data; where rows are dropped, see `sgd`.
        num_epochs: number of epochs instead.
        batch_size: examples per step; all of them if None.
        replace: draw each batch afresh, with replacement, instead of by epochs.
        temperature: of the posterior, above 0.
        rms_decay: precondition by the root of squared gradients of L, averaged at this decay (pSGLD, Li
            et al., arXiv 1512.07666, without its curvature term); h is then in units of those.

    Raises:
        ValueError: if a number is out of range, or not exactly one of `num_steps` and `num_epochs` is
            passed.

    >>> from dtda_prob.kernels import keep
    >>> keep(sgld(1e-4, num_epochs=100, batch_size=32), 20, thinning=10).num_states
    20
    """

    _: KW_ONLY
    rms_decay: float | None = None

    def __check_init__(self) -> None:
        if isinstance(self.rms_decay, float | int) and not 0 <= self.rms_decay < 1:
            raise ValueError(f"rms_decay={self.rms_decay} must be at least 0 and below 1")

    def begin(self, params: Params) -> Params | None:
        return None if self.rms_decay is None else optax.tree.zeros_like(params)

    def advance(
        self, key: PRNGKey, state: LangevinState, gradient_at: Gradient, size: Array, scale: Any
    ) -> tuple[Params, Any, Array]:
        loss, gradient = gradient_at(state.params)
        squares, roots = _precondition(state, optax.tree.scale(1 / scale, gradient), self.rms_decay)
        whitened = optax.tree.div(state.params, roots)
        steepest = optax.tree.mul(gradient, roots)
        sampler = blackjax.sgld.build_kernel()
        moved = sampler(key, whitened, lambda position, batch: steepest, None, size)
        return optax.tree.mul(moved, roots), squares, loss

    def step_sizes(self, program: Program) -> Sizes | None:
        if self.rms_decay is not None:
            return None
        sizes = [self.size_at(count) for count in range(self.count_steps(program))]
        return np.asarray(sizes, float) * program.num_rows / self.temperature


class sghmc(Langevin):
    """Stochastic gradient Hamiltonian Monte Carlo (Chen et al., arXiv 1402.4102; BlackJAX's).

    Each step draws a momentum and integrates the dynamics with friction on one batch. The integration
    is explicit: it is stable where the step size is below the friction times the smallest posterior
    variance, and accurate well below.

    Args:
        step_size: of the integration, in units of parameters, as momenta have variance 1; or a schedule
            `(step) -> size`.
        num_steps: see `sgld`, as for the batches of each step.
        temperature: of the posterior, above 0.
        num_integration_steps: gradients per step.
        friction: per unit of time.

    Raises:
        ValueError: if a number is out of range, or not exactly one of `num_steps` and `num_epochs` is
            passed.
    """

    _: KW_ONLY
    num_integration_steps: int = 10
    friction: float = 1.0

    def __check_init__(self) -> None:
        check_positive(num_integration_steps=self.num_integration_steps, friction=self.friction)

    def advance(
        self, key: PRNGKey, state: LangevinState, gradient_at: Gradient, size: Array, scale: Any
    ) -> tuple[Params, Any, Array]:
        def gradient(position: Params, batch: None) -> Params:
            return gradient_at(position)[1]

        sampler = blackjax.sghmc.build_kernel(alpha=self.friction)
        moved = sampler(key, state.params, gradient, None, size, self.num_integration_steps)
        return moved, None, gradient_at(state.params)[0]

    def num_passes(self, program: Program) -> float:
        return self.num_integration_steps * super().num_passes(program)


class sgnht(Langevin):
    """Stochastic gradient Nose-Hoover thermostat (Ding et al., 2014; BlackJAX's).

    Its friction adapts, so that the noise of batches does not heat the dynamics on average over
    parameters. The integration is explicit, as in `sghmc`.

    Args:
        step_size: of the integration, see `sghmc`.
        num_steps: see `sgld`, as for the batches of each step.
        temperature: of the posterior, above 0.
        friction: initial friction, which also sets the noise that is added.

    Raises:
        ValueError: if a number is out of range, or not exactly one of `num_steps` and `num_epochs` is
            passed.
    """

    _: KW_ONLY
    friction: float = 1.0

    def __check_init__(self) -> None:
        check_positive(friction=self.friction)

    def begin(self, params: Params) -> tuple[Params, Array]:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return optax.tree.zeros_like(params), jnp.asarray(self.friction, dtype)

    def advance(
        self, key: PRNGKey, state: LangevinState, gradient_at: Gradient, size: Array, scale: Any
    ) -> tuple[Params, Any, Array]:
        loss, gradient = gradient_at(state.params)
        before = blackjax.sgmcmc.sgnht.SGNHTState(state.params, *state.carried)
        sampler = blackjax.sgnht.build_kernel(alpha=self.friction)
        after = sampler(key, before, lambda position, batch: gradient, None, size)
        return after.position, (after.momentum, after.xi), loss


def _precondition(
    state: LangevinState, gradient: Params, decay: float | None
) -> tuple[Params | None, Params]:
    """Average squared gradients, and return the roots of the preconditioner 1 / sqrt(average)."""
    if decay is None:
        return None, optax.tree.ones_like(state.params)
    squares = optax.tree.update_moment_per_elem_norm(gradient, state.carried, decay, 2)
    unbiased = optax.tree.bias_correction(squares, decay, state.count + 1)
    return squares, jax.tree.map(lambda square: (jnp.sqrt(square) + RMS_FLOOR) ** -0.5, unbiased)
