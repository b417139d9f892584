"""Hamiltonian Monte Carlo on all data: NUTS, and trajectories of random length."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any, ClassVar, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dtda_prob.kernels.kernel import Kernel, Phase, Sizes, State, Step, no_step_size
from dtda_prob.kernels.settings import check_between, check_positive
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

NUTS_GRADIENTS = 16
"""Gradients per step of NUTS for counting costs; it decides for itself."""

LEAST_WARMUP = 20
"""Steps that adapting a mass matrix takes at least."""


class Trajectory(NamedTuple):
    """Statistics of the last trajectory.

    Attributes:
        energy: of the accepted state, potential and kinetic, of n L / temperature.
        acceptance_rate: of its proposals.
        diverging: whether energy was lost on the way.
        num_integration_steps: gradients that it took.
    """

    energy: Float[Array, ""]
    acceptance_rate: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_integration_steps: Int[Array, ""]


class Chain(NamedTuple):
    """A chain: BlackJAX's state of it, the settings that warm-up chose, and its last trajectory."""

    position: Any
    step_size: Float[Array, ""]
    inverse_mass_matrix: Float[Array, "parameter *parameter"]
    trajectory: Trajectory

    @property
    def params(self) -> Params:
        return self.position.position


class Hamiltonian(Kernel):
    """A warm-up of one step, then the chain, by one of BlackJAX's algorithms."""

    algorithm: ClassVar[Any]
    _: KW_ONLY
    num_warmup: int = 1000
    num_samples: int = 1000
    thinning: int = 1
    target_acceptance: float = 0.8
    dense_mass: bool = False
    temperature: float = 1.0

    def __check_init__(self) -> None:
        if self.num_warmup < LEAST_WARMUP:
            raise ValueError(
                f"num_warmup={self.num_warmup} must be at least {LEAST_WARMUP}, to adapt a mass matrix"
            )
        check_between(0, 1, target_acceptance=self.target_acceptance)
        check_positive(
            num_samples=self.num_samples, thinning=self.thinning, temperature=self.temperature
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return the warm-up and the chain."""
        return (WarmUp(self), Sampling(self))

    @property
    def num_states(self) -> int:
        """Return the number of states of a run, all of which are draws."""
        return self.num_samples

    @property
    def num_approach(self) -> int:
        """Return the steps of the warm-up at the weights themselves, after it adapted to all data."""
        return 0

    @property
    @abstractmethod
    def num_gradients(self) -> int:
        """Return the number of gradients per step, for counting costs."""

    @abstractmethod
    def settings(self, key: PRNGKey | None) -> dict[str, Any]:
        """Return BlackJAX's settings of one step, or of the warm-up without a key."""

    def move(self, key: PRNGKey, chain: Chain, program: Program, weights: Weights) -> Chain:
        """Return a chain after one transition."""
        length_key, key = jax.random.split(key)
        position, info = self.algorithm.build_kernel()(
            key,
            chain.position,
            self.log_density(program, weights),
            chain.step_size,
            chain.inverse_mass_matrix,
            **self.settings(length_key),
        )
        gradients = jnp.asarray(info.num_integration_steps, int)
        trajectory = Trajectory(info.energy, info.acceptance_rate, info.is_divergent, gradients)
        return chain._replace(position=position, trajectory=trajectory)

    def log_density(self, program: Program, weights: Weights) -> Callable[[Params], Float[Array, ""]]:
        """Return the log density that is sampled."""
        scale = program.num_rows / self.temperature
        return lambda params: -scale * program.objective(params, weights)

    def loss(self, program: Program, chain: Chain) -> Float[Array, ""]:
        """Return the objective at a chain's position."""
        return -chain.position.logdensity * self.temperature / program.num_rows


class nuts(Hamiltonian):
    """Sample exp(-n L / temperature) by the No-U-Turn Sampler on all data (BlackJAX's).

    A run is a chain: it starts from an initialisation, adapts step size and mass matrix as Stan does
    (BlackJAX's `window_adaptation`), and keeps `num_samples` states, which are all draws. `sample`
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

    algorithm: ClassVar[Any] = blackjax.nuts
    _: KW_ONLY
    max_tree_depth: int = 10

    def __check_init__(self) -> None:
        check_positive(max_tree_depth=self.max_tree_depth)

    def settings(self, key: PRNGKey | None) -> dict[str, Any]:
        return {"max_num_doublings": self.max_tree_depth}

    @property
    def num_gradients(self) -> int:
        return NUTS_GRADIENTS


class hmc(Hamiltonian):
    """Sample exp(-n L / temperature) by Hamiltonian Monte Carlo.

    See `nuts`. Trajectories have from one to `num_integration_steps` gradients at random: if all had
    the same length they might return to where they started (Neal, 2011).

    Chains of one key have the same momenta, lengths and uniform numbers, whatever the weights. If they
    also share step size and mass matrix (`coupled`), then where the posterior is log-concave chains at
    other weights stay close to each other, and the noise that they share cancels in differences
    (synchronous coupling, as BlackJAX's `coupled_hmc`).

    Args:
        num_integration_steps: gradients of the longest trajectory, and of each in the warm-up.
        coupled: adapt to all data, whatever the weights, and then move as many steps again at the
            weights themselves.
        num_warmup: see `nuts`, as for the other settings.

    Raises:
        ValueError: if a number is out of range.
    """

    algorithm: ClassVar[Any] = blackjax.hmc
    _: KW_ONLY
    num_integration_steps: int = 16
    coupled: bool = False

    def __check_init__(self) -> None:
        check_positive(num_integration_steps=self.num_integration_steps)

    def settings(self, key: PRNGKey | None) -> dict[str, Any]:
        longest = self.num_integration_steps
        length = longest if key is None else jax.random.randint(key, (), 1, longest + 1)
        return {"num_integration_steps": length}

    @property
    def num_approach(self) -> int:
        return self.num_warmup if self.coupled else 0

    @property
    def num_gradients(self) -> int:
        return self.num_integration_steps


class _ChainPhase(Phase):
    """A phase of a Markov chain."""

    sampler: Hamiltonian

    @property
    def not_differentiable(self) -> str:
        """Return why a chain has no derivative."""
        return "a Metropolis step accepts or rejects, which has no derivative in the weights"

    def num_passes(self, program: Program) -> float:
        return float(self.num_transitions * self.sampler.num_gradients)

    @property
    @abstractmethod
    def num_transitions(self) -> int:
        """Return the number of transitions of the chain."""

    def step_sizes(self, program: Program) -> Sizes:
        raise no_step_size("a Markov chain has none")


class WarmUp(_ChainPhase):
    """Adapt step size and mass matrix, in one step."""

    @property
    def num_transitions(self) -> int:
        return self.sampler.num_warmup + self.sampler.num_approach

    def count_steps(self, program: Program) -> int:
        return 1

    def init(self, previous: State, program: Program) -> Chain:
        """Return a placeholder before warm-up."""
        dtype = jnp.result_type(*jax.tree.leaves(previous.params))
        nothing: Any = jnp.zeros((), dtype)
        position = blackjax.mcmc.hmc.HMCState(previous.params, nothing, previous.params)
        size = sum(leaf.size for leaf in jax.tree.leaves(previous.params))
        still = Trajectory(nothing, nothing, jnp.array(False), jnp.zeros((), int))
        return Chain(position, nothing, jnp.zeros(size, dtype), still)

    def step(self, key: PRNGKey, state: Chain, program: Program, weights: Weights) -> Step:
        adapted = program.full_weights() if self.sampler.num_approach else weights
        adaptation: Any = blackjax.window_adaptation(
            self.sampler.algorithm,
            self.sampler.log_density(program, adapted),
            is_mass_matrix_diagonal=not self.sampler.dense_mass,
            target_acceptance_rate=self.sampler.target_acceptance,
            adaptation_info_fn=lambda state, info, adaptation: None,
            **self.sampler.settings(None),
        )
        (position, chosen), _ = adaptation.run(key, state.params, self.sampler.num_warmup)
        warm = Chain(position, chosen["step_size"], chosen["inverse_mass_matrix"], state.trajectory)
        if self.sampler.num_approach:
            warm = self.approach(jax.random.fold_in(key, 1), warm, program, weights)
        return warm, self.sampler.loss(program, warm)

    def approach(self, key: PRNGKey, chain: Chain, program: Program, weights: Weights) -> Chain:
        """Move a chain that was adapted to all data towards the posterior at these weights."""
        density = self.sampler.log_density(program, weights)
        start = chain._replace(position=self.sampler.algorithm.init(chain.params, density))

        def body(chain: Chain, key: PRNGKey) -> tuple[Chain, None]:
            return self.sampler.move(key, chain, program, weights), None

        return jax.lax.scan(body, start, jax.random.split(key, self.sampler.num_approach))[0]


class Sampling(_ChainPhase):
    """Move the chain, one transition a step."""

    @property
    def temperature(self) -> float:
        """Return the sampler's temperature."""
        return self.sampler.temperature

    @property
    def num_transitions(self) -> int:
        return self.sampler.num_samples * self.sampler.thinning

    def count_steps(self, program: Program) -> int:
        return self.num_transitions

    def init(self, previous: State, program: Program) -> Chain:
        if not isinstance(previous, Chain):
            raise ValueError("sampling needs the warm-up before it; use the whole kernel")
        return previous

    def step(self, key: PRNGKey, state: Chain, program: Program, weights: Weights) -> Step:
        chain = self.sampler.move(key, state, program, weights)
        return chain, self.sampler.loss(program, chain)

    def stats(self, state: Chain) -> dict[str, Array]:
        return state.trajectory._asdict() | {"step_size": state.step_size}
