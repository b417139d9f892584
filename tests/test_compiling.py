"""Compiled functions take data and floats as arguments."""

import gc
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dtda_prob import compiling
from dtda_prob.compiling import compiled


class Line(eqx.Module):
    slope: float
    data: jax.Array | np.ndarray
    power: int = 1

    def at(self, x):
        return self.slope * self.data**self.power + x


@pytest.fixture
def counted():
    traces = []

    @compiled
    def call(function, x):
        traces.append(function)
        return function(x)

    return call, traces


def test_floats_and_arrays_are_arguments(counted):
    call, traces = counted
    first = call(Line(2.0, jnp.ones(3)).at, 1.0)
    second = call(Line(3.0, 2 * np.ones(3, np.float32)).at, 0.5)
    np.testing.assert_allclose(first, 3.0)
    np.testing.assert_allclose(second, 6.5)
    assert len(traces) == 1


def test_what_is_not_a_float_or_an_array_is_static(counted):
    call, traces = counted
    call(Line(2.0, jnp.ones(3)).at, 1.0)
    call(Line(2.0, jnp.ones(3), power=2).at, 1.0)
    assert len(traces) == 2


def test_types_that_are_equal_are_told_apart():
    call = compiled(lambda x: jnp.asarray(x))
    assert call(True).dtype == bool
    assert call(1).dtype == int or call(1).dtype == np.int32


def test_code_of_shapes_that_are_not_used_any_more_is_freed(monkeypatch):
    """A process may map 65,530 pieces of memory, and each compiled function takes dozens."""
    assert 0 < compiling._jitted.cache_info().maxsize <= 256
    monkeypatch.setattr(compiling, "_jitted", lru_cache(3)(compiling._jitted.__wrapped__))
    call = compiled(lambda x: x.sum())
    live = jax.devices()[0].client.live_executables
    gc.collect()
    before = len(live())
    for size in range(1, 13):
        assert float(call(np.ones(size, np.float32))) == size
    gc.collect()
    assert len(live()) - before <= 3
