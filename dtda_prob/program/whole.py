"""The objective at all data, in blocks of examples where they do not fit into memory at once."""

import math
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dtda_prob.checkpoints import memory_of_device, traced
from dtda_prob.typing import Params, Weights

if TYPE_CHECKING:
    from dtda_prob.program.objective import Objective

SHARE = 1 / 16
"""The share of a device's memory that a block may compute: four outcomes are read together."""


def in_blocks(program: "Objective", params: Params, weights: Weights) -> Float[Array, ""]:
    """Evaluate the objective, in blocks of examples if all at once do not fit.

    Derivatives keep one block as well. Where the objective is not linear in the weights, the model
    visits all examples whatever the batch, or examples have sites of their own, all come at once.
    """
    whole, computed = traced(program.objective, params, weights)
    size = _size(program, computed)
    if size == program.num_data or not _is_sum(program):
        return whole(params, weights)
    firsts = jnp.arange(0, program.num_data, size)
    of_block = jax.checkpoint(partial(_of_block, program, size, params, weights), prevent_cse=False)
    of_examples, others = jax.lax.map(of_block, firsts)
    return of_examples.sum() + others[0]


def gradient_in_blocks(
    program: "Objective", params: Params, weights: Weights
) -> tuple[Float[Array, ""], Params]:
    """Evaluate the objective and its gradient with respect to the parameters that are trained."""

    def objective(trained: Params) -> Float[Array, ""]:
        return in_blocks(program, params | trained, weights)

    return jax.value_and_grad(objective)(program.trained(params))


def _is_sum(program: "Objective") -> bool:
    """Return whether batches add up to the objective by what their weights multiply alone."""
    has_own = program.structure.local or program.structure.local_params
    return program.follows_indices and program.is_linear and not has_own


def _size(program: "Objective", computed: float) -> int:
    """Return the number of examples of a block, where all together compute so many bytes."""
    num_blocks = max(1, math.ceil(computed / (SHARE * memory_of_device())))
    return max(1, program.num_data // num_blocks)


def _of_block(
    program: "Objective", size: int, params: Params, weights: Weights, first: Int[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return what the examples of a block add to the objective, and what does not depend on weights.

    The last block overlaps the one before, where they do not divide the examples.
    """
    rows = jnp.minimum(first, program.num_data - size) + jnp.arange(size)
    added = jnp.zeros_like(weights).at[rows].set(jnp.where(rows >= first, weights[rows], 0))
    estimate = partial(program.objective, params, indices=rows)
    value, slope = jax.linearize(estimate, weights)
    return slope(added) * (size / program.num_visited(weights)), value - slope(weights)
