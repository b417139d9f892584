"""A model's arguments as leaves: arrays that are traced, and what the model needs as it is."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cloudpickle
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dtda_prob.compiling import is_traced
from dtda_prob.module import code


class MisfitError(ValueError):
    """Data that do not fit the model, whether its arguments are traced or not."""


class Concrete:
    """A value that stays as it is in compiled code, compared and hashed by its content."""

    __slots__ = ("content", "value")

    def __init__(self, value: Any):
        self.value, self.content = value, (type(value), _content(value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Concrete) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)

    def __repr__(self) -> str:
        return code(self.value)


class Named:
    """Names that are carried along and never compared, so that other names compile nothing again."""

    __slots__ = ("names",)

    def __init__(self, names: Any):
        self.names: Any = names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named)

    def __hash__(self) -> int:
        return 0


class Rows(np.ndarray):
    """A NumPy array that can be indexed inside compiled code, where it gives a JAX array."""

    def __getitem__(self, index: Any) -> Any:
        if any(isinstance(part, jax.Array) for part in jax.tree.leaves(index)):
            return jnp.asarray(np.asarray(self))[index]
        return super().__getitem__(index)


def bound(tree: Any, *, pandas: bool = False) -> Any:
    """Return a model's arguments as arrays where they are numbers, and as `Concrete` where unhashable.

    Lists of numbers and pandas columns and tables of numbers become arrays (the latter not where
    `pandas` keeps them as they are, for models that ask them for columns).
    """
    return jax.tree.map(lambda leaf: _leaf(leaf, pandas), tree, is_leaf=_is_list_of_numbers)


def holds_pandas(tree: Any) -> bool:
    """Return whether a column or table of pandas is among the arguments."""
    return any(map(_is_pandas, jax.tree.leaves(tree)))


def unbound(tree: Any) -> Any:
    """Return arguments as the model sees them."""
    return jax.tree.map(lambda leaf: leaf.value if isinstance(leaf, Concrete) else leaf, tree)


def concrete(leaf: Any) -> Any:
    """Return an array or number that stays as it is; others are already."""
    if isinstance(leaf, jax.Array | np.ndarray) and not isinstance(leaf, jax.core.Tracer):
        return Concrete(np.asarray(leaf).view(Rows))
    return Concrete(leaf) if isinstance(leaf, float) else leaf


def argument(path: tuple) -> str:
    """Return the name or position of an argument by its path in `(args, kwargs)`."""
    return jax.tree_util.keystr(path[1:], simple=True, separator=".")


def like(tree: Any, old: Any) -> Any:
    """Return arguments of which those stay concrete that are so in `old`, of the same structure."""
    return jax.tree.map(lambda new, was: concrete(new) if isinstance(was, Concrete) else new, tree, old)


def settle(trace: Callable[[Any], Any], tree: Any) -> tuple[Any, Any]:
    """Leave as few arrays as possible concrete, so that `trace` succeeds on the tree.

    Args:
        trace: traces a model, with the arrays and floats of the tree abstract.
        tree: the arguments; see `bound`.

    Returns:
        The tree, some of its leaves concrete, and what `trace` returned.

    Raises:
        Exception: whatever the model raises where all leaves are concrete.
    """
    try:
        return tree, trace(tree)
    except MisfitError:
        raise
    except Exception as error:
        return _settle_one_by_one(trace, tree, error)


def _settle_one_by_one(trace: Callable[[Any], Any], tree: Any, error: Exception) -> tuple[Any, Any]:
    leaves, structure = jax.tree.flatten(tree)
    held = [concrete(leaf) for leaf in leaves]
    try:
        result = trace(structure.unflatten(held))
    except Exception as unchanged:
        raise (unchanged if isinstance(error, _ABSTRACT) else error) from None
    for k in sorted(range(len(leaves)), key=lambda k: -np.size(unbound(leaves[k]))):
        trial = [*held[:k], leaves[k], *held[k + 1 :]]
        with suppress(Exception):
            held, result = trial, trace(structure.unflatten(trial))
    return structure.unflatten(held), result


_ABSTRACT = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def _leaf(leaf: Any, pandas: bool) -> Any:
    if isinstance(leaf, Rows):
        return leaf
    if _is_pandas(leaf):
        numbers = np.asarray(leaf)
        return Concrete(leaf) if pandas or not _is_numeric(numbers) else jnp.asarray(numbers)
    if _is_list_of_numbers(leaf):
        return jnp.asarray(np.asarray(leaf))
    if isinstance(leaf, np.ndarray):
        return jnp.asarray(leaf) if _is_numeric(leaf) else Concrete(leaf)
    return leaf if is_traced(leaf) or _is_hashable(leaf) else Concrete(leaf)


def _is_numeric(array: np.ndarray) -> bool:
    return array.dtype.kind in "biufcV"


def _is_list_of_numbers(leaf: Any) -> bool:
    """Return whether a list holds numbers alone, or lists of one length that do."""
    if type(leaf) is not list or not leaf:
        return False
    if all(isinstance(each, bool | int | float | np.number) for each in leaf):
        return True
    lists = all(map(_is_list_of_numbers, leaf))
    return lists and len({len(each) for each in leaf}) == 1


def _is_pandas(leaf: Any) -> bool:
    return type(leaf).__module__.partition(".")[0] == "pandas" and hasattr(leaf, "to_numpy")


def _is_hashable(leaf: Any) -> bool:
    try:
        hash(leaf)
    except TypeError:
        return False
    return True


def _content(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()
        return value.dtype.str, value.shape, digest
    if isinstance(value, bool | int | float | complex | str):
        return repr(value)
    return hashlib.sha256(cloudpickle.dumps(value)).digest()
