"""Modules print as the code that makes them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from dtda_prob.module import Module


class inner(Module):
    rank: int = 25
    damping: float = 0.1


class outer(Module):
    part: inner
    parts: tuple[inner, ...] = ()
    name: str | None = None
    function: object = optax.sgd
    data: dict | Array | None = None
    hidden: int = 1


CODE = {
    "outer(part=inner())": outer(inner()),
    "outer(part=inner(rank=3))": outer(inner(3), (), None, optax.sgd),
    "outer(part=inner(damping=1))": outer(inner(damping=1)),
    "outer(part=inner(), parts=(inner(rank=1),), name='a')": outer(inner(), (inner(1),), "a"),
    "outer(part=inner(), function=partial(adam, b1=0.5))": outer(
        inner(), function=partial(optax.adam, b1=0.5)
    ),
}

ARRAYS = {
    "f32[40,2]": jnp.ones((40, 2)),
    "{'a': i32[3], 'b': [f64[2], key[5]]}": {
        "a": jnp.arange(3),
        "b": [np.ones(2), jax.random.split(jax.random.key(0), 5)],
    },
    "bfloat16[1]": jnp.ones(1, jnp.bfloat16),
}


def test_a_module_prints_as_the_code_that_makes_it():
    names = {"outer": outer, "inner": inner, "partial": partial, "adam": optax.adam}
    for code, module in CODE.items():
        assert repr(module) == code
        assert repr(eval(code, names)) == code


def test_arrays_are_shown_by_dtype_and_shape_and_inside_compiled_code():
    for shown, data in ARRAYS.items():
        assert repr(outer(inner(), data=data)) == f"outer(part=inner(), data={shown})"
    seen = []
    jax.jit(lambda damping: seen.append(repr(inner(damping=damping))))(0.5)
    assert seen == ["inner(damping=f32[])"]


def test_modules_compare_and_hash_by_value():
    assert inner(3) == inner(3) != inner(4)
    assert len({inner(3), inner(3), inner(4)}) == 2
