"""Square roots B of a curvature, H = B'B + prior: rows and products, block by block of data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from dtda_prob.blocks import blocks, map_blocks
from dtda_prob.curvature.matrices import BATCH_SIZE, Matrix, bind_features
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

BLOCK = 2**20
"""Numbers in the rows that are held at once."""

Features = Float[Array, "datum feature"]


class Factor(NamedTuple):
    """B, with one row per datum and feature.

    Attributes:
        rows: `(indices) -> rows` of some data: the parameters' tree with leading `(datum, feature)`.
        forward: `(vector) -> B vector`, shape `(datum, feature)`.
        backward: `(coefficients) -> B' coefficients`.
    """

    rows: Callable[[Int[Array, " datum"]], Params]
    forward: Callable[[Params], Features]
    backward: Callable[[Features], Params]


def bind_factor(matrix: Matrix, program: Program) -> Callable[[PRNGKey, Params, Weights], Factor]:
    """Give `(key, params, weights) -> factor`; no more than a block of rows is ever held."""
    bind = bind_features(matrix, program)

    def build(key: PRNGKey, params: Params, weights: Weights) -> Factor:
        features, scale = bind(key, params), jnp.sqrt(weights / program.num_rows)

        def one(theta: Params, index: Int[Array, ""]) -> Float[Array, " feature"]:
            return scale[index] * features(theta, index)

        def everything(theta: Params) -> Features:
            each = jax.checkpoint(lambda index: one(theta, index))
            return map_blocks(each, program.num_data, BATCH_SIZE)

        # Each is traced once, however many passes there are.
        @jax.jit
        def rows(indices: Int[Array, " datum"]) -> Params:
            return jax.vmap(lambda index: jax.jacrev(one)(params, index))(indices)

        @jax.jit
        def forward(vector: Params) -> Features:
            return jax.jvp(everything, (params,), (vector,))[1]

        @jax.jit
        def backward(coefficients: Features) -> Params:
            return jax.vjp(everything, params)[1](coefficients)[0]

        return Factor(rows, forward, backward)

    return build


def sum_rows(contribution: Callable[[Params], Any], factor: Factor, num_data: int) -> Any:
    """Add up `contribution(rows)` over blocks; rows have one leading axis, datum times feature."""
    positions, present = blocks(num_data, rows_at_once(factor))

    def block(indices: Int[Array, " datum"], here: Bool[Array, " datum"]) -> Any:
        def kept(leaf: Array) -> Array:
            leaf = jnp.where(here.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)
            return leaf.reshape(-1, *leaf.shape[2:])

        return contribution(jax.tree.map(kept, factor.rows(indices)))

    def body(total: Any, xs: tuple) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, block(*xs)), None

    shapes = jax.eval_shape(block, positions[0], present[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(body, zeros, (positions, present))[0]


def rows_at_once(factor: Factor) -> int:
    """Count the data whose rows fill a block."""
    shapes = jax.eval_shape(factor.rows, jnp.zeros(1, int))
    return max(1, BLOCK // sum(leaf.size for leaf in jax.tree.leaves(shapes)))


def flat(rows: Params) -> Float[Array, "row parameter"]:
    """Lay rows out as a matrix."""
    return jax.vmap(lambda row: ravel_pytree(row)[0])(rows)
