import gc

import jax
import matplotlib as mpl
import pytest
from tables import compiled

mpl.use("agg")


@pytest.fixture(autouse=True, scope="module")
def forget_what_was_compiled():
    """Give up the code of a file when it is done: a process may map only so many pieces (65,530)."""
    yield
    compiled.cache_clear()
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield
