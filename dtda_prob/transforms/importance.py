"""Importance sampling, for training algorithms that draw from a posterior."""

from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from blackjax.diagnostics import effective_sample_size, psis_weights
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dtda_prob.compiling import compiled
from dtda_prob.kernels.finished import finished
from dtda_prob.kernels.hamiltonian import Hamiltonian
from dtda_prob.module import Module
from dtda_prob.perturbations import check_weights
from dtda_prob.training import Training, each_state
from dtda_prob.transforms.mixture import mixture
from dtda_prob.transforms.push_forward import (
    Cost,
    PushForward,
    check_posterior,
    side_key,
)
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights

GOOD_K = 0.7
"""Pareto k-hat above which importance weights are unreliable (Vehtari et al., 2024)."""
DEFAULT_DRAWS = 256
"""Default number of draws of a population, at least."""
MOST_SLOPES = 2**26
"""Largest number of elements of the table of losses by draw and example."""
SLOPES = "slopes"
"""The statistic of a state that its importance ratios at all weights come from."""
PARETO_K = "pareto_k"
"""The statistic of a state that holds the k-hat of the weights by which it was carried."""
LEAST_DRAWS = 25
"""Smallest number of draws to which a tail can be fitted."""


class Population(Module):
    """Draws of the posterior on all data, or of a mixture.

    Attributes:
        params: stacked draws.
        log_density: log of the unnormalised density that each is drawn from.
        log_posterior: log of the unnormalised posterior density of each on all data.
        slopes: the derivative of n L at each draw with respect to the weights, if the objective is
            linear in them and the table fits into memory.
        effective: effective number of draws, an integer, which sets the length of the tail.
    """

    params: Params
    log_density: Float[Array, " draw"]
    log_posterior: Float[Array, " draw"]
    slopes: Float[Array, "draw example"] | None
    effective: int


class Weighted(NamedTuple):
    """Draws of a posterior with importance weights for other data.

    Attributes:
        params: the draws, run after run, moved to match moments if requested and useful.
        log_weights: smoothed and normalised log importance weights.
        pareto_k: the shape of their tail; estimates are reliable below 0.7.
        log_mean: log of the mean importance ratio before smoothing.
        shift: the shift of the draws, after scaling.
        scale: the factor by which they were scaled.
    """

    params: Params
    log_weights: Float[Array, " draw"]
    pareto_k: Float[Array, ""]
    log_mean: Float[Array, ""]
    shift: Params
    scale: Params


class importance(PushForward):
    """Reweight a population of posterior draws, with Pareto smoothing.

    The population of draws on all data is drawn when the transform is constructed. Its self-normalised
    weights are proportional to exp(-n (L(theta, new) - L(theta, all)) / temperature), smoothed (Vehtari
    et al., arXiv 1507.02646; BlackJAX's). `push` keeps the sample of its key as often as the weights
    allow, and otherwise takes a draw of the population in proportion to the missing weight: a maximal
    coupling, so that the result is distributed by the weights, which `weigh` returns. There is no
    `pull`, since mass moves from draw to draw: `covariance` has the derivative of the mean. Look at
    `diagnostics.pareto_k` before removing examples of large influence: weights may rest on few draws.

    Attributes:
        training: the stochastic kernel, which must draw from a posterior.
        key: key of the population; `jax.random.key(0)` if None.
        num_draws: size of the population, a multiple of the states that the kernel keeps of a run; if
            None, the states of as many runs as give 256 draws, and all of a pretrained kernel.
        match_moments: first move the mean and variances of the population to the weighted ones, if that
            gives a better tail (Paananen et al., arXiv 1906.08850).
        proposal: perturbed datasets `(perturbation, example)`, from the mixture of whose posteriors the
            population is drawn, by `nuts` or `hmc`: no weight at one of them is more than the mixture's
            number of posteriors times the mean, so that removals whose weights rest on few draws of the
            posterior on all data can be asked for, all of them at the price of one population.
        population: the draws of the population; drawn with the key if None.

    Raises:
        ValueError: if the kernel draws from no posterior, or `num_draws` is below 25, the least to
            which a tail can be fitted, or not a multiple of the states of a run; with a `proposal`, if
            the kernel is no sampler of densities, or moments are to be matched.
    """

    key: PRNGKey
    num_draws: int | None = eqx.field(default=None, kw_only=True)
    match_moments: bool = eqx.field(default=False, kw_only=True)
    proposal: Float[Array, "component example"] | None = eqx.field(default=None, kw_only=True)
    population: Population = eqx.field(kw_only=True, repr=False)

    directions = ("push",)

    def __init__(
        self,
        training: Training,
        key: PRNGKey | None = None,
        *,
        num_draws: int | None = None,
        match_moments: bool = False,
        proposal: Any = None,
        population: Population | None = None,
    ):
        check_posterior(training, "importance")
        size = _default_draws(training) if num_draws is None else num_draws
        if size < LEAST_DRAWS:
            raise ValueError(
                f"num_draws={size} must be at least {LEAST_DRAWS}, for a tail to be fitted"
            )
        self.training, self.key = training, jax.random.key(0) if key is None else key
        self.num_draws, self.match_moments = num_draws, match_moments
        self.proposal = _components(training, proposal, match_moments)
        num_runs = training.num_runs(size)
        self.population = population or draw_population(training, self.key, num_runs, self.proposal)

    def matched(self, num_removed: int, centre: Weights | None = None) -> PushForward:
        """Return the transform of a training on fewer rows, with its own population."""
        if num_removed == 0:
            return self
        return replace(self, training=self.training.drop(num_removed), population=None)

    def weigh(self, new: Weights) -> Weighted:
        """Return the population with its importance weights for other data."""
        plain = self._weighted(new, *_still(self.population.params))
        if not self.match_moments:
            return plain
        matched = self._weighted(new, *_match(self.population.params, jnp.exp(plain.log_weights)))
        better = matched.pareto_k < plain.pareto_k
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), matched, plain)

    def carry(self, key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        """Keep each state of an outcome, or exchange it for a draw of the population."""
        others = self.weigh(new)
        before = self._log_ratios(*_still(self.population.params), old)
        shares = jnp.exp(others.log_weights) - jax.nn.softmax(before)
        lacking = jnp.cumsum(jnp.maximum(shares, 0.0))
        stats = self.ready(outcome, old).stats
        slopes = {SLOPES: stats[SLOPES]} if SLOPES in stats else {}

        def moved(params: Params, noise: Array, slopes: dict[str, Array]) -> Params:
            own = _move(params, others.shift, others.scale)
            if slopes:
                change = -slopes[SLOPES] @ (new - old) / self._temperature
            else:
                change = self._log_density(own, new) - self._log_density(params, old)
            ratio = change - others.log_mean + _log_mean(before)
            kept = noise[0] < jnp.exp(ratio)
            place = lacking[-1] * noise[1]
            chosen = jnp.searchsorted(lacking, place, side="right")
            other = jax.tree.map(lambda leaf: leaf[chosen], others.params)
            return jax.tree.map(lambda mine, its: jnp.where(kept, mine, its), own, other)

        keys, num_states = jax.random.split(side_key(key)), self.training.kernel.num_states
        noise = [jax.random.uniform(each, (num_states,), lacking.dtype) for each in keys]
        params = each_state(moved, outcome.params, jnp.stack(noise, 1), slopes)
        stats = {name: each for name, each in stats.items() if name != SLOPES}
        stats[PARETO_K] = jnp.full(num_states, others.pareto_k)
        return self.training.measured(params, outcome.losses, stats)

    def ready(self, outcome: Outcome, old: Weights) -> Outcome:
        """Return an outcome with the derivative of n L at each state with respect to the weights."""
        if SLOPES in outcome.stats or self.population.slopes is None or self.match_moments:
            return outcome
        slopes = each_state(lambda params: self.training.program.slopes(params, old), outcome.params)
        return outcome._replace(stats=outcome.stats | {SLOPES: slopes})

    @property
    def cost(self) -> Cost:
        return Cost(1.0, float("nan"))

    def _weighted(self, new: Weights, shift: Params, scale: Params) -> Weighted:
        ratios = self._log_ratios(shift, scale, new)
        log_weights, pareto_k = psis_weights(ratios, self.population.effective / len(ratios))
        if self.proposal is not None:
            has_bound = (self.proposal == new).all(-1).any()
            log_weights, pareto_k = _bounded(ratios, log_weights, pareto_k, has_bound)
        moved = jax.vmap(lambda theta: _move(theta, shift, scale))(self.population.params)
        return Weighted(moved, log_weights, pareto_k, _log_mean(ratios), shift, scale)

    def _log_ratios(self, shift: Params, scale: Params, weights: Weights) -> Float[Array, " draw"]:
        """Return log densities of moved draws at these weights, minus the draws' own on all data."""
        population = self.population
        if population.slopes is not None and not self.match_moments:
            change = weights - self.training.program.full_weights()
            offset = population.log_posterior - population.log_density
            return offset - (population.slopes @ change) / self._temperature
        moved = jax.vmap(lambda theta: _move(theta, shift, scale))(population.params)
        densities = jax.vmap(lambda theta: self._log_density(theta, weights))(moved)
        return densities - population.log_density

    @property
    def _temperature(self) -> float:
        return check_posterior(self.training, "importance")

    def _log_density(self, params: Params, weights: Weights) -> Float[Array, ""]:
        scale = self.training.program.num_rows / self._temperature
        return -scale * self.training.program.objective(params, weights)


def _default_draws(training: Training) -> int:
    several, runs = training.kernel.num_states, training.kernel.num_runs
    return several * (runs or -(-DEFAULT_DRAWS // several))


def _components(training: Training, proposal: Any, match_moments: bool) -> Array | None:
    """Return the components of the mixture as rows, or None where there is no mixture."""
    if proposal is None:
        return None
    if match_moments or not isinstance(training.kernel, Hamiltonian):
        raise ValueError(
            "proposal: the population of a mixture is drawn by kernels.nuts or kernels.hmc, and its "
            "moments are not matched; take one of them, and leave match_moments out"
        )
    rows = np.atleast_2d(check_weights(training.program, proposal).values)
    return jnp.asarray(rows, training.program.full_weights().dtype)


def draw_population(
    training: Training, key: PRNGKey, num_runs: int, proposal: Array | None = None
) -> Population:
    """Draw on all data, or from a mixture; all states of all runs are stacked, run after run."""
    kernel = training.kernel
    if isinstance(kernel, finished):
        drawn = _drawn(training, kernel.keys(key, np.arange(num_runs)), None)
        return Population(*drawn, max(1, kernel.num_effective * num_runs // kernel.num_runs))
    drawn = _drawn(training, jax.random.split(key, num_runs), proposal)
    return Population(*drawn, _effective(drawn[0], num_runs))


@compiled
def _drawn(
    training: Training, keys: Array, proposal: Array | None
) -> tuple[Params, Array, Array, Array | None]:
    program, weights = training.program, training.program.full_weights()
    temperature = check_posterior(training, "importance")
    scale = program.num_rows / temperature
    source: Any = program if proposal is None else mixture(program, proposal, temperature)
    states = jax.vmap(lambda key: training.kernel.run(key, source, weights).params)(keys)
    params = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states)
    num_draws = len(jax.tree.leaves(params)[0])
    fits = program.is_linear and num_draws * program.num_data <= MOST_SLOPES

    def densities(theta: Params) -> tuple[Array, Array, Array | None]:
        slopes = program.slopes(theta, weights) if fits else None
        own, whole = (-scale * each.objective(theta, weights) for each in (source, program))
        return own, whole, slopes

    return params, *each_state(densities, params)


def _effective(params: Params, num_runs: int) -> int:
    """Return the effective number of draws, averaged over parameters, at most their number."""
    rows = jax.vmap(lambda one: ravel_pytree(one)[0])(params)
    if len(rows) == num_runs:
        return num_runs
    sizes = jax.jit(effective_sample_size)(rows.reshape(num_runs, -1, rows.shape[1]))
    mean = float(np.mean(sizes))
    return max(1, min(len(rows), round(mean))) if np.isfinite(mean) and mean > 0 else len(rows)


def _bounded(
    ratios: Float[Array, " draw"], smoothed: Float[Array, " draw"], pareto_k: Array, has_bound: Array
) -> tuple[Array, Array]:
    """Return weights and k-hat where weights may have a bound: then their tail has no shape above 0.

    A shape is fitted to weights that have not reached their bound yet, which says nothing, unless they
    rest on few draws.
    """
    plain = jax.nn.log_softmax(ratios)
    several = jnp.exp(-jax.nn.logsumexp(2 * plain)) >= LEAST_DRAWS
    chosen = has_bound & several
    shape = jnp.where(chosen, jnp.minimum(pareto_k, 0.0), pareto_k)
    return jnp.where(chosen, plain, smoothed), shape


def _still(params: Params) -> tuple[Params, Params]:
    """Return the shift and scale that leave draws unchanged."""
    first = jax.tree.map(lambda leaf: leaf[0], params)
    return optax.tree.zeros_like(first), optax.tree.ones_like(first)


def _log_mean(log_ratios: Float[Array, " draw"]) -> Float[Array, ""]:
    return jax.nn.logsumexp(log_ratios) - jnp.log(len(log_ratios))


def _match(params: Params, weights: Float[Array, " draw"]) -> tuple[Params, Params]:
    """Return the shift and scale that match means and variances to the weighted ones."""

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
