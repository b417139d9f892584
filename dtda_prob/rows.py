"""Rows appended to the data of a program, argument by argument."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dtda_prob.program import Program


def arguments(program: Program, named: Mapping[str, Any], what: str) -> inspect.BoundArguments:
    """Bind a program's arguments to the names of its model's.

    Args:
        program: the model and its data.
        named: values by name of argument.
        what: what `named` is called in the error.

    Raises:
        ValueError: if nothing is named, or something that is not an argument.
    """
    bound = inspect.signature(program.model).bind(*program.args, **program.kwargs)
    if not named or not set(named) <= set(bound.arguments):
        raise ValueError(f"{what} names {[*named]}; name some of the arguments {[*bound.arguments]}")
    return bound


def holds_rows(leaf: Any, num_data: int) -> bool:
    """Say whether an array has one row per example."""
    return isinstance(leaf, Array | np.ndarray) and leaf.shape[:1] == (num_data,)


def extend(value: Any, rows: Any, num_data: int, num_rows: int, name: str) -> Any:
    """Append rows to every array of an argument.

    Args:
        value: the argument, a pytree of arrays with one row per example.
        rows: the new rows, in the same form.
        num_data: rows there are.
        num_rows: rows there will be more.
        name: what the rows are called in the error.

    Raises:
        ValueError: for rows that do not fit, or arrays with another first axis.
    """

    def append(leaf: Any, new: Any) -> Any:
        if leaf.shape[:1] != (num_data,):
            raise ValueError(f"{name} must have one row per example; it has shape {leaf.shape}")
        new, wanted = jnp.asarray(new, leaf.dtype), (num_rows, *leaf.shape[1:])
        if new.shape != wanted:
            raise ValueError(f"{name} must have shape {wanted}; got {new.shape}")
        return jnp.concatenate([leaf, new])

    return jax.tree.map(append, jax.tree.map(jnp.asarray, value), rows)
