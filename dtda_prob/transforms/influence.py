"""Influence functions: implicit differentiation at the outcome of training, and Newton steps."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from dtda_prob.compiling import in_full_precision
from dtda_prob.curvature import Curvature, dense
from dtda_prob.curvature.matrices import hessian, resolve
from dtda_prob.curvature.quadratic import Quadratic
from dtda_prob.kernels.distances import DISTANCE, with_distances
from dtda_prob.program import Program
from dtda_prob.training import Training
from dtda_prob.transforms.averaged import LEAST_STATES, mean_program
from dtda_prob.transforms.push_forward import Cost, Response, Restricted, is_at, side_key
from dtda_prob.transforms.response import LinearResponse, Mover, StateByState
from dtda_prob.typing import Outcome, Params, PRNGKey, Queries, Weights


def _as_curvature(curvature: Curvature | None) -> Curvature:
    return dense() if curvature is None else curvature


State = tuple[Params, Params | None]
"""The parameters of a state, and their distances where those are the unit of each parameter."""


class Stationary(StateByState, Restricted):
    """A push-forward that inverts the curvature of the objective at each state of an outcome.

    Attributes:
        training: the stochastic kernel.
        curvature: H and how it is inverted; the dense Hessian's pseudo-inverse if None.
    """

    curvature: Curvature = eqx.field(default=dense(), converter=_as_curvature)
    settled: Curvature | None = eqx.field(default=None, kw_only=True, repr=False)
    """The curvature with numeric damping, set on construction: a traced kernel has no step sizes."""
    is_scaled: bool = eqx.field(default=False, kw_only=True, repr=False, static=True)
    """Whether the unit of each parameter is its distance in training, set on construction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        time = self.training.total_step_size
        self.settled = self.curvature.settled(time)
        self.is_scaled = self.curvature.is_auto and time() is None

    def __check_init__(self) -> None:
        self.curvature.check(self.training.program, self.moving)

    @abstractmethod
    def step(self, key: PRNGKey, state: State, old: Weights, new: Weights) -> Params:
        """Return the step of the parameters that training moves."""

    def drawn(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Return training's outcome, with its distances among the statistics if they are needed."""
        if not self.is_scaled:
            return self.training.draw(key, weights)
        kernel = with_distances(self.training.kernel)
        return self.training.measured(*kernel.run(key, self.training.program, weights))

    def states(self, key: PRNGKey, outcome: Outcome, weights: Weights) -> State:
        """Return parameters and, if they are needed, distances: an outcome without is trained again."""
        if self.is_scaled and DISTANCE not in outcome.stats:
            outcome = self.drawn(key, weights)
        return outcome.params, outcome.stats.get(DISTANCE)

    def move_states(self, key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        """Move each state of an outcome, and measure it anew."""
        moved = super().move_states(key, outcome, old, new)
        return moved._replace(stats={k: v for k, v in moved.stats.items() if k != DISTANCE})

    def moved(self, key: PRNGKey, state: State, old: Weights, new: Weights) -> Params:
        """Return the parameters moved by their step or, in a posterior, its mean with the mode's step.

        A step is -H^+ g at a point, with g the change of the gradient. With noise e = params - mode the
        own step contains -H^+ (dH) e, which changes the covariance H^-1 / n twice as much as it should.
        If the curvature is indefinite or flat, as in the neck of a funnel, the Newton step to the mode
        may lead away from it: a draw keeps its own step if that one does not lower the objective.
        """
        params, distances = state
        step = self.step(key, state, old, new)
        if self.training.kernel.temperature is not None:
            at_mode = self.step(key, (self.mode(key, state, old), distances), old, new)
            step = optax.tree.scale(0.5, optax.tree.add(step, at_mode))
        return self.added(params, step)

    def mode(self, key: PRNGKey, state: State, weights: Weights) -> Params:
        """Return parameters one Newton step nearer to the mode, or the same if it does not lower L."""
        objective, params = self.training.program.evaluated.objective, state[0]
        to_mode = self.solver(key, state, weights)(self.gradient(params, weights))
        mode = self.added(params, optax.tree.scale(-1, to_mode))
        value = objective(mode, weights)
        nearer = (value <= objective(params, weights)) & jnp.isfinite(value)
        kept = jax.tree.map(lambda there, here: jnp.where(nearer, there, here), mode, params)
        return jax.lax.stop_gradient(kept)

    @in_full_precision
    def solver(
        self, key: PRNGKey, state: State, weights: Weights, program: Program | None = None
    ) -> Callable[[Params], Params]:
        """Return v -> H^+ v at this state and weights, of the training's program if None."""
        training, curvature, (params, distances) = self.training, self.settled, state
        assert curvature is not None
        program = training.program if program is None else program
        scale = None
        if distances is not None:
            scale = self.scale(self.shortened(program, params, weights, distances))
        spectrum = curvature.at(program, side_key(key), params, weights, self.moving, scale)
        inverse = curvature.inverse(spectrum, self.moving.part(params), training.total_step_size)
        return in_full_precision(partial(spectrum.apply, inverse))

    def shortened(
        self, program: Program, params: Params, weights: Weights, distances: Params
    ) -> Params:
        """Return distances D / (1 + p D) where a method leaves the prior's diagonal p to the damping.

        (B'B + p + 1/D)^-1 is then damped by one over them, and a method whose prior must be a multiple
        of the identity needs none.
        """
        if not (self.curvature.prior == "isotropic" and program.has_prior):
            return distances
        h = Quadratic(program, hessian(), jax.random.key(0), params, weights, self.moving)
        parts = h.prior_diagonal(), self.moving.part(distances)
        return self.moving.whole(jax.tree.map(lambda p, d: d / (1 + p * d), *parts), distances)

    def solves_costs(self) -> tuple[float, float]:
        """Return the costs of a decomposition and the solves of a push, and of a pull, in trainings."""
        num_queries = len(self.training.measure.queries)
        push, pull = (solves_cost(self.training, self.curvature, n) for n in (1, num_queries))
        return push, pull


class influence(LinearResponse, Stationary):
    """Treat the outcome of training as a stationary point of the objective.

    Removing example k moves the parameters by + H^+ g_k / n, with g_k the gradient of its loss and H
    the curvature of the objective at the outcome (Koh and Liang, arXiv 1703.04730; as the limit of
    unrolling, Mlodozeniec et al., arXiv 2506.12965). Parameters that training does not move stay fixed.

    A draw from a posterior is not a stationary point. Moved as if it were, the covariance would change
    twice as much as it should. Such a draw moves by the mean of its own step and the step of the mode:
    the change of mean and covariance is then exact to first order for a Gaussian posterior, and to
    leading order in n for others. Where the kernel keeps several states of a run, these share the mean
    of their Hessians, and their own mean stands for the mode. A posterior's mean Hessian is the
    covariance of its score, positive definite wherever single draws lie, as in the neck of a funnel.
    A single state has its own curvature, and finds the mode by a Newton step, which costs a second
    decomposition. If draws have no derivative (`nuts`), draws at other weights are not coupled to them,
    so at="centre" means at="old".

    Attributes:
        training: the stochastic kernel.
        curvature: H and how it is inverted, from `dtda.curvature`; the dense Hessian's
            pseudo-inverse if None.
        at: the weights of the outcome at which the response is taken; see `unroll`.
        space: the quantity that moves; see `displace`.
        batch_size: the most queries at once in `pull`, fewer where examples are many; if None those
            that fit into memory.

    Raises:
        ValueError: if `at` or `space` is unknown, or the curvature does not suit the program.
    """

    batch_size: int | None = eqx.field(default=64, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.training.kernel.not_differentiable and is_at(self.at, "centre"):
            self.at = "old"

    def draw(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Return training's outcome, and at each of its states the derivative of a stationary point."""
        here = jax.lax.stop_gradient(weights)
        return self.move_states(key, self.drawn(key, here), here, weights)

    def step(self, key: PRNGKey, state: State, old: Weights, new: Weights) -> Params:
        """Return zero, with the derivative of a stationary point at the old weights."""
        change = self.change_of_gradient(state[0], new)
        return optax.tree.scale(-1, self.solver(key, state, old)(change))

    @property
    def carry(self) -> Callable[[PRNGKey, Outcome, Weights, Weights], Outcome] | None:
        """Return the push of an existing outcome, if the response is taken at the old weights."""
        return self._carry if is_at(self.at, "old") else None

    @property
    def cost(self) -> Cost:
        push, pull = self.solves_costs()
        return Cost(1.0 + self.extra_cost() + push, 1.0 + pull)

    def mover(self, key: PRNGKey, states: State, old: Weights) -> Mover:
        """Return how a state moves; several states of a posterior share their mean curvature."""
        if not self.averages:
            return super().mover(key, states, old)
        centre, mean = mean_program(self.training.program, states[0])
        solve = self.solver(key, (centre, None), old, mean)

        def moved(state: State, new: Weights) -> Params:
            params, _ = state
            changes = (self.change_of_gradient(each, new) for each in (params, centre))
            return self.added(params, optax.tree.scale(-0.5, solve(optax.tree.add(*changes))))

        return moved

    @property
    def averages(self) -> bool:
        """Return whether there are several states of a posterior, and a Hessian that has a mean."""
        kernel, matrix = self.training.kernel, self.curvature.matrix
        several = kernel.temperature is not None and kernel.num_states >= LEAST_STATES
        return several and not resolve("hessian" if matrix is None else matrix).factored

    def _carry(self, key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        along = lambda weights: self.move_states(key, outcome, old, weights)  # noqa: E731
        return self.displace(outcome, jax.jvp(along, (old,), (self.factor * (new - old),))[1])

    def _pull_at(self, key: PRNGKey, point: Weights, queries: Queries | None) -> Response:
        return self.rows_of_states(key, self.drawn(key, point), point, queries)


class newton(Stationary):
    """Take Newton steps on the perturbed objective, from the sample at the old weights.

    Each step is theta <- theta - H(theta, new)^+ (grad L(theta, new) - grad L(theta_old, old)), so that
    the gradient that remained after training remains. The curvature belongs to the perturbed objective,
    without the removed examples: one step is the rescaled influence function, exact for a quadratic
    objective. A push is not linear in the new weights; `pull` is its derivative at the old weights,
    the same as the derivative of `influence`. Draws from a posterior move as in `influence`, and
    parameters that training does not move stay fixed.

    Attributes:
        training: the stochastic kernel.
        curvature: H and how it is inverted; the dense Hessian's pseudo-inverse if None.
        num_steps: number of steps.
        batch_size: the most queries at once in `pull`, fewer where examples are many; if None those
            that fit into memory.

    Raises:
        ValueError: if the curvature does not suit the program, or `num_steps` is not positive.
    """

    num_steps: int = eqx.field(default=1, kw_only=True)

    def __check_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps} must be at least 1")

    def step(self, key: PRNGKey, state: State, old: Weights, new: Weights) -> Params:
        """Return the sum of all steps."""
        params, distances = state
        left_over = jax.lax.stop_gradient(self.gradient(params, old))
        total = optax.tree.zeros_like(self.moving.part(params))
        for _ in range(self.num_steps):
            moved = self.added(params, total)
            residual = optax.tree.sub(self.gradient(moved, new), left_over)
            here, at = jax.lax.stop_gradient((moved, new))
            total = optax.tree.sub(total, self.solver(key, (here, distances), at)(residual))
        return total

    @property
    def cost(self) -> Cost:
        push, pull = self.solves_costs()
        return Cost(1.0 + self.num_steps * push, 1.0 + self.num_steps * pull)


def solves_cost(training: Training, curvature: Curvature, num_solves: int) -> float:
    """Return the cost of a decomposition and `num_solves` solves, in trainings."""
    return curvature.passes(training.program, num_solves) / training.num_passes()
