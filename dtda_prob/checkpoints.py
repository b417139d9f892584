"""Loops over steps whose reverse mode keeps few states, as memory allows."""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxpr_as_fun
from jaxtyping import Array, Float, Int

from dtda_prob.compiling import nested

KEPT = 0.4
"""The share of what a step computes that reverse mode keeps, about the same for all networks."""
SHARE = 0.25
"""The share of a device's memory that the states of training and what is kept of steps may take."""


def scan_in_blocks(body: Callable, state: Any, length: int) -> tuple[Any, Float[Array, " step"]]:
    """Scan so that reverse mode keeps the states between blocks of steps, and recomputes one block.

    A block is as long as makes the states between blocks and what is kept of the steps of one block
    equally large: memory grows as the square root of the number of steps. Where both take more than a
    quarter of the device's memory, each step of a block is recomputed once more, so that a block
    keeps its states alone. The last block skips what exceeds the length: the step is compiled once.
    """
    if not length:
        return jax.lax.scan(body, state, jnp.arange(0))
    body, computed = traced(body, state, 0)
    size, recompute = plan(length, num_bytes(state), KEPT * computed)
    num_blocks = -(-length // size)
    one = body if num_blocks * size == length else partial(_up_to, length, body)
    one = jax.checkpoint(one, prevent_cse=False) if recompute else one

    def block(state: Any, start: Int[Array, ""]) -> tuple[Any, Float[Array, " step"]]:
        if size == 1:
            return one(state, start)
        return jax.lax.scan(one, state, start + jnp.arange(size))

    starts = size * jnp.arange(num_blocks)
    state, losses = jax.lax.scan(jax.checkpoint(block, prevent_cse=False), state, starts)
    return state, losses.ravel()[:length]


def plan(length: int, state: float, step: float) -> tuple[int, bool]:
    """Return the size of blocks, and whether each step of a block is recomputed too.

    Args:
        length: the number of steps.
        state: bytes of a state.
        step: bytes that reverse mode keeps of a step.

    >>> plan(100, 1.0, 1.0), plan(100, 1.0, 25.0), plan(100, 1e15, 1e15)
    ((10, False), (2, False), (10, True))
    """
    recompute = 2 * math.sqrt(length * state * step) > SHARE * memory_of_device()
    size = math.sqrt(length if recompute else length * state / max(step, 1.0))
    return _near(length, size), recompute


def memory_of_device() -> float:
    """Return the bytes of a device; the machine's, shared, where it has none of its own."""
    first, *others = jax.local_devices()
    stats = first.memory_stats() or {}
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return stats.get("bytes_limit", whole / (1 + len(others)))


def num_bytes(tree: Any) -> float:
    """Count the bytes of the floating arrays of a pytree."""
    return float(sum(_bytes(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)))


def traced(function: Callable, *args: Any) -> tuple[Callable, float]:
    """Return a function that is traced already, and the bytes of all that it computes."""
    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    run, structure = jaxpr_as_fun(jaxpr), jax.tree.structure(shapes)

    def call(*args: Any) -> Any:
        return jax.tree.unflatten(structure, run(*jax.tree.leaves(args)))

    return call, _computed(jaxpr.jaxpr)


def _computed(jaxpr: Jaxpr) -> float:
    """Count the bytes of the floating results of all operations, of a loop as often as it scans."""
    total = 0.0
    for operation in jaxpr.eqns:
        if functions := nested(operation):
            total += operation.params.get("length", 1) * sum(map(_computed, functions))
        else:
            results: list[Any] = [out.aval for out in operation.outvars]
            total += sum(_bytes(result.shape, result.dtype) for result in results)
    return total


def _bytes(shape: tuple[int, ...], dtype: Any) -> float:
    return math.prod(shape) * dtype.itemsize if jnp.issubdtype(dtype, jnp.floating) else 0.0


def _near(length: int, size: float) -> int:
    """Return a divisor of `length` within a factor of 1.5 of a size, the nearest, else the size."""
    nearest = min(max(1, round(size)), length)
    around = range(max(1, int(size / 1.5)), min(length, int(1.5 * size) + 1) + 1)
    divisors = [each for each in around if length % each == 0]
    return min(divisors, key=lambda each: abs(each - size), default=nearest)


def _up_to(length: int, body: Callable, state: Any, count: Int[Array, ""]) -> tuple[Any, Any]:
    """Take a step while the count is below the length."""

    def skip(state: Any, count: Int[Array, ""]) -> tuple[Any, Any]:
        return state, jnp.zeros(loss.shape, loss.dtype)

    _, loss = jax.eval_shape(body, state, count)
    return jax.lax.cond(count < length, body, skip, state, count)
