"""Importance weights, for training algorithms that draw from a posterior."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from blackjax.diagnostics import psis_weights
from jaxtyping import Array, Float

from dtda_prob.training import Training
from dtda_prob.transforms.response import At, Cost, PushForward, side_key
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights

GOOD_K = 0.7
"""Pareto k-hat above which importance weights are not to be trusted (Vehtari et al., 2024)."""


class Population(NamedTuple):
    """Draws at the old weights, and what weighs them for the new.

    Attributes:
        params: stacked draws, moved to match moments where that was asked for and helps.
        log_weights: smoothed and normalised log importance weights.
        pareto_k: the shape of their tail; estimates are reliable below 0.7.
        log_mean: log of the mean importance ratio before smoothing.
        shift: by how much draws were moved, after scaling.
        scale: by how much they were scaled.
    """

    params: Params
    log_weights: Float[Array, " draw"]
    pareto_k: Float[Array, ""]
    log_mean: Float[Array, ""]
    shift: Params
    scale: Params


def reweigh(
    training: Training,
    key: PRNGKey,
    *,
    num_draws: int = 256,
    match_moments: bool = False,
) -> PushForward:
    """Build the push-forward by importance weights with Pareto smoothing.

    A population of draws at the old weights gets self-normalised weights proportional to
    exp(-n (L(theta, new) - L(theta, old)) / temperature), smoothed (Vehtari et al., arXiv
    1507.02646; BlackJAX's). `push` keeps the sample of its key as often as the weights allow, and
    else takes one of the population in proportion to what they lack: a maximal coupling, so that the
    law of what comes out is that of the weights. Removing what matters much needs
    `diagnostics.pareto_k`, for weights that rest on few draws.

    Args:
        training: the stochastic kernel, which must draw from a posterior.
        key: key of the population.
        num_draws: size of the population.
        match_moments: move the population's mean and variances to the weighted ones first, where that
            gives a better tail (Paananen et al., arXiv 1906.08850).

    Raises:
        ValueError: if the kernel draws from no posterior, or `num_draws` is below 25, the least that
            a tail can be fitted to.
    """
    _temperature(training)
    if num_draws < 25:
        raise ValueError(f"num_draws={num_draws} must be at least 25, for the tail to be fitted")
    weigh = partial(population, training, key, num_draws, match_moments)

    def push(key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        others, own = weigh(old, new), training.draw(key, old)
        own_params = _move(own.params, others.shift, others.scale)
        log_ratio = _log_density(training, own_params, new) - _log_density(training, own.params, old)
        ratio = jnp.exp(log_ratio - others.log_mean)
        keep_key, other_key = jax.random.split(side_key(key))
        lacking = jnp.maximum(jnp.exp(others.log_weights) - 1 / num_draws, 0.0)
        chosen = jax.random.categorical(other_key, jnp.log(lacking))
        kept = jax.random.uniform(keep_key, dtype=ratio.dtype) < ratio
        params = jax.tree.map(
            lambda mine, all_: jnp.where(kept, mine, all_[chosen]), own_params, others.params
        )
        return Outcome(params, *training.observe(params), own.trace)

    def pull(key: PRNGKey, weights: Weights) -> Float[Array, "query *output datum"]:
        raise NotImplementedError(
            "reweigh moves mass from draw to draw, so that a single draw has no derivative: use "
            "direction='push', or `covariance` for the derivative of the mean"
        )

    def rebuild(other: Training, at: At | None) -> PushForward:
        return reweigh(other, key, num_draws=num_draws, match_moments=match_moments)

    return PushForward(
        name=f"reweigh[{num_draws}{', moments matched' if match_moments else ''}]",
        training=training,
        push=push,
        pull=pull,
        cost=Cost(push=1.0, pull=float("nan")),
        rebuild=rebuild,
        pareto_k=lambda old, new: weigh(old, new).pareto_k,
    )


def population(
    training: Training,
    key: PRNGKey,
    num_draws: int,
    match_moments: bool,
    old: Weights,
    new: Weights,
) -> Population:
    """Draw at the old weights, and weigh for the new; see `reweigh`."""
    params = jax.vmap(lambda key: training.draw(key, old).params)(jax.random.split(key, num_draws))
    own = jax.vmap(lambda theta: _log_density(training, theta, old))(params)

    def weighed(shift: Params, scale: Params) -> Population:
        moved = jax.vmap(lambda theta: _move(theta, shift, scale))(params)
        log_ratios = jax.vmap(lambda theta: _log_density(training, theta, new))(moved) - own
        log_weights, pareto_k = psis_weights(log_ratios)
        log_mean = jax.nn.logsumexp(log_ratios) - jnp.log(num_draws)
        return Population(moved, log_weights, pareto_k, log_mean, shift, scale)

    first = jax.tree.map(lambda leaf: leaf[0], params)
    plain = weighed(optax.tree.zeros_like(first), optax.tree.ones_like(first))
    if not match_moments:
        return plain
    matched = weighed(*_match(params, jnp.exp(plain.log_weights)))
    better = matched.pareto_k < plain.pareto_k
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), matched, plain)


def _log_density(training: Training, params: Params, weights: Weights) -> Float[Array, ""]:
    scale = training.program.num_rows / _temperature(training)
    return -scale * training.program.objective(params, weights)


def _temperature(training: Training) -> float:
    """Give the temperature of the posterior that the kernel draws from.

    Raises:
        ValueError: if there is none.
    """
    temperature = training.kernel.phases[-1].temperature
    if not temperature:
        raise ValueError(
            "reweigh needs a kernel that draws from a posterior of known temperature, such as "
            "kernels.exact(), and this one does not; take influence or unroll"
        )
    return temperature


def _match(params: Params, weights: Float[Array, " draw"]) -> tuple[Params, Params]:
    """Give the shift and scale that bring means and variances to the weighted ones."""

    def moments(leaf: Array, share: Array) -> tuple[Array, Array]:
        mean = jnp.tensordot(share, leaf, 1)
        return mean, jnp.sqrt(jnp.tensordot(share, (leaf - mean) ** 2, 1))

    plain = jnp.full_like(weights, 1 / len(weights))
    leaves, structure = jax.tree.flatten(params)
    before = [moments(leaf, plain) for leaf in leaves]
    after = [moments(leaf, weights) for leaf in leaves]
    scale = [new / old for (_, old), (_, new) in zip(before, after, strict=True)]
    shift = [new - s * old for (old, _), (new, _), s in zip(before, after, scale, strict=True)]
    return structure.unflatten(shift), structure.unflatten(scale)


def _move(params: Params, shift: Params, scale: Params) -> Params:
    return optax.tree.add(optax.tree.mul(params, scale), shift)
