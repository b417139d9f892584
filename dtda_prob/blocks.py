"""Loops over positions in blocks of equal size, which compile once and bound memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

Positions = Int[Array, "block position"]


def map_blocks(fun: Callable[[Int[Array, ""]], Any], length: int, size: int) -> Any:
    """Map over `arange(length)`, `size` positions at a time, and stack the results."""
    return map_rows(fun, jnp.arange(length), size)


def map_rows(fun: Callable[[Any], Any], tree: Any, size: int) -> Any:
    """Map over the leading axis of all leaves, `size` rows at a time, and stack the results.

    Unlike `jax.lax.map`, this pads the last block instead of compiling it separately.
    """
    length = len(jax.tree.leaves(tree)[0])
    count, size = _even(length, size)
    if size == 1:  # The same numbers; a batch of one is slower to compile.
        return jax.lax.map(fun, tree)
    padding = count * size - length

    def cut(leaf: Array) -> Array:
        padded = jnp.concatenate([leaf, leaf[:padding]]) if padding else leaf
        return padded.reshape(count, size, *leaf.shape[1:])

    stacked = jax.lax.map(jax.vmap(fun), jax.tree.map(cut, tree))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:length], stacked)


def blocks(
    length: int, size: int
) -> tuple[Int[Array, "block position"], Bool[Array, "block position"]]:
    """Return the positions of each block, and a mask that is False on padding.

    Sizes are evened out to keep the padding small.
    """
    count, size = _even(length, size)
    positions = jnp.arange(count * size).reshape(count, size)
    return positions % length, positions < length


def _even(length: int, size: int) -> tuple[int, int]:
    """Return a number of blocks of at most `size`, and the size that keeps the padding small."""
    count = -(-length // min(size, length))
    return count, -(-length // count)
