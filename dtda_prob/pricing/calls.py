"""What a compiled call takes: seconds by running it, bytes as the compiler reports them."""

import os
import time
from typing import Any

import jax
import numpy as np
from jax.stages import Compiled

PILOT_DRAWS = 8
"""Draws of a pilot call on each device: enough that one draw costs what it does in a chunk."""

LONG = 1.0  # seconds from which on the first call of a compiled function is timed well enough


def seconds_of(compiled: Compiled, *arguments: Any) -> float:
    """Time a call, and once more where it is short, since the first one is slower."""
    first = _timed(compiled, *arguments)
    return first if first > LONG else _timed(compiled, *arguments)


def bytes_of(compiled: Compiled) -> float:
    """Give the bytes that a call holds on a device, beside its arguments."""
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes if memory else np.nan


def memory_of_device() -> float:
    """Give the bytes of a device; those of the machine, shared, where it has none of its own."""
    first, *others = jax.local_devices()
    stats = first.memory_stats() or {}
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return stats.get("bytes_limit", whole / (1 + len(others)))


def _timed(compiled: Compiled, *arguments: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    return time.perf_counter() - start
