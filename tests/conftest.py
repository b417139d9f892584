import jax
import matplotlib as mpl
import pytest

mpl.use("agg")


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield
