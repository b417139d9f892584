"""The gradient of each measured value, which is what a curvature is asked to invert."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dtda_prob.training import Training
from dtda_prob.typing import Params

QUERIES_AT_ONCE = 16


def map_slopes(function: Callable[[Params], Any], training: Training, params: Params) -> Any:
    """Apply a function to the gradient of each measured value: results lead with `(query, *output)`."""
    value, pullback = jax.vjp(lambda params: training.observe(params)[1], params)
    basis = jnp.eye(value.size, dtype=value.dtype).reshape(value.size, *value.shape)
    found = jax.lax.map(lambda row: function(pullback(row)[0]), basis, batch_size=QUERIES_AT_ONCE)
    return jax.tree.map(lambda leaf: leaf.reshape(*value.shape, *leaf.shape[1:]), found)
