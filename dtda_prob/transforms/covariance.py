"""Bayesian influence: how losses and measurement vary together in a local posterior."""

from functools import partial

import blackjax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from dtda_prob.training import STATES_AT_ONCE, Training
from dtda_prob.transforms.at_outcome import side_key
from dtda_prob.transforms.push_forward import At, Cost, PushForward
from dtda_prob.transforms.response import check_options, check_posterior, check_single, push_forward
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights


def covariance(
    training: Training,
    *,
    step_size: float | None = None,
    temperature: float = 1.0,
    pull_to_outcome: float = 0.0,
    num_samples: int = 200,
    num_warmup: int = 100,
    thinning: int = 1,
    at: At = "centre",
    batch_size: int | None = 64,
) -> PushForward:
    """Build the push-forward by minus the covariance of losses and measurement near the outcome.

    Under a posterior proportional to exp(-n L(theta, w) / temperature) an expectation has the
    derivative -Cov(m, loss_k) / temperature with respect to weight k (Giordano et al., arXiv
    1709.02536). Where the kernel draws from a posterior and keeps several states of a run, it is the
    covariance of these. Given a `step_size` it is that of the local posterior, proportional to
    exp(-n L(theta, w) / temperature - c |theta - theta_T|^2 / 2), which is sampled by Langevin dynamics
    from the outcome theta_T (BlackJAX's SGLD on all data; Kreer et al., arXiv 2509.26544). All states
    of a run move alike. No curvature is inverted, but the Monte Carlo error of a response falls only
    as the root of the number of states.

    Args:
        training: the stochastic kernel.
        step_size: of the local dynamics, in units of squared parameters; at most the smallest posterior
            variance, roughly. None for the states of the run itself, which need no further setting.
        temperature: of the local posterior.
        pull_to_outcome: c, which keeps the walk near the outcome.
        num_samples: states of the walk that are kept.
        num_warmup: steps before.
        thinning: steps from state to state.
        at: where the outcome is taken; see `unroll`.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: if a setting is not positive (`pull_to_outcome`, `num_warmup`: not negative);
            without a `step_size`, if the kernel draws from no posterior or keeps fewer than three
            states of a run; with one, if it keeps several.
    """
    check_options(at)
    if step_size is None:
        temperature = check_posterior(training, "covariance without step_size")
        num_samples = _check_several(training)
    else:
        check_single(training, "covariance with a step_size")
        _check_positive(step_size=step_size, temperature=temperature, thinning=thinning)
        _check_positive(num_samples=num_samples - 1, num_warmup=num_warmup + 1)
        _check_positive(pull_to_outcome=pull_to_outcome + 1)

    def states_near(key: PRNGKey, params: Params, here: Weights) -> Params:
        if step_size is None:
            return params
        walk = partial(_walk, training, here, params, step_size, temperature, pull_to_outcome)
        return walk(side_key(key), num_warmup, num_samples, thinning)

    def draw(key: PRNGKey, weights: Weights) -> Outcome:
        here = jax.lax.stop_gradient(weights)
        outcome = jax.lax.stop_gradient(training.draw(key, here))
        states = states_near(key, outcome.params, here)
        found = jax.lax.map(partial(_observe, training, here), states, batch_size=STATES_AT_ONCE)
        found, losses = jax.lax.stop_gradient(found)
        centred = jax.tree.map(lambda leaf: leaf - leaf.mean(0), (found, losses))
        tilt = -centred[1] @ (weights - here) / (temperature * (num_samples - 1))
        still = outcome.params, outcome.outputs, outcome.value
        moved = jax.tree.map(lambda x, c: x + jnp.tensordot(tilt, c, 1), still, centred[0])
        return Outcome(*moved, outcome.losses, outcome.stats)

    num_steps = 0 if step_size is None else num_warmup + num_samples * thinning
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


def _observe(training: Training, weights: Weights, params: Params) -> tuple[PyTree, Array]:
    outputs = training.measure.outputs(params)
    found = params, outputs, training.measure.readout(outputs)
    return found, training.program.slopes(params, weights)


def _check_several(training: Training) -> int:
    if training.kernel.num_states < 3:
        raise ValueError(
            "covariance without step_size is that of the states of a run, and the kernel keeps "
            f"num_states={training.kernel.num_states}: keep more (kernels.keep), or give the step_size "
            "of a walk about the outcome"
        )
    return training.kernel.num_states


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
