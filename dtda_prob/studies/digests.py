"""Digests of arrays, labels and functions, the same in every process.

A function is known by what JAX traces of it. The text of a jaxpr, or of its lowering, is no identity:
libraries that iterate over sets (NumPyro's SVI among them) trace equations in an order that depends on
Python's hash seed. So each quantity is known by what it is computed of, whatever is computed between,
and constants by their bytes wherever they are.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from dtda_prob.compiling import compiled

MARK = "blake2b:"
"""What a digest begins with, so that it is not taken for a value."""
IRRELEVANT = frozenset({"name", "ctx_mesh"})
"""Parameters of equations that change no number: what functions are called, where they are traced."""

Known = dict[int, tuple[Any, str]]
"""Digests by `id` of their objects, which are kept alive so that no other object takes it."""


def of_function(function: Callable, *args: Any, modules: tuple = ()) -> str:
    """Digest what JAX traces of `function(*modules, *args)`, with all arrays that it closes over.

    Nothing is compiled. What JAX does not see as it traces is not in the digest: the insides of host
    callbacks, and derivatives by rule (`jax.custom_vjp`) of functions that are not differentiated here.

    Args:
        function: a pure function. Where it is the same at each call, modules of one structure share a
            trace.
        *args: arrays, or `jax.ShapeDtypeStruct`s in their place, whose values do not count.
        modules: arguments whose numbers count, as those do that a function closes over.
    """
    placed = jax.tree.map(_placeholder, args)
    jaxpr, leaves = compiled(function).traced(*modules, *placed)
    return _of_texts(_lines(jaxpr, {}, leaves[: len(leaves) - len(jax.tree.leaves(args))]))


def of_array(array: Any) -> str:
    """Digest the type, the shape and the bytes of an array, or of an array of keys."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return _of_texts([str(array.dtype), of_array(jax.random.key_data(array))])
    rows = np.ascontiguousarray(array).reshape(-1)
    digest = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=16)
    if rows.dtype.itemsize:
        digest.update(rows.view(np.uint8))
    return MARK + digest.hexdigest()


def of_labels(labels: np.ndarray) -> str:
    """Digest labels, whatever the width of their type."""
    return _of_texts([json.dumps(labels.tolist(), default=str)])


def of_key(key: Any) -> list[int] | None:
    """Return the words of a key, None for None."""
    return None if key is None else np.asarray(jax.random.key_data(key)).tolist()


def of_weights(weights: xr.DataArray) -> dict[str, Any]:
    """Identify perturbed datasets by their weights, their names and what weight 0 means."""
    names = weights[str(weights.dims[0])].values
    return {
        "perturbations": of_array(weights.values),
        "names": of_labels(names),
        "removal": weights.attrs.get("removal", "reweight"),
    }


def is_digest(value: Any) -> bool:
    """Return whether a value is a digest."""
    return isinstance(value, str) and value.startswith(MARK)


def _placeholder(value: Any) -> Any:
    """Return an array of the shape and type of an abstract one."""
    return np.zeros(value.shape, value.dtype) if isinstance(value, jax.ShapeDtypeStruct) else value


def _of_jaxpr(jaxpr: Any, known: Known) -> str:
    return _remembered(jaxpr, known, lambda: _of_texts(_lines(jaxpr, known)))


def _lines(jaxpr: Any, known: Known, values: Sequence[Any] = ()) -> list[str]:
    """Write the inputs, outputs and effects of a jaxpr, each by how it is computed.

    The first inputs have values, which count where something is computed of them.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    given, free = inner.invars[: len(values)], inner.invars[len(values) :]
    inputs = [f"input {i}: {_kind(var.aval)}" for i, var in enumerate(free)]
    names, effects = dict(zip(free, inputs, strict=True)), []
    for var, value in zip(given, values, strict=True):
        names[var] = _text(value, known) + _kind(var.aval)
    for var, constant in zip(inner.constvars, getattr(jaxpr, "consts", ()), strict=False):
        names[var] = _text(constant, known)
    for equation in inner.eqns:
        params = {k: v for k, v in equation.params.items() if k not in IRRELEVANT}
        read = [_name(atom, names) for atom in equation.invars]
        line = f"{equation.primitive.name} {_text(params, known)} of {read}"
        for i, var in enumerate(equation.outvars):
            names[var] = _of_texts([line, f"output {i}: {_kind(var.aval)}"])
        effects += [line] if equation.effects else []
    return [*inputs, *(_name(atom, names) for atom in inner.outvars), *effects]


def _name(atom: Any, names: dict[Any, str]) -> str:
    """Name an atom by how it is computed, and a literal by its bytes."""
    if not hasattr(atom, "val"):
        return names[atom]
    return of_array(np.asarray(atom.val, atom.aval.dtype)) + _kind(atom.aval)


def _kind(aval: Any) -> str:
    if not hasattr(aval, "dtype"):
        return _without_addresses(aval)
    return f"{aval.dtype} {aval.shape} {getattr(aval, 'weak_type', False)}"


def _text(value: Any, known: Known) -> str:
    """Write a constant, or a parameter of an equation."""
    if hasattr(value, "eqns"):
        return _of_jaxpr(value, known)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _remembered(value, known, lambda: of_array(value))
    if isinstance(value, dict):
        return str(sorted(f"{key}={_text(each, known)}" for key, each in value.items()))
    if isinstance(value, tuple | list):
        return str([_text(each, known) for each in value])
    if isinstance(value, set | frozenset):
        return str(sorted(_text(each, known) for each in value))
    if callable(value) or hasattr(value, "call_wrapped"):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return _without_addresses(value)


def _remembered(value: Any, known: Known, work_out: Callable[[], str]) -> str:
    if id(value) not in known:
        known[id(value)] = value, work_out()
    return known[id(value)][1]


def _without_addresses(value: Any) -> str:
    return re.sub(r"0x[0-9a-f]+", "", repr(value))


def _of_texts(texts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(f"{text}\n".encode())
    return MARK + digest.hexdigest()
