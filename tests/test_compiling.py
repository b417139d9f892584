"""Compiled functions take data and floats as arguments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
