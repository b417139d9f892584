"""Retraining: the exact push-forward, which all others are measured against."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dtda_prob.training import Training
from dtda_prob.transforms.pulling import of_queries
from dtda_prob.transforms.push_forward import Cost, PushForward
from dtda_prob.typing import PRNGKey, Queries, Weights


def retrain(training: Training, *, batch_size: int = 64) -> PushForward:
    """Build the exact push-forward: train again with the same key at the new weights.

    Its `pull` has the finite effect of one whole step per datum: value(w) - value(w - e_k), or
    value(w + e_k) - value(w) where w_k < 1. It costs one training per datum.

    Args:
        training: the stochastic kernel.
        batch_size: trainings at once in `pull`.
    """

    def pull(
        key: PRNGKey, weights: Weights, queries: Queries | None = None
    ) -> Float[Array, "... datum"]:
        if training.program.settings:
            raise NotImplementedError(
                "a setting has no whole step that its effect could be that of; use direction='push'"
            )

        def value_at(weights: Weights) -> Float[Array, "..."]:
            return of_queries(training, training.draw(key, weights).value, queries)

        value = value_at(weights)

        def effect(datum: Int[Array, ""]) -> Float[Array, "..."]:
            step = jnp.where(weights[datum] < 1, 1.0, -1.0).astype(weights.dtype)
            return step * (value_at(weights.at[datum].add(step)) - value)

        data = jnp.arange(training.program.num_data)
        return jnp.moveaxis(jax.lax.map(effect, data, batch_size=batch_size), 0, -1)

    return PushForward(
        name="retrain",
        training=training,
        push=training.push,
        pull=pull,
        cost=Cost(push=1.0, pull=1.0 + training.program.num_data),
        rebuild=lambda other, at: retrain(other, batch_size=batch_size),
    )
