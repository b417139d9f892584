"""Importance weights, for training algorithms that draw from a posterior."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from blackjax.diagnostics import effective_sample_size, psis_weights
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dtda_prob.training import Training
from dtda_prob.transforms.at_outcome import side_key
from dtda_prob.transforms.push_forward import At, Cost, PushForward, Weighed
from dtda_prob.transforms.pushing import push_of_carry
from dtda_prob.transforms.response import check_posterior
from dtda_prob.typing import Outcome, Params, PRNGKey, Queries, Weights

GOOD_K = 0.7
"""Pareto k-hat above which importance weights are not to be trusted (Vehtari et al., 2024)."""


class Population(NamedTuple):
    """Draws of the posterior on all data.

    Attributes:
        params: stacked draws.
        log_density: log of the unnormalised posterior density of each.
        relative_size: effective number of draws over their number, at most 1.
    """

    params: Params
    log_density: Float[Array, " draw"]
    relative_size: float


def reweigh(
    training: Training,
    key: PRNGKey,
    *,
    num_draws: int = 256,
    match_moments: bool = False,
) -> PushForward:
    """Build the push-forward by importance weights with Pareto smoothing.

    A population of draws on all data, which is drawn here and now, gets self-normalised weights
    proportional to exp(-n (L(theta, new) - L(theta, all)) / temperature), smoothed (Vehtari et al.,
    arXiv 1507.02646; BlackJAX's). `push` keeps the sample of its key as often as the weights allow, and
    else takes one of the population in proportion to what they lack: a maximal coupling, so that the
    law of what comes out is that of the weights, which `weigh` of the push-forward gives. Removing what
    matters much needs `diagnostics.pareto_k`, for weights that rest on few draws.

    Args:
        training: the stochastic kernel, which must draw from a posterior.
        key: key of the population.
        num_draws: size of the population, a multiple of the states that the kernel keeps of a run.
        match_moments: move the population's mean and variances to the weighted ones first, where that
            gives a better tail (Paananen et al., arXiv 1906.08850).

    Raises:
        ValueError: if the kernel draws from no posterior, or `num_draws` is below 25, the least that
            a tail can be fitted to, or is no multiple of the states of a run.
    """
    temperature = check_posterior(training, "reweigh")
    if num_draws < 25:
        raise ValueError(f"num_draws={num_draws} must be at least 25, for the tail to be fitted")
    population = draw_population(training, key, training.num_runs(num_draws))

    def log_density(params: Params, weights: Weights) -> Float[Array, ""]:
        return -training.program.num_rows / temperature * training.program.objective(params, weights)

    def log_ratios(params: Params, weights: Weights) -> Float[Array, " draw"]:
        return jax.vmap(lambda theta: log_density(theta, weights))(params) - population.log_density

    def weigh(new: Weights) -> Weighed:
        def weighed(shift: Params, scale: Params) -> Weighed:
            moved = jax.vmap(lambda theta: _move(theta, shift, scale))(_traced(population.params))
            ratios = log_ratios(moved, new)
            log_weights, pareto_k = psis_weights(ratios, population.relative_size)
            return Weighed(moved, log_weights, pareto_k, _log_mean(ratios), shift, scale)

        return (_with_moments if match_moments else _plain)(population.params, weighed)

    def carry(key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        others, before = weigh(new), log_ratios(_traced(population.params), old)
        shares = jnp.exp(others.log_weights) - jax.nn.softmax(before)
        lacking = jnp.cumsum(jnp.maximum(shares, 0.0))

        def moved(params: Params, key: PRNGKey) -> Params:
            own = _move(params, others.shift, others.scale)
            keep_key, other_key = jax.random.split(key)
            ratio = log_density(own, new) - others.log_mean
            ratio -= log_density(params, old) - _log_mean(before)
            kept = jax.random.uniform(keep_key, dtype=ratio.dtype) < jnp.exp(ratio)
            place = lacking[-1] * jax.random.uniform(other_key, dtype=lacking.dtype)
            chosen = jnp.searchsorted(lacking, place, side="right")
            other = jax.tree.map(lambda leaf: leaf[chosen], others.params)
            return jax.tree.map(lambda mine, its: jnp.where(kept, mine, its), own, other)

        params = training.each_state(moved)(outcome.params, training.keys_of_states(side_key(key)))
        outputs, value = training.observe(params)
        return outcome._replace(params=params, outputs=outputs, value=value)

    def pull(
        key: PRNGKey, weights: Weights, queries: Queries | None = None
    ) -> Float[Array, "... datum"]:
        raise NotImplementedError(
            "reweigh moves mass from draw to draw, so that a single draw has no derivative: use "
            "direction='push', or `covariance` for the derivative of the mean"
        )

    def rebuild(other: Training, at: At | None) -> PushForward:
        return reweigh(other, key, num_draws=num_draws, match_moments=match_moments)

    return PushForward(
        name=f"reweigh[{num_draws}{', moments matched' if match_moments else ''}]",
        training=training,
        push=push_of_carry(training, carry),
        pull=pull,
        cost=Cost(push=1.0, pull=float("nan")),
        rebuild=rebuild,
        carry=carry,
        weigh=weigh,
    )


def draw_population(training: Training, key: PRNGKey, num_runs: int) -> Population:
    """Draw on all data, all states of all runs in one row; see `reweigh`."""
    program, weights = training.program, training.program.full_weights()
    scale = program.num_rows / check_posterior(training, "a population")

    @jax.jit
    def draw(keys: Array) -> tuple[Params, Array]:
        params = jax.vmap(lambda key: training.draw(key, weights).params)(keys)
        if training.kernel.num_states > 1:
            params = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), params)
        return params, -scale * jax.vmap(lambda theta: program.objective(theta, weights))(params)

    params, log_density = draw(jax.random.split(key, num_runs))
    return Population(params, log_density, _relative_size(params, num_runs))


def _relative_size(params: Params, num_runs: int) -> float:
    """Give the effective over the actual number of draws, on average over parameters, at most 1."""
    rows = jax.vmap(lambda one: ravel_pytree(one)[0])(params)
    if len(rows) == num_runs:
        return 1.0
    sizes = jax.jit(effective_sample_size)(rows.reshape(num_runs, -1, rows.shape[1]))
    mean, num_draws = float(np.mean(sizes)), len(rows)
    return min(1.0, mean / num_draws) if np.isfinite(mean) and mean > 0 else 1.0


def _traced(params: Params) -> Params:
    """Give the draws behind a barrier, so that XLA does not work their densities out as it compiles."""
    return jax.lax.optimization_barrier(params)


def _plain(params: Params, weighed: Callable[..., Weighed]) -> Weighed:
    first = jax.tree.map(lambda leaf: leaf[0], params)
    return weighed(optax.tree.zeros_like(first), optax.tree.ones_like(first))


def _with_moments(params: Params, weighed: Callable[..., Weighed]) -> Weighed:
    """Match moments where that gives a better tail."""
    plain = _plain(params, weighed)
    matched = weighed(*_match(params, jnp.exp(plain.log_weights)))
    better = matched.pareto_k < plain.pareto_k
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), matched, plain)


def _log_mean(log_ratios: Float[Array, " draw"]) -> Float[Array, ""]:
    return jax.nn.logsumexp(log_ratios) - jnp.log(len(log_ratios))


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
