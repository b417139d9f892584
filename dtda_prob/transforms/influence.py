"""Influence functions: implicit differentiation at the outcome of training, and Newton steps."""

from collections.abc import Callable

import equinox as eqx
import jax
import optax

from dtda_prob.curvature import Curvature, dense
from dtda_prob.training import Training
from dtda_prob.transforms.push_forward import (
    Cost,
    PushForward,
    Response,
    is_at,
    measured,
    side_key,
    weights_of_states,
)
from dtda_prob.transforms.response import LinearResponse, rows_of_push
from dtda_prob.typing import Outcome, Params, PRNGKey, Queries, Weights


def _as_curvature(curvature: Curvature | None) -> Curvature:
    return dense() if curvature is None else curvature


class influence(LinearResponse):
    """Treat the outcome of training as a stationary point of the objective.

    Removing example k moves the parameters by + H^+ g_k / n, with g_k the gradient of its loss and H
    the curvature of the objective at the outcome (Koh and Liang, arXiv 1703.04730; as the limit of
    unrolling, Mlodozeniec et al., arXiv 2506.12965).

    Attributes:
        training: the stochastic kernel.
        curvature: H and how it is inverted, from `dtda.curvature`; the dense Hessian's
            pseudo-inverse if None.
        at: where the outcome is taken at which the response is; see `unroll`.
        space: the quantity that moves; see `displace`.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: if `at` or `space` is unknown, or the curvature does not suit the program.
    """

    curvature: Curvature = eqx.field(default=dense(), converter=_as_curvature)
    batch_size: int | None = eqx.field(default=64, kw_only=True)

    by_state = True

    def __check_init__(self) -> None:
        self.curvature.check(self.training.program)
        self.curvature.check_time(self.training.total_step_size)

    def draw(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Return training's outcome, and at each of its states the derivative of a stationary point."""
        return self._follow(key, self.training.draw(key, _here(weights)), weights)

    @property
    def carry(self) -> Callable[[PRNGKey, Outcome, Weights, Weights], Outcome] | None:
        """Return the push of an existing outcome, where the response is taken at it."""
        return self._carry if is_at(self.at, "old") else None

    @property
    def cost(self) -> Cost:
        num_queries = len(self.training.measure.queries)
        push, pull = (solves_cost(self.training, self.curvature, n) for n in (1, num_queries))
        return Cost(1.0 + self.extra_cost() + push, 1.0 + pull)

    def _carry(self, key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        along = lambda weights: self._follow(key, outcome, weights)  # noqa: E731
        return self.displace(outcome, jax.jvp(along, (old,), (new - old,))[1])

    def _follow(self, key: PRNGKey, outcome: Outcome, weights: Weights) -> Outcome:
        """Return an outcome at these weights with its derivative."""
        outcome, here = jax.lax.stop_gradient(outcome), _here(weights)

        def moved(params: Params, weights: Weights) -> Params:
            spectrum = self.curvature.at(self.training.program, side_key(key), params, here)
            inverse = self.curvature.inverse(spectrum, params, self.training.total_step_size)
            change = change_of_gradient(self.training, params, weights)
            return optax.tree.sub(params, spectrum.apply(inverse, change))

        own = weights_of_states(self.training, weights)
        params = self.training.each_state(moved)(outcome.params, own)
        return measured(self.training, outcome, params)


class newton(PushForward):
    """Take Newton steps on the perturbed objective, from the sample at the old weights.

    Each step is theta <- theta - H(theta, new)^+ (grad L(theta, new) - grad L(theta_old, old)): the
    gradient that training left is left again. The curvature is that of the perturbed objective,
    without the removed examples: one step is the rescaled influence function, exact where the
    objective is quadratic. Not linear in the new weights; `pull` is its derivative at the old ones,
    which equals that of `influence`.

    Attributes:
        training: the stochastic kernel.
        curvature: H and how it is inverted; the dense Hessian's pseudo-inverse if None.
        num_steps: number of steps.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: if the curvature does not suit the program, or `num_steps` is not positive.
    """

    curvature: Curvature = eqx.field(default=dense(), converter=_as_curvature)
    num_steps: int = eqx.field(default=1, kw_only=True)
    batch_size: int | None = eqx.field(default=64, kw_only=True)

    def __check_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps} must be at least 1")
        self.curvature.check(self.training.program)
        self.curvature.check_time(self.training.total_step_size)

    def carry(self, key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        """Move each state of an outcome by the steps."""
        outcome = jax.lax.stop_gradient(outcome)
        gradient = jax.grad(self.training.program.objective)

        def moved(params: Params, new: Weights) -> Params:
            left_over = jax.lax.stop_gradient(gradient(params, old))
            for _ in range(self.num_steps):
                here = jax.lax.stop_gradient((params, new))
                spectrum = self.curvature.at(self.training.program, side_key(key), *here)
                inverse = self.curvature.inverse(spectrum, here[0], self.training.total_step_size)
                residual = optax.tree.sub(gradient(params, new), left_over)
                params = optax.tree.sub(params, spectrum.apply(inverse, residual))
            return params

        own = weights_of_states(self.training, new)
        params = self.training.each_state(moved)(outcome.params, own)
        return measured(self.training, outcome, params)

    def pull(self, key: PRNGKey, weights: Weights, queries: Queries | None = None) -> Response:
        """Return the derivative of `push` at new = old."""
        return rows_of_push(self, key, weights, queries, self.batch_size)

    @property
    def cost(self) -> Cost:
        num_queries = len(self.training.measure.queries)
        push, pull = (solves_cost(self.training, self.curvature, n) for n in (1, num_queries))
        return Cost(1.0 + self.num_steps * push, 1.0 + self.num_steps * pull)


def solves_cost(training: Training, curvature: Curvature, num_solves: int) -> float:
    """Return the cost of a decomposition and so many solves, in trainings."""
    return curvature.passes(training.program, num_solves) / training.num_passes()


def change_of_gradient(training: Training, params: Params, weights: Weights) -> Params:
    """Return grad L(params, weights) less its own value: zero, with the derivative d grad L / dw."""
    gradient = jax.grad(training.program.objective)(params, weights)
    return optax.tree.sub(gradient, jax.lax.stop_gradient(gradient))


def _here(weights: Weights) -> Weights:
    return jax.lax.stop_gradient(weights if weights.ndim == 1 else weights[0])
