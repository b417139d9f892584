"""Compiled functions take data and floats as arguments."""

import gc
from functools import lru_cache
from pathlib import Path

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


@pytest.fixture
def no_folder(monkeypatch):
    """Take the folder of compiled code away from JAX, and give back all settings after the test."""
    names = "cache_dir", "cache_max_size"
    kept = {f"jax_compilation_{name}": getattr(jax.config, f"jax_compilation_{name}") for name in names}
    kept["jax_persistent_cache_min_compile_time_secs"] = (
        jax.config.jax_persistent_cache_min_compile_time_secs
    )
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in kept.items():
        jax.config.update(name, value)


def test_compiled_code_is_kept_in_the_cache_of_the_user(no_folder, monkeypatch, tmp_path):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *names, **options: tmp_path)
    compiling.keep_compilations()
    folder = Path(jax.config.jax_compilation_cache_dir)
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path)
    assert jax.config.jax_compilation_cache_max_size == 2**30


def test_a_chosen_folder_stays(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    compiling.keep_compilations()
    assert before
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize("error", [RuntimeError("no home"), PermissionError("read-only")])
def test_without_a_home_nothing_is_kept_and_nothing_fails(no_folder, monkeypatch, error):
    def fails(*names, **options):
        raise error

    monkeypatch.setattr("platformdirs.user_cache_path", fails)
    compiling.keep_compilations()
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("flags", ["", "--xla_backend_optimization_level=3"])
def test_flags_of_the_environment_decide_before_the_library(monkeypatch, flags):
    monkeypatch.setenv("XLA_FLAGS", flags)
    expected = None if flags or jax.default_backend() != "cpu" else compiling.OFTEN
    assert compiling._level(quick=False) == expected


@pytest.mark.parametrize("quick", [False, True])
def test_a_compiled_function_may_be_part_of_another(monkeypatch, quick):
    """JAX refuses options of XLA on a part of what it compiles."""
    monkeypatch.setenv("XLA_FLAGS", "")
    inner = compiled(lambda x, factor: factor * x, quick=quick)
    outer = compiled(lambda x: inner(x, 2.0) + jax.vmap(lambda each: inner(each, 3.0))(x))
    np.testing.assert_allclose(outer(np.ones(3)), 5.0)
    np.testing.assert_allclose(jax.grad(lambda x: inner(x, 2.0).sum())(np.ones(3)), 2.0)


def test_what_is_compiled_while_jax_traces_has_its_own_options(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    levels = []

    def noted(function, static, shapes, level):
        levels.append(level)
        return jitted(function, static, shapes, level)

    jitted = compiling._jitted
    monkeypatch.setattr(compiling, "_jitted", noted)
    ready = compiled(jnp.sin, quick=True)
    args = (np.ones(2),)

    def traced(x):
        return x + ready.lower(*args).compile()(compiling.split(args)[0])

    np.testing.assert_allclose(jax.jit(traced)(np.zeros(2)), np.sin(1.0), rtol=1e-6)
    assert levels == [compiling.ONCE]
