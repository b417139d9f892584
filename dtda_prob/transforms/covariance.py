"""Bayesian influence: how losses and measurement vary together in a local posterior."""

from functools import partial

import blackjax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from dtda_prob.training import Training
from dtda_prob.transforms.response import (
    At,
    Cost,
    PushForward,
    check_options,
    push_forward,
    side_key,
)
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights


def covariance(
    training: Training,
    *,
    step_size: float,
    temperature: float = 1.0,
    pull_to_outcome: float = 0.0,
    num_samples: int = 200,
    num_warmup: int = 100,
    thinning: int = 1,
    at: At = "centre",
    batch_size: int | None = 64,
) -> PushForward:
    """Build the push-forward by minus the covariance of losses and measurement near the outcome.

    Under the local posterior proportional to exp(-n L(theta, w) / temperature - c |theta -
    theta_T|^2 / 2) an expectation has the derivative -Cov(m, loss_k) / temperature with respect to
    weight k (Kreer et al., arXiv 2509.26544; Giordano et al., arXiv 1709.02536). It is sampled by
    Langevin dynamics from the outcome theta_T (BlackJAX's SGLD on all data). No curvature is
    inverted, but the Monte Carlo error of a response falls only as the root of `num_samples`.

    Args:
        training: the stochastic kernel.
        step_size: of the dynamics, in units of squared parameters; at most the smallest posterior
            variance, roughly.
        temperature: of the local posterior.
        pull_to_outcome: c, which keeps the walk near the outcome.
        num_samples: states of the walk that are kept.
        num_warmup: steps before.
        thinning: steps from state to state.
        at: where the outcome is taken; see `unroll`.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: if a setting is not positive (`pull_to_outcome`, `num_warmup`: not negative).
    """
    check_options(at)
    _check_positive(step_size=step_size, temperature=temperature, thinning=thinning)
    _check_positive(num_samples=num_samples - 1, num_warmup=num_warmup + 1)
    _check_positive(pull_to_outcome=pull_to_outcome + 1)

    def draw(key: PRNGKey, weights: Weights) -> Outcome:
        here = jax.lax.stop_gradient(weights)
        outcome = jax.lax.stop_gradient(training.draw(key, here))
        walk = partial(_walk, training, here, outcome.params, step_size, temperature, pull_to_outcome)
        states = walk(side_key(key), num_warmup, num_samples, thinning)
        found = jax.lax.map(lambda params: _observe(training, params), states)
        found, losses = jax.lax.stop_gradient(found)
        centred = jax.tree.map(lambda leaf: leaf - leaf.mean(0), (found, losses))
        tilt = -centred[1] @ (weights - here) / (temperature * (num_samples - 1))
        return jax.tree.map(lambda x, c: x + jnp.tensordot(tilt, c, 1), outcome, centred[0])

    num_steps = num_warmup + num_samples * thinning
    passes = (num_steps + num_samples) / training.num_passes()
    return push_forward(
        f"covariance[{num_samples}, temperature={temperature:g}]",
        training,
        draw,
        at,
        "measurement",
        batch_size=batch_size,
        cost=Cost(1.0 + passes, 1.0 + passes),
        make=partial(
            covariance,
            step_size=step_size,
            temperature=temperature,
            pull_to_outcome=pull_to_outcome,
            num_samples=num_samples,
            num_warmup=num_warmup,
            thinning=thinning,
            batch_size=batch_size,
        ),
    )


def _observe(training: Training, params: Params) -> tuple[Outcome, Array]:
    steps = jax.eval_shape(training.draw, jax.random.key(0), training.program.full_weights()).trace
    outcome = Outcome(params, *training.observe(params), jnp.zeros(steps.shape, steps.dtype))
    return outcome, training.program.losses(params)


def _walk(
    training: Training,
    weights: Weights,
    start: Params,
    step_size: float,
    temperature: float,
    pull_to_outcome: float,
    key: PRNGKey,
    num_warmup: int,
    num_samples: int,
    thinning: int,
) -> PyTree:
    """Sample the local posterior; states are stacked."""
    scale = training.program.num_rows / temperature

    def log_density(params: Params) -> Array:
        distance = optax.tree.norm(optax.tree.sub(params, start), squared=True)
        objective = training.program.objective(params, weights)
        return -scale * objective - pull_to_outcome / 2 * distance

    kernel = blackjax.sgld(lambda params, _: jax.grad(log_density)(params))

    def step(params: Params, key: PRNGKey) -> tuple[Params, None]:
        return kernel.step(key, params, None, step_size), None

    def several(params: Params, key: PRNGKey) -> tuple[Params, Params]:
        params, _ = jax.lax.scan(step, params, jax.random.split(key, thinning))
        return params, params

    warm_key, key = jax.random.split(key)
    params = start
    if num_warmup:
        params, _ = jax.lax.scan(step, start, jax.random.split(warm_key, num_warmup))
    return jax.lax.scan(several, params, jax.random.split(key, num_samples))[1]


def _check_positive(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is too small or not finite; see the docstring for its range")
