"""The reverse direction: the response of queries to all data at once, row by row."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dtda_prob.blocks import map_blocks
from dtda_prob.training import Training
from dtda_prob.transforms.at_outcome import AtOutcome, weights_of_states
from dtda_prob.transforms.push_forward import At
from dtda_prob.transforms.pushing import shares
from dtda_prob.typing import Draw, PRNGKey, Pull, Push, Queries, Weights


def pull_back(training: Training, draw: Draw | AtOutcome, at: At, batch_size: int | None) -> Pull:
    """Give the response row by row, in reverse mode, at the weights given unless `at` is an array."""

    def pull_at(key: PRNGKey, point: Weights, queries: Queries | None) -> Float[Array, "... datum"]:
        own = weights_of_states(training, point) if isinstance(draw, AtOutcome) else point

        def value_at(weights: Float[Array, "*state datum"]) -> Array:
            return of_queries(training, draw(key, weights).value, queries)

        return _rows(value_at, own, batch_size)

    def pull(
        key: PRNGKey, weights: Weights, queries: Queries | None = None
    ) -> Float[Array, "... datum"]:
        if isinstance(at, str) or jnp.ndim(at) == 1:
            point = weights if isinstance(at, str) else jnp.asarray(at, weights.dtype)
            return pull_at(key, point, queries)
        points = jnp.asarray(at, weights.dtype)
        pairs = points, shares(training, points)
        return jax.lax.map(lambda pair: pull_at(key, pair[0], queries) * pair[1], pairs).mean(0)

    return pull


def pull_of_push(training: Training, push: Push, batch_size: int | None) -> Pull:
    """Give d push(key, weights, new) / d new at new = weights, in reverse mode, state by state."""

    def pull(
        key: PRNGKey, weights: Weights, queries: Queries | None = None
    ) -> Float[Array, "... datum"]:
        def value_at(new: Float[Array, "*state datum"]) -> Array:
            return of_queries(training, push(key, weights, new).value, queries)

        return _rows(value_at, weights_of_states(training, weights), batch_size)

    return pull


def of_queries(
    training: Training, value: Float[Array, "..."], queries: Queries | None
) -> Float[Array, "..."]:
    """Keep some queries of a value `(*state, query, *output)`, by position; all if None."""
    if queries is None:
        return value
    return value[:, queries] if training.kernel.num_states > 1 else value[queries]


def _rows(
    value_at: Callable[[Weights], Array], point: Float[Array, "*state datum"], batch_size: int | None
) -> Float[Array, "... datum"]:
    """Give the Jacobian in reverse mode, `batch_size` rows at a time.

    Where states have weights of their own, a row is that of one query for all of them.
    """
    value, pullback = jax.vjp(value_at, point)
    shape = value.shape[point.ndim - 1 :]
    size = math.prod(shape)

    def row(index: Int[Array, ""]) -> Float[Array, "*state datum"]:
        cotangent = jnp.zeros(size, value.dtype).at[index].set(1.0)
        return pullback(jnp.broadcast_to(cotangent.reshape(shape), value.shape))[0]

    rows = map_blocks(row, size, batch_size or size)
    return jnp.moveaxis(rows, 0, -2).reshape(*value.shape, point.shape[-1])
