"""Facts of a module that depend on its structure and shapes alone, worked out once for each."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from dtda_prob.compiling import MAX_COMPILED, Static, joined, split


def per_structure[Fact](function: Callable[[Any], Fact]) -> Callable[[Any], Fact]:
    """Cache a function of a module that sees arrays as tracers, and whose result holds none."""

    @wraps(function)
    def cached(module: Any) -> Fact:
        return _cached(function, *key_of(module))

    return cached


def remembered[Fact](module: Any, name: str, compute: Callable[[], Fact]) -> Fact:
    """Return what was computed for a module of this structure, or compute it now."""
    key = name, key_of(module)
    if key not in _REMEMBERED:
        _REMEMBERED[key] = compute()
        if len(_REMEMBERED) > MAX_COMPILED:
            del _REMEMBERED[next(iter(_REMEMBERED))]
    return _REMEMBERED[key]


_REMEMBERED: dict[Any, Any] = {}


def key_of(module: Any) -> tuple[Static, Any, tuple]:
    """Return what identifies a module up to the values of its arrays and floats."""
    traced, static = split(module)
    leaves, structure = jax.tree.flatten(traced)
    return static, structure, tuple(map(_shape, leaves))


def is_concrete(module: Any) -> bool:
    """Return whether no array of a module is a tracer."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(module))


@lru_cache(maxsize=MAX_COMPILED)
def _cached(function: Callable, static: Static, structure: Any, shapes: tuple) -> Any:
    facts: list[Any] = []

    def run(leaves: tuple) -> None:
        facts.append(function(joined(structure.unflatten(leaves), static)))

    jax.eval_shape(run, shapes)
    return facts[0]


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    array = jnp.asarray(leaf) if not isinstance(leaf, jax.Array) else leaf
    return jax.ShapeDtypeStruct(array.shape, array.dtype)
