"""Loops over positions in blocks of equal size, which compile once and bound memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

Positions = Int[Array, "block position"]


def map_blocks(fun: Callable[[Int[Array, ""]], Any], length: int, size: int) -> Any:
    """Map over `arange(length)`, `size` positions at a time, and stack the results.

    Unlike `jax.lax.map`, this pads the last block instead of compiling it separately.
    """
    positions, _ = blocks(length, size)
    stacked = jax.lax.map(jax.vmap(fun), positions)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:length], stacked)


def blocks(
    length: int, size: int
) -> tuple[Int[Array, "block position"], Bool[Array, "block position"]]:
    """Return the positions of each block, and a mask that is False on padding.

    Sizes are evened out to keep the padding small.
    """
    count = -(-length // min(size, length))
    size = -(-length // count)
    positions = jnp.arange(count * size).reshape(count, size)
    return positions % length, positions < length
