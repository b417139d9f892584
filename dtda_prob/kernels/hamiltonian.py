"""Hamiltonian Monte Carlo on all data: NUTS, and trajectories of random length."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dtda_prob.kernels.kernel import Kernel, Phase, State, keep
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

NUTS_GRADIENTS = 16
"""Gradients that a step of NUTS is taken for where costs are counted; it decides for itself."""

NO_DERIVATIVE = "a Metropolis step accepts or rejects, which has no derivative in the weights"


class Trajectory(NamedTuple):
    """How the last trajectory went.

    Attributes:
        energy: of the state that was taken, potential and kinetic, of n L / temperature.
        acceptance_rate: of its proposals.
        diverging: whether energy was lost on the way.
        num_integration_steps: gradients that it took.
    """

    energy: Float[Array, ""]
    acceptance_rate: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_integration_steps: Int[Array, ""]


class Chain(NamedTuple):
    """A chain: BlackJAX's state of it, the settings that warm-up found, and its last trajectory."""

    position: Any
    step_size: Float[Array, ""]
    inverse_mass_matrix: Float[Array, "parameter *parameter"]
    trajectory: Trajectory

    @property
    def params(self) -> Params:
        return self.position.position


class Sampler(NamedTuple):
    """What both samplers share.

    Attributes:
        name: of the sampler.
        algorithm: BlackJAX's.
        settings: what its kernel is given beside step size and mass matrix.
        temperature: of the posterior.
        target_acceptance: of the adaptation of the step size.
        dense_mass: whether the mass matrix is dense.
        num_gradients: gradients a step, for counting costs.
        vary_length: whether trajectories vary in length at random from step to step.
    """

    name: str
    algorithm: Any
    settings: dict[str, Any]
    temperature: float
    target_acceptance: float
    dense_mass: bool
    num_gradients: int
    vary_length: bool = False


def nuts(
    *,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    thinning: int = 1,
    target_acceptance: float = 0.8,
    dense_mass: bool = False,
    max_tree_depth: int = 10,
    temperature: float = 1.0,
) -> Kernel:
    """Sample exp(-n L / temperature) by the No-U-Turn Sampler on all data (BlackJAX's).

    A run is a chain: it starts from an initialisation, adapts step size and mass matrix as Stan does
    (BlackJAX's `window_adaptation`), and keeps `num_samples` states, which are all outcomes. `sample`
    keeps `energy`, `acceptance_rate`, `num_integration_steps`, `step_size` and divergences of each.

    Args:
        num_warmup: steps of adaptation, at least 20.
        num_samples: states of each run.
        thinning: steps from state to state.
        target_acceptance: acceptance rate that step sizes adapt to.
        dense_mass: adapt a dense mass matrix instead of a diagonal.
        max_tree_depth: doublings of a trajectory, at most.
        temperature: of the posterior, above 0.

    Raises:
        ValueError: if a number is out of range.

    >>> nuts(num_warmup=500, num_samples=250).num_states
    250
    """
    _check(num_warmup, target_acceptance, temperature, max_tree_depth=max_tree_depth)
    settings = {"max_num_doublings": max_tree_depth}
    sampler = Sampler(
        "nuts", blackjax.nuts, settings, temperature, target_acceptance, dense_mass, NUTS_GRADIENTS
    )
    return _kernel(sampler, num_warmup, num_samples, thinning)


def hmc(
    *,
    num_integration_steps: int = 16,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    thinning: int = 1,
    target_acceptance: float = 0.8,
    dense_mass: bool = False,
    temperature: float = 1.0,
) -> Kernel:
    """Sample exp(-n L / temperature) by Hamiltonian Monte Carlo.

    See `nuts`. Trajectories have from one to `num_integration_steps` gradients at random, since those
    of one length may return to where they started (Neal, 2011).

    Args:
        num_integration_steps: gradients of the longest trajectory, and of each in the warm-up.
        num_warmup: steps of adaptation, at least 20.
        num_samples: states of each run.
        thinning: steps from state to state.
        target_acceptance: acceptance rate that step sizes adapt to.
        dense_mass: adapt a dense mass matrix instead of a diagonal.
        temperature: of the posterior, above 0.

    Raises:
        ValueError: if a number is out of range.
    """
    _check(num_warmup, target_acceptance, temperature, num_integration_steps=num_integration_steps)
    settings = {"num_integration_steps": num_integration_steps}
    sampler = Sampler(
        "hmc",
        blackjax.hmc,
        settings,
        temperature,
        target_acceptance,
        dense_mass,
        num_integration_steps,
        vary_length=True,
    )
    return _kernel(sampler, num_warmup, num_samples, thinning)


def _kernel(sampler: Sampler, num_warmup: int, num_samples: int, thinning: int) -> Kernel:
    """Adapt in one step, and sample."""
    warmup = Phase(
        lambda previous, program: _resting(previous.params),
        partial(_warm_up, sampler, num_warmup),
        num_steps=lambda program: 1,
        num_passes=lambda program: float(num_warmup * sampler.num_gradients),
        check=lambda program: None,
        step_sizes=_no_step_sizes,
        no_derivative=NO_DERIVATIVE,
        name=f"{sampler.name} warm-up of {num_warmup} steps",
    )
    sampling = warmup._replace(
        init=_continue,
        step=partial(_sample, sampler),
        num_steps=lambda program: num_samples * thinning,
        num_passes=lambda program: float(num_samples * thinning * sampler.num_gradients),
        temperature=sampler.temperature,
        stats=_stats,
        name=sampler.name,
    )
    return keep(Kernel((warmup, sampling)), num_samples, thinning=thinning)


def _resting(params: Params) -> Chain:
    """Stand for a chain that has not begun."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    nothing: Any = jnp.zeros((), dtype)
    position = blackjax.mcmc.hmc.HMCState(params, nothing, params)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    still = Trajectory(nothing, nothing, jnp.array(False), jnp.zeros((), int))
    return Chain(position, nothing, jnp.zeros(size, dtype), still)


def _continue(previous: State, program: Program) -> Chain:
    if not isinstance(previous, Chain):
        raise ValueError("sampling needs the warm-up before it; take the kernel whole")
    return previous


def _log_density(
    sampler: Sampler, program: Program, weights: Weights
) -> Callable[[Params], Float[Array, ""]]:
    scale = program.num_rows / sampler.temperature
    return lambda params: -scale * program.objective(params, weights)


def _warm_up(
    sampler: Sampler, num_warmup: int, key: PRNGKey, chain: Chain, program: Program, weights: Weights
) -> tuple[Chain, Float[Array, ""]]:
    adaptation: Any = blackjax.window_adaptation(
        sampler.algorithm,
        _log_density(sampler, program, weights),
        is_mass_matrix_diagonal=not sampler.dense_mass,
        target_acceptance_rate=sampler.target_acceptance,
        adaptation_info_fn=lambda state, info, adaptation: None,
        **sampler.settings,
    )
    (position, found), _ = adaptation.run(key, chain.params, num_warmup)
    step_size, inverse_mass_matrix = found["step_size"], found["inverse_mass_matrix"]
    warm = Chain(position, step_size, inverse_mass_matrix, chain.trajectory)
    return warm, _loss(sampler, program, warm)


def _sample(
    sampler: Sampler, key: PRNGKey, chain: Chain, program: Program, weights: Weights
) -> tuple[Chain, Float[Array, ""]]:
    length_key, key = jax.random.split(key)
    settings = sampler.settings
    if sampler.vary_length:
        longest = settings["num_integration_steps"]
        settings = {"num_integration_steps": jax.random.randint(length_key, (), 1, longest + 1)}
    position, info = sampler.algorithm.build_kernel()(
        key,
        chain.position,
        _log_density(sampler, program, weights),
        chain.step_size,
        chain.inverse_mass_matrix,
        **settings,
    )
    gradients = jnp.asarray(info.num_integration_steps, int)
    trajectory = Trajectory(info.energy, info.acceptance_rate, info.is_divergent, gradients)
    chain = chain._replace(position=position, trajectory=trajectory)
    return chain, _loss(sampler, program, chain)


def _loss(sampler: Sampler, program: Program, chain: Chain) -> Float[Array, ""]:
    return -chain.position.logdensity * sampler.temperature / program.num_rows


def _stats(chain: Chain) -> dict[str, Array]:
    return chain.trajectory._asdict() | {"step_size": chain.step_size}


def _no_step_sizes(program: Program) -> Float[np.ndarray, " step"]:
    raise ValueError(
        "the total step size of training is asked for (damping='auto', segments or trajectory), and a "
        "Markov chain has none; take influence with its damping as a number"
    )


def _check(num_warmup: int, target_acceptance: float, temperature: float, **counts: int) -> None:
    if num_warmup < 20:
        raise ValueError(f"num_warmup={num_warmup} must be at least 20, to adapt a mass matrix")
    if not 0 < target_acceptance < 1:
        raise ValueError(f"target_acceptance={target_acceptance} must lie between 0 and 1")
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature={temperature} must be above 0 and finite")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
