"""Counterfactual rows beside the data: other labels of examples, and new examples."""

import inspect
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Int

from dtda_prob.perturbations.weights import Data, labelled, positions_of
from dtda_prob.program import Program
from dtda_prob.program.labels import check_labels, next_labels

Positions = Int[np.ndarray, " row"]


class Counterfactual(NamedTuple):
    """A program that holds further rows beside its data, and the step that moves weight to them.

    Attributes:
        program: the model bound to the data and the further rows, whose weight is 0 at first.
        weights: `(perturbation, example)`, further rows at 1, and the originals of copies at 0.
    """

    program: Program
    weights: xr.DataArray


def relabel(
    program: Program, data: Data, changes: Mapping[str, Any], *, together: bool = False
) -> Counterfactual:
    """Append copies with other labels, so that relabelling moves weight from examples to their copies.

    Every transform then predicts it: to first order by the difference of the gradients of both
    labels. Training on the new program visits as many rows as before, in the same order; a copy takes
    the slot of its original, so that `Training(new.program, ...).draw(key, weights)` is a training on
    relabelled data that is coupled with one on the data as they are. Where both have weight, as at the
    centre of a relabelling, an epoch visits as many rows, chosen at random among these. A row of weight
    0 is not visited: a transform that differentiates training itself knows nothing of the copies
    at="old", and has to be taken at the centre (the default). To remove examples as well, use
    removal="drop".

    Args:
        program: the model and its data, which lie along the first axis of its arguments.
        data: labels of the examples to change.
        changes: by name of the model's argument, its new rows (labels, or inputs), one per example.
        together: change all examples in one perturbation; if not, one perturbation for each.

    Returns:
        The program and the weights. Copies are labelled by the next numbers, or "... relabelled".

    Raises:
        ValueError: for unknown examples or arguments, rows that do not fit, data along another axis, or
            plates that follow one another.
    """
    positions = positions_of(program, data)
    arguments = _arguments(program, changes, "changes")
    for name, value in arguments.arguments.items():
        if name in changes:
            value = _extended(value, changes[name], program.num_data, len(positions), "changes", name)
        else:
            value = jax.tree.map(lambda leaf: _with_copies(leaf, program.num_data, positions), value)
        arguments.arguments[name] = value
    names = program.labels[positions]
    copies = next_labels(program.labels, [f"{label} relabelled" for label in names])
    title = "relabelled" if together else None
    return _counterfactual(
        program, arguments, copies, program.slots[positions], names, title, positions
    )


def add(
    program: Program,
    rows: Mapping[str, Any],
    *,
    labels: Sequence[Hashable] | None = None,
    together: bool = False,
) -> Counterfactual:
    """Append new examples, so that adding them raises their weight from 0 to 1.

    Every transform then predicts it. It mirrors `removal="reweight"`: new rows have slots of their own
    in epochs and batches from the start, and n counts them, so that steps and batches are the same
    before and after. At its initial weights the objective is therefore that without the new rows times
    N / (N + number of new rows), and rows of weight 0 fill batches; a kernel that draws from the
    posterior draws the same. New rows have latent sites of their own where examples have; until they
    have weight, these follow their prior. To duplicate examples that are there, use `upweight`.

    Args:
        program: the model and its data, which lie along the first axis of its arguments.
        rows: by name of the model's argument, its new rows; None for an argument that looks as if it
            had a row per example and has not.
        labels: one name per new row; by default the next numbers, or "new 0", "new 1", ...
        together: add all rows in one perturbation; if not, one perturbation for each.

    Returns:
        The program and the weights.

    Raises:
        ValueError: for unknown arguments, rows that do not fit, arguments with a row per example that
            are not named, labels that do not fit, data along another axis, or plates that follow one
            another.

    >>> import jax.numpy as jnp
    >>> from dtda_prob import zoo
    >>> more = add(
    ...     Program(zoo.linear_regression, jnp.eye(3), y=jnp.ones(3)),
    ...     {"x": jnp.ones((2, 3)), "y": jnp.zeros(2)},
    ... )
    >>> more.weights.values
    array([[1., 1., 1., 1., 0.],
           [1., 1., 1., 0., 1.]])
    """
    arguments, num_rows = _arguments(program, rows, "rows"), _count(rows)
    for name, value in arguments.arguments.items():
        if rows.get(name) is not None:
            value = _extended(value, rows[name], program.num_data, num_rows, "rows", name)
        elif name not in rows:
            _check_no_rows(name, value, program.num_data)
        arguments.arguments[name] = value
    names = next_labels(program.labels, [f"new {k}" for k in range(num_rows)])
    if labels is not None:
        names = _own_labels(program, labels, num_rows)
    slots = program.num_slots + np.arange(num_rows)
    return _counterfactual(program, arguments, names, slots, names, "added" if together else None)


def _counterfactual(
    program: Program,
    arguments: inspect.BoundArguments,
    labels: np.ndarray,
    slots: np.ndarray,
    names: np.ndarray,
    title: str | None,
    originals: Positions | None = None,
) -> Counterfactual:
    """Bind the further rows, and move weight to them: to each in turn, or to all under one title."""
    every = np.concatenate([program.labels, labels])
    new = program.with_rows(arguments.args, arguments.kwargs, every, slots)
    rows = np.arange(len(labels)) if title is None else np.zeros(len(labels), int)
    weights = np.tile(new.initial_weights, (rows[-1] + 1, 1))
    if originals is not None:
        weights[rows, originals] = 0.0
    weights[rows, program.num_data + np.arange(len(labels))] = 1.0
    names = names if title is None else np.array([title])
    return Counterfactual(new, labelled(new, weights, "reweight", names))


def _arguments(program: Program, named: Mapping[str, Any], what: str) -> inspect.BoundArguments:
    """Return a program's arguments by the names of its model's.

    Raises:
        ValueError: if nothing is named, or something that is no argument, or examples of several plates
            follow one another.
    """
    if not program.layout.shares:
        raise ValueError(
            f"{what}: examples of {program.layout.title} follow one another, so that no argument has a "
            "row for each; bind the model to all rows, old and new, and pass weights that are 0 for "
            "those that are not there (old= and weights= of sample)"
        )
    bound = program.arguments
    if not named or not set(named) <= set(bound.arguments):
        raise ValueError(f"{what} names {[*named]}; name some of the arguments {[*bound.arguments]}")
    return bound


def _has_rows(leaf: Any, num_data: int) -> bool:
    """Return whether an array has one row per example."""
    return isinstance(leaf, Array | np.ndarray) and leaf.shape[:1] == (num_data,)


def _with_copies(leaf: Any, num_data: int, positions: Positions) -> Any:
    return jnp.concatenate([leaf, leaf[positions]]) if _has_rows(leaf, num_data) else leaf


def _extended(value: Any, rows: Any, num_data: int, num_rows: int, what: str, name: str) -> Any:
    """Append rows to every array of an argument, a pytree of arrays with one row per example.

    Raises:
        ValueError: for rows that do not fit, or arrays with another first axis.
    """

    def append(leaf: Any, new: Any) -> Any:
        if leaf.shape[:1] != (num_data,):
            raise ValueError(
                f"{what}[{name!r}] must have one row per example; it has shape {leaf.shape}"
            )
        new, wanted = jnp.asarray(new, leaf.dtype), (num_rows, *leaf.shape[1:])
        if new.shape != wanted:
            raise ValueError(f"{what}[{name!r}] must have shape {wanted}; got {new.shape}")
        return jnp.concatenate([leaf, new])

    return jax.tree.map(append, jax.tree.map(jnp.asarray, value), rows)


def _count(rows: Mapping[str, Any]) -> int:
    lengths = {len(leaf) for leaf in jax.tree.leaves(dict(rows))}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"rows must hold as many rows for each argument; got {sorted(lengths)}")
    return lengths.pop()


def _check_no_rows(name: str, value: Any, num_data: int) -> None:
    if any(_has_rows(leaf, num_data) for leaf in jax.tree.leaves(value)):
        raise ValueError(
            f"rows leaves out argument {name!r}, which has one row per example; give its new rows, or "
            "None if it is something else"
        )


def _own_labels(program: Program, labels: Sequence[Hashable], number: int) -> np.ndarray:
    names = check_labels(labels, number, "labels", "new row")
    if names.dtype.kind != program.labels.dtype.kind:
        raise ValueError(f"labels must be like the program's own, such as {program.labels[0]!r}")
    return names
