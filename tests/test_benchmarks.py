"""Benchmarks are run by hand; whether they call what there is, CI checks with ty (pyproject.toml)."""

import importlib
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dtda_prob.compiling import compiled

FOLDER = Path(__file__).parents[1] / "benchmarks"
KEY = jax.random.key(0)


def test_tables_name_the_code_that_was_measured():
    pages = [*(FOLDER.parent / "docs" / "benchmarks").glob("*.md")]
    feet = [line for page in pages for line in page.read_text().splitlines() if line[:5] == "Seed "]
    assert len(feet) >= len(pages) - 1
    assert not [foot for foot in feet if not re.search(r"code of \d{4}-\d\d-\d\d \(\w+\)", foot)]


# Parts of benchmarks at their own size: traced but not compiled.


class Traced:
    """A compiled function that is only traced, and returns made-up numbers."""

    def __init__(self, function):
        self.shapes = jax.jit(function).eval_shape

    def __call__(self, *args):
        return made_up(self.shapes(*args))


class Jax:
    """JAX as a benchmark finds it, which compiles nothing."""

    jit = Traced

    def __getattr__(self, name):
        return getattr(jax, name)


def made_up(shapes):
    """Return numbers of some shapes and types: positive floats, one key, and else zeros."""
    rng = np.random.default_rng(0)

    def array(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(KEY, leaf.shape)
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(
            rng.exponential(size=leaf.shape) if real else np.zeros(leaf.shape), leaf.dtype
        )

    return jax.tree.map(array, shapes)


CALL = compiled.__call__


def traced(self, *args):
    """Only trace what draws and pulls; other calls, such as those that bind programs, are made."""
    large = self.function.__module__.startswith("dtda_prob.studies")
    return made_up(self.shapes(*args)) if large else CALL(self, *args)


def _digits(module):
    return module.digits_training(module.dtda.zoo.digits(), 3)


def shapes_of(function, arguments):
    """Trace what would be compiled and timed."""
    compiled(function).shapes(*arguments)
    return dict.fromkeys(("first, s", "warm, s", "planned, GiB"), 1.0)


PARTS = {
    "draws": (lambda made, folder: made.leave_one_out(_digits(made), KEY), {"NUM_POINTS": 4}),
    "push_forwards": (
        lambda made, folder: made.halves(_digits(made), {"unroll": (made.dtda.unroll, 1)}, {}),
        {"NUM_SUBSETS": 4, "NUM_RETRAININGS": 6},
    ),
    "gpu": (
        lambda made, folder: made.perceptron(),
        {"SMALL": True, "RANK": 8, "measured": lambda *call: shapes_of(*call)},
    ),
    "trials.devices": (lambda made, folder: made._job(1, folder / "numbers.npz"), {"REPEATS": 1}),
}
"""A call of each benchmark that draws or pulls, and the settings that are made smaller."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PARTS)
def test_a_part_can_be_traced_to_its_end(name, monkeypatch, tmp_path):
    part, sizes = PARTS[name]
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "networks", raising=False)  # the cases of tests have this name too
    module = importlib.import_module(name)
    monkeypatch.setattr(module, "jax", Jax(), raising=False)
    monkeypatch.setattr(compiled, "__call__", traced)
    for size, value in sizes.items():
        monkeypatch.setattr(module, size, value)
    part(module, tmp_path)
