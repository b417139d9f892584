"""Bayesian influence: the covariance of losses and measurement in a local posterior."""

import blackjax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from dtda_prob.training import each_state
from dtda_prob.transforms.push_forward import (
    Cost,
    Response,
    Restricted,
    Space,
    check_posterior,
    check_single,
    of_queries,
    side_key,
)
from dtda_prob.transforms.response import LinearResponse
from dtda_prob.typing import Outcome, Params, PRNGKey, Queries, Weights


class covariance(LinearResponse, Restricted):
    """Move every draw by minus the covariance of losses and measurement near the outcome.

    Under a posterior proportional to exp(-n L(theta, w) / temperature) an expectation has the
    derivative -Cov(m, loss_k) / temperature with respect to weight k (Giordano et al., arXiv
    1709.02536). If the kernel draws from a posterior and keeps several states of a run, the covariance
    is over these. With a `step_size` it is the covariance in the local posterior, proportional to
    exp(-n L(theta, w) / temperature - c |theta - theta_T|^2 / 2), which is sampled by Langevin dynamics
    from the outcome theta_T (BlackJAX's SGLD on all data; Kreer et al., arXiv 2509.26544). All states
    of a run move by the same amount, so that it carries means but not the spread. No curvature is
    inverted, but the Monte Carlo error of a response falls only as the root of the number of states.

    Attributes:
        training: the stochastic kernel.
        step_size: step size of the local dynamics, in units of squared parameters; roughly at most the
            smallest posterior variance. None for the states of the run itself, which need no further
            setting.
        temperature: temperature of the local posterior.
        pull_to_outcome: c, which keeps the walk near the outcome.
        num_samples: number of states of the walk that are kept.
        num_warmup: number of steps before the first of them.
        thinning: number of steps from one state to the next.
        at: the weights of the outcome; see `unroll`.
        batch_size: the most queries at once in `pull`; those that fit into memory if None.

    Raises:
        ValueError: if a setting is not positive (`pull_to_outcome`, `num_warmup`: not negative);
            without a `step_size`, if the kernel does not draw from a posterior or keeps fewer than
            three states of a run; with one, if it keeps several.
    """

    step_size: float | None = eqx.field(default=None, kw_only=True)
    temperature: float = eqx.field(default=1.0, kw_only=True)
    pull_to_outcome: float = eqx.field(default=0.0, kw_only=True)
    num_samples: int = eqx.field(default=200, kw_only=True)
    num_warmup: int = eqx.field(default=100, kw_only=True)
    thinning: int = eqx.field(default=1, kw_only=True)
    space: Space = eqx.field(default="measurement", init=False, repr=False)
    batch_size: int | None = eqx.field(default=64, kw_only=True)

    def __check_init__(self) -> None:
        if self.step_size is None:
            check_posterior(self.training, "covariance without step_size")
            _check_several(self.training.kernel.num_states)
            return
        check_single(self.training, "covariance with a step_size")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not least < value < float("inf"):
                raise ValueError(f"{name}={value} must be finite and above {least}")

    def draw(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Return training's outcome, with the covariance over states for its derivative."""
        here = jax.lax.stop_gradient(weights)
        outcome, observed, losses = jax.lax.stop_gradient(self._around(key, here))
        tilt = losses @ (weights - here)
        still = outcome.params, outcome.outputs, outcome.value
        moved = jax.tree.map(lambda x, c: x + jnp.tensordot(tilt, c, 1), still, observed)
        return Outcome(*moved, outcome.losses, outcome.stats)

    def _around(self, key: PRNGKey, here: Weights) -> tuple[Outcome, PyTree, Array]:
        """Return the outcome, and around it parameters, outputs, values and scaled losses, centred."""
        outcome = self.training.draw(key, here)
        states, temperature = self._states(key, outcome.params, here)

        def observe(params: Params) -> tuple[PyTree, Array]:
            observed = params, *self.training.observe(params)
            return observed, self.training.program.evaluated.slopes(params, here)

        both = each_state(observe, states)
        observed, losses = jax.tree.map(lambda leaf: leaf - leaf.mean(0), both)
        return outcome, observed, -losses / (temperature * (len(losses) - 1))

    def _pull_at(self, key: PRNGKey, point: Weights, queries: Queries | None) -> Response:
        """Return the covariance as a product: all states of a run move by the same amount."""
        outcome, (_, _, values), losses = self._around(key, point)
        response = jnp.tensordot(of_queries(values, queries, 1), losses, (0, 0))
        return jnp.broadcast_to(response, (len(outcome.value), *response.shape))

    @property
    def cost(self) -> Cost:
        num_steps, num_samples = 0, self.training.kernel.num_states
        if self.step_size is not None:
            num_samples = self.num_samples
            num_steps = self.num_warmup + num_samples * self.thinning
        passes = (num_steps + num_samples) / self.training.num_passes()
        return Cost(1.0 + self.extra_cost() + passes, 1.0 + passes)

    def _states(self, key: PRNGKey, params: Params, here: Weights) -> tuple[Params, float]:
        """Return states near the outcome, and the temperature of their distribution."""
        if self.step_size is None:
            return params, check_posterior(self.training, "covariance")
        outcome = jax.tree.map(lambda leaf: leaf[0], params)
        return self._walk(side_key(key), outcome, here), self.temperature

    def _walk(self, key: PRNGKey, start: Params, weights: Weights) -> Params:
        """Sample the local posterior; states are stacked."""
        scale, outcome = self.training.program.num_rows / self.temperature, start
        start = centre = self.moving.part(outcome)

        def log_density(part: Params) -> Array:
            distance = optax.tree.norm(optax.tree.sub(part, centre), squared=True)
            objective = self.training.program.evaluated.objective(
                self.moving.whole(part, outcome), weights
            )
            return -scale * objective - self.pull_to_outcome / 2 * distance

        kernel = blackjax.sgld(lambda params, _: jax.grad(log_density)(params))

        def step(params: Params, key: PRNGKey) -> tuple[Params, None]:
            return kernel.step(key, params, None, self.step_size), None

        def several(params: Params, key: PRNGKey) -> tuple[Params, Params]:
            params, _ = jax.lax.scan(step, params, jax.random.split(key, self.thinning))
            return params, params

        warm_key, key = jax.random.split(key)
        if self.num_warmup:
            start, _ = jax.lax.scan(step, start, jax.random.split(warm_key, self.num_warmup))
        parts = jax.lax.scan(several, start, jax.random.split(key, self.num_samples))[1]
        return jax.vmap(lambda part: self.moving.whole(part, outcome))(parts)


_LEAST = {
    "step_size": 0,
    "temperature": 0,
    "thinning": 0,
    "num_samples": 1,
    "num_warmup": -1,
    "pull_to_outcome": -1,
}
"""Settings of the walk, with the values that they must exceed."""


def _check_several(num_states: int) -> None:
    if num_states < 3:
        raise ValueError(
            "covariance without step_size is the covariance over the states of a run, and the kernel "
            f"keeps num_states={num_states}: keep more (kernels.keep), or pass the step_size of a walk "
            "about the outcome"
        )
