"""New data as a perturbation: rows that weigh 0 to begin with, and the weights that bring them in."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from dtda_prob.perturbations import labelled
from dtda_prob.program import Program
from dtda_prob.rows import arguments, extend, holds_rows


class Addition(NamedTuple):
    """A program that holds new data beside its own, and the step that adds them.

    Attributes:
        program: the model bound to the data and the new rows, which weigh 0 to begin with.
        weights: `(perturbation, example)`, new rows at 1.
    """

    program: Program
    weights: xr.DataArray


def add(
    program: Program,
    rows: Mapping[str, Any],
    *,
    labels: Sequence[Hashable] | None = None,
    together: bool = False,
) -> Addition:
    """Put new data beside a program's own, so that adding them raises their weight from 0 to 1.

    Every transform then predicts it. It is the mirror image of `removal="reweight"`: new rows have
    places of their own in epochs and batches from the start, and n counts them, so that steps and
    batches are the same before and after. At `present` weights the objective is therefore that of the
    program without the new rows times N / (N + number of new rows), and rows of weight 0 fill batches;
    a kernel that draws from the posterior draws the same. New rows have latent sites of their own where
    data have; until they weigh something, these follow their prior. To double data that are there, use
    `upweight`.

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
            are not named, labels that do not fit, or data along another axis.

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
    bound, num_data = arguments(program, rows, "rows"), program.num_data
    num_rows = _count(rows)
    for name, value in bound.arguments.items():
        if rows.get(name) is not None:
            value = extend(value, rows[name], num_data, num_rows, f"rows[{name!r}]")
        elif name not in rows:
            _check_no_rows(name, value, num_data)
        bound.arguments[name] = value
    places = program.num_slots + np.arange(num_rows)
    names = _names(program, num_rows, labels)
    new = program.with_rows(bound.args, bound.kwargs, np.concatenate([program.labels, names]), places)
    return Addition(new, _step(new, names, together))


def _step(new: Program, names: np.ndarray, together: bool) -> xr.DataArray:
    """Raise the weight of new rows, of all or of one at a time."""
    added = new.num_data - len(names) + np.arange(len(names))
    which = np.zeros(len(names), int) if together else np.arange(len(names))
    weights = np.tile(new.initial_weights, (which[-1] + 1, 1))
    weights[which, added] = 1.0
    return labelled(new, weights, "reweight", np.array(["added"]) if together else names)


def _count(rows: Mapping[str, Any]) -> int:
    lengths = {len(leaf) for leaf in jax.tree.leaves(dict(rows))}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"rows must hold as many rows for each argument; got {sorted(lengths)}")
    return lengths.pop()


def _check_no_rows(name: str, value: Any, num_data: int) -> None:
    if any(holds_rows(leaf, num_data) for leaf in jax.tree.leaves(value)):
        raise ValueError(
            f"rows leaves out argument {name!r}, which has one row per example; give its new rows, or "
            "None if it is something else"
        )


def _names(program: Program, num_rows: int, labels: Sequence[Hashable] | None) -> np.ndarray:
    if labels is not None:
        names = np.asarray(labels)
        if names.shape != (num_rows,):
            raise ValueError(f"labels must be one per new row, {num_rows}; got shape {names.shape}")
        if names.dtype.kind != program.labels.dtype.kind:
            raise ValueError(f"labels must be like the program's own, such as {program.labels[0]!r}")
        return names
    if np.issubdtype(program.labels.dtype, np.integer):
        return program.labels.max() + 1 + np.arange(num_rows)
    return np.array([f"new {k}" for k in range(num_rows)])
