"""Langevin dynamics on batches: stochastic gradients with noise, whose states draw from a posterior."""

from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from dtda_prob.kernels import batches
from dtda_prob.kernels.kernel import Kernel, Phase, State
from dtda_prob.kernels.steps import Steps, steps
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

StepSize = float | optax.Schedule
Gradient = Callable[[Params], tuple[Float[Array, ""], Params]]
"""From a position to the loss of a batch and the gradient of the log posterior that it estimates."""

RMS_FLOOR = 1e-5
"""Added to the root of averaged squared gradients, so that flat directions have finite steps."""


class LangevinState(NamedTuple):
    """Parameters, what the dynamics carry beside them, the order of this epoch and the steps taken."""

    params: Params
    carried: Any
    order: batches.Order
    count: Int[Array, ""]


def sgld(
    step_size: StepSize,
    *,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    batch_size: int | None = None,
    replace: bool = False,
    temperature: float = 1.0,
    rms_decay: float | None = None,
) -> Kernel:
    """Run stochastic gradient Langevin dynamics (Welling and Teh, 2011; BlackJAX's).

    theta <- theta + h grad log p + sqrt(2 h) noise, with p proportional to exp(-n L / temperature): its
    states draw from p up to an error of the order of h and of the noise of batches. The same key gives
    the same noise whatever the weights. For several states of a run, see `keep`.

    Args:
        step_size: h, in units of squared parameters, well below the smallest posterior variance; or a
            schedule `(step) -> h`.
        num_steps: number of steps on all data (fewer, in proportion, when rows are dropped).
        num_epochs: number of epochs instead.
        batch_size: data per step; all of them if None.
        replace: draw each batch afresh, with replacement, instead of by epochs.
        temperature: of the posterior, above 0.
        rms_decay: precondition by the root of squared gradients of L, averaged at this decay (pSGLD, Li
            et al., arXiv 1512.07666, without its curvature term); h is then in units of those.

    Raises:
        ValueError: if a number is out of range, or not exactly one of `num_steps` and `num_epochs` is
            given.

    >>> from dtda_prob.kernels import keep
    >>> keep(sgld(1e-4, num_epochs=100, batch_size=32), 20, thinning=10).num_states
    20
    """
    _check(step_size, temperature)
    if rms_decay is not None and not 0 <= rms_decay < 1:
        raise ValueError(f"rms_decay={rms_decay} must be at least 0 and below 1")
    plan, sampler = steps(num_steps, num_epochs, batch_size, replace), blackjax.sgld.build_kernel()

    def init(params: Params) -> Params:
        return None if rms_decay is None else optax.tree.zeros_like(params)

    def advance(
        key: PRNGKey, state: LangevinState, gradient_at: Gradient, size: Array, scale: float
    ) -> tuple[Params, Any, Array]:
        loss, gradient = gradient_at(state.params)
        squares, roots = _precondition(state, optax.tree.scale(1 / scale, gradient), rms_decay)
        whitened = optax.tree.div(state.params, roots)
        steepest = optax.tree.mul(gradient, roots)
        moved = sampler(key, whitened, lambda position, batch: steepest, None, size)
        return optax.tree.mul(moved, roots), squares, loss

    def step_sizes(program: Program) -> Float[np.ndarray, " step"]:
        if rms_decay is not None:
            raise ValueError(
                "the total step size of training is asked for (damping='auto', segments or "
                "trajectory), and preconditioned steps are not one multiple of the gradient; take "
                "influence with its damping as a number, or leave rms_decay out"
            )
        sizes = [_size_at(step_size, count) for count in range(plan.count(program))]
        return np.asarray(sizes, float) * program.num_rows / temperature

    phase = _phase("sgld", plan, step_size, temperature, init, advance)
    return Kernel((phase._replace(step_sizes=step_sizes),))


def sghmc(
    step_size: StepSize,
    *,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    batch_size: int | None = None,
    replace: bool = False,
    temperature: float = 1.0,
    num_integration_steps: int = 10,
    friction: float = 1.0,
) -> Kernel:
    """Run stochastic gradient Hamiltonian Monte Carlo (Chen et al., arXiv 1402.4102; BlackJAX's).

    Each step draws a momentum and integrates the dynamics with friction on one batch. The integration
    is explicit: it is stable where the step size is below the friction times the smallest posterior
    variance, and accurate well below.

    Args:
        step_size: of the integration, in units of parameters, as momenta have variance 1; or a schedule
            `(step) -> size`.
        num_steps: see `sgld`, as the next four.
        num_epochs: an epoch has as many steps as batches.
        batch_size: data per step.
        replace: draw batches with replacement.
        temperature: of the posterior, above 0.
        num_integration_steps: gradients per step.
        friction: per unit of time.

    Raises:
        ValueError: if a number is out of range, or not exactly one of `num_steps` and `num_epochs` is
            given.
    """
    _check(step_size, temperature)
    if num_integration_steps < 1 or not friction > 0:
        raise ValueError(
            f"num_integration_steps={num_integration_steps} must be at least 1 and friction={friction} "
            "above 0"
        )
    plan = steps(num_steps, num_epochs, batch_size, replace)
    sampler = blackjax.sghmc.build_kernel(alpha=friction)

    def advance(
        key: PRNGKey, state: LangevinState, gradient_at: Gradient, size: Array, scale: float
    ) -> tuple[Params, Any, Array]:
        def gradient(position: Params, batch: None) -> Params:
            return gradient_at(position)[1]

        moved = sampler(key, state.params, gradient, None, size, num_integration_steps)
        return moved, None, gradient_at(state.params)[0]

    phase = _phase("sghmc", plan, step_size, temperature, lambda params: None, advance)
    passes = plan.count_passes
    return Kernel((phase._replace(num_passes=lambda program: num_integration_steps * passes(program)),))


def sgnht(
    step_size: StepSize,
    *,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    batch_size: int | None = None,
    replace: bool = False,
    temperature: float = 1.0,
    friction: float = 1.0,
) -> Kernel:
    """Run the stochastic gradient Nose-Hoover thermostat (Ding et al., 2014; BlackJAX's).

    Its friction adapts, so that the noise of batches does not heat the dynamics on average over
    parameters. The integration is explicit, as that of `sghmc`.

    Args:
        step_size: of the integration, see `sghmc`.
        num_steps: see `sgld`, as the next four.
        num_epochs: number of epochs instead.
        batch_size: data per step.
        replace: draw batches with replacement.
        temperature: of the posterior, above 0.
        friction: to begin with, and of the noise that is added.

    Raises:
        ValueError: if a number is out of range, or not exactly one of `num_steps` and `num_epochs` is
            given.
    """
    _check(step_size, temperature)
    if not friction > 0:
        raise ValueError(f"friction={friction} must be above 0")
    plan = steps(num_steps, num_epochs, batch_size, replace)
    sampler = blackjax.sgnht.build_kernel(alpha=friction)

    def init(params: Params) -> tuple[Params, Array]:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return optax.tree.zeros_like(params), jnp.asarray(friction, dtype)

    def advance(
        key: PRNGKey, state: LangevinState, gradient_at: Gradient, size: Array, scale: float
    ) -> tuple[Params, Any, Array]:
        loss, gradient = gradient_at(state.params)
        before = blackjax.sgmcmc.sgnht.SGNHTState(state.params, *state.carried)
        after = sampler(key, before, lambda position, batch: gradient, None, size)
        return after.position, (after.momentum, after.xi), loss

    return Kernel((_phase("sgnht", plan, step_size, temperature, init, advance),))


def _phase(
    name: str,
    plan: Steps,
    step_size: StepSize,
    temperature: float,
    begin: Callable,
    advance: Callable,
) -> Phase:
    """Make a phase of dynamics that advance on batches."""

    def init(previous: State, program: Program) -> LangevinState:
        order, params = jnp.zeros(program.num_rows, int), previous.params
        return LangevinState(params, begin(params), order, jnp.zeros((), int))

    def step(
        key: PRNGKey, state: LangevinState, program: Program, weights: Weights
    ) -> tuple[LangevinState, Float[Array, ""]]:
        batch_key, model_key, noise_key = jax.random.split(key, 3)
        indices, order = plan.visits.take(batch_key, state.count, state.order, program, weights)
        scale = program.num_rows / temperature

        def gradient_at(position: Params) -> tuple[Array, Params]:
            loss, slope = jax.value_and_grad(program.objective)(position, weights, indices, model_key)
            return loss, optax.tree.scale(-scale, slope)

        dtype = jnp.result_type(*jax.tree.leaves(state.params))
        size = _size_at(step_size, state.count) * program.factor(weights, "step_size")
        size = jnp.asarray(size, dtype)
        params, carried, loss = advance(noise_key, state, gradient_at, size, scale)
        return LangevinState(params, carried, order, state.count + 1), loss

    return Phase(
        init,
        step,
        num_steps=plan.count,
        num_passes=plan.count_passes,
        check=plan.visits.check,
        step_sizes=_no_step_sizes,
        temperature=temperature,
        hyperparameters=lambda program: frozenset({"step_size"}),
        name=name,
    )


def _precondition(
    state: LangevinState, gradient: Params, decay: float | None
) -> tuple[Params | None, Params]:
    """Average squared gradients, and give the roots of the preconditioner 1 / sqrt(average)."""
    if decay is None:
        return None, optax.tree.ones_like(state.params)
    squares = optax.tree.update_moment_per_elem_norm(gradient, state.carried, decay, 2)
    unbiased = optax.tree.bias_correction(squares, decay, state.count + 1)
    return squares, jax.tree.map(lambda square: (jnp.sqrt(square) + RMS_FLOOR) ** -0.5, unbiased)


def _size_at(step_size: StepSize, count: Any) -> Any:
    return step_size(count) if callable(step_size) else step_size


def _no_step_sizes(program: Program) -> Float[np.ndarray, " step"]:
    raise ValueError(
        "the total step size of training is asked for (damping='auto', segments or trajectory), and "
        "dynamics with momentum have none; take influence with its damping as a number, or sgld"
    )


def _check(step_size: StepSize, temperature: float) -> None:
    if not callable(step_size) and not 0 < step_size < np.inf:
        raise ValueError(f"step_size={step_size} must be above 0 and finite")
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature={temperature} must be above 0 and finite")
