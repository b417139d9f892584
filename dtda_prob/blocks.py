"""Loops over positions and steps in blocks of equal size, which compile once and bound memory."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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


def scan_in_blocks(body: Callable, state: Any, length: int) -> tuple[Any, Float[Array, " step"]]:
    """Scan with blocks of about sqrt(length) steps, each recomputed in reverse mode.

    The last block skips what exceeds the length, so that the step is compiled once.
    """
    if not length:
        return jax.lax.scan(body, state, jnp.arange(0))
    size = _block_size(length)
    num_blocks = -(-length // size)
    one = body if num_blocks * size == length else partial(_up_to, length, body)

    def block(state: Any, start: Int[Array, ""]) -> tuple[Any, Float[Array, " step"]]:
        return jax.lax.scan(one, state, start + jnp.arange(size))

    starts = size * jnp.arange(num_blocks)
    state, losses = jax.lax.scan(jax.checkpoint(block, prevent_cse=False), state, starts)
    return state, losses.ravel()[:length]


def _up_to(length: int, body: Callable, state: Any, count: Int[Array, ""]) -> tuple[Any, Any]:
    """Take a step while the count is below the length."""
    shapes = jax.eval_shape(body, state, count)[1]

    def skip(state: Any, count: Int[Array, ""]) -> tuple[Any, Any]:
        return state, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return jax.lax.cond(count < length, body, skip, state, count)


def _block_size(length: int) -> int:
    """Return a divisor of `length` near its square root, else the root."""
    root = max(1, math.isqrt(length))
    return next((size for size in range(root, root // 2, -1) if length % size == 0), root)
