"""The base of plain-data objects: settings and arrays in fields, shown as the code that makes them."""

import dataclasses
from functools import partial
from typing import Any, Self

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.dtypes import extended, issubdtype, prng_key


class Module(eqx.Module):
    """A frozen dataclass that is a pytree and prints, on one line, as the call that constructs it.

    Modules compare by value and hash by all but the values of arrays, so that their methods can be
    given to `jax.jit`.

    Fields equal to their default are left out. Arrays are shown by dtype and shape, functions and
    classes by qualified name, and fields marked `repr=False` not at all.

    >>> class nystroem(Module):
    ...     rank: int
    ...     damping: float = 1e-3
    >>> nystroem(25, damping=0.1), nystroem(25)
    (nystroem(rank=25, damping=0.1), nystroem(rank=25))
    """

    def __repr__(self) -> str:
        return call(type(self).__name__, **shown(self))

    def __eq__(self, other: object) -> bool:
        if self is other or type(self) is not type(other):
            return self is other
        (mine, structure), (others, same) = jax.tree.flatten(self), jax.tree.flatten(other)
        return structure == same and all(map(_is_equal, mine, others))

    def __hash__(self) -> int:
        leaves, structure = jax.tree.flatten(self)
        return hash((structure, tuple(_shape(leaf) if _is_array(leaf) else leaf for leaf in leaves)))

    def _with(self, **fields: Any) -> Self:
        """Return a copy with other fields, which are not checked."""
        copy = object.__new__(type(self))
        for name in type(self).__dataclass_fields__:
            object.__setattr__(copy, name, fields.get(name, getattr(self, name)))
        return copy


def shown(module: Module) -> dict[str, Any]:
    """Return the fields that a module prints: those that are not at their defaults."""
    fields = [
        each for each in dataclasses.fields(module) if each.repr and not _is_default(module, each)
    ]
    return {each.name: getattr(module, each.name) for each in fields}


def call(name: str, /, *args: Any, **kwargs: Any) -> str:
    """Return the code of a call on one line, for a `__repr__` of its own; see `code`."""
    named = [f"{key}={code(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join([*map(code, args), *named])})"


def code(value: Any) -> str:
    """Return a short text for a value: code where that is short, `f32[40,2]` for an array."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"{_short_dtype(value.dtype)}[{','.join(map(str, value.shape))}]"
    if isinstance(value, partial):
        return call("partial", value.func, *value.args, **value.keywords)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{code(key)}: {code(each)}' for key, each in value.items())}}}"
    if type(value) is list:
        return f"[{', '.join(map(code, value))}]"
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return call(type(value).__name__, **value._asdict())
    if type(value) is tuple:
        return f"({', '.join(map(code, value))}{',' * (len(value) == 1)})"
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    return repr(value)


def _short_dtype(dtype: Any) -> str:
    if issubdtype(dtype, extended):
        return "key" if issubdtype(dtype, prng_key) else dtype.name
    return dtype.name if dtype.kind not in "iufc" else f"{dtype.kind}{8 * dtype.itemsize}"


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_equal(one: Any, other: Any) -> bool:
    """Compare two leaves by value; tracers are equal to themselves alone."""
    if one is other or not (_is_array(one) or _is_array(other)):
        return one is other or bool(one == other)
    if isinstance(one, jax.core.Tracer) or isinstance(other, jax.core.Tracer):
        return False
    return _shape(one) == _shape(other) and bool(jnp.array_equal(one, other))


def _shape(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype) if _is_array(leaf) else None


def _is_default(module: Module, field: dataclasses.Field) -> bool:
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    value = getattr(module, field.name)
    if value is default:
        return True
    is_array = any(
        isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves((value, default))
    )
    return not is_array and type(value) is type(default) and value == default
