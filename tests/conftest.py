import gc
from pathlib import Path

import jax
import matplotlib as mpl
import pytest

mpl.use("agg")


MAPPED = 20_000
"""Pieces of code that may stay when a file is done; a process may map 65,530, and no file maps half."""


@pytest.fixture(autouse=True, scope="module")
def forget_what_was_compiled():
    """Give up what is compiled when a file is done, where it is much: the next would not fit beside."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MAPPED:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield
