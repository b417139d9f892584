"""Loops over positions in blocks of one size, which compile once and bound memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

Positions = Int[Array, "block position"]


def map_blocks(fun: Callable[[Int[Array, ""]], Any], length: int, size: int) -> Any:
    """Map over `arange(length)`, `size` positions at once; results are stacked.

    Unlike `jax.lax.map`, the last block is filled up instead of being compiled by itself.
    """
    positions, _ = blocks(length, size)
    found = jax.lax.map(jax.vmap(fun), positions)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:length], found)


def blocks(
    length: int, size: int
) -> tuple[Int[Array, "block position"], Bool[Array, "block position"]]:
    """Give the positions of each block, and which of them do not fill up the last one.

    Sizes are evened out, so that as little as possible is filled up.
    """
    count = -(-length // min(size, length))
    size = -(-length // count)
    positions = jnp.arange(count * size).reshape(count, size)
    return positions % length, positions < length
