"""Counterfactual data: other labels (or inputs) for some data, as a perturbation of weights."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Int

from dtda_prob.perturbations import Data, labelled, positions_of
from dtda_prob.program import Program
from dtda_prob.rows import arguments, extend, holds_rows

Positions = Int[np.ndarray, " copy"]


class Relabelling(NamedTuple):
    """A program that holds counterfactual copies of data beside them, and the step to the copies.

    Attributes:
        program: the model bound to the data and the copies, which are weighed 0 to begin with.
        weights: `(perturbation, example)`, originals at 0 and their copies at 1.
    """

    program: Program
    weights: xr.DataArray


def relabel(
    program: Program, data: Data, changes: Mapping[str, Any], *, together: bool = False
) -> Relabelling:
    """Put copies with other labels beside data, so that relabelling moves weight from one to the other.

    Every transform then predicts it: to first order by the difference of the gradients of both
    labels. Training on the new program visits as many rows as before, in the same order; a copy stands
    in the place of its original, so that `Training(new.program, ...).draw(key, weights)` is a
    training on relabelled data that is coupled with one on the data as they are. Where both weigh
    something, as at the centre of a relabelling, an epoch visits as many rows, chosen at random among
    these. A row of weight 0 is not visited: a transform that differentiates training itself knows
    nothing of the copies at="old", and has to be taken at the centre (the default). To remove data as
    well, use removal="drop".

    Args:
        program: the model and its data, which lie along the first axis of its arguments.
        data: labels of the data to change.
        changes: by name of the model's argument, its new rows (labels or inputs), one for each example.
        together: change all data in one perturbation; if not, one perturbation for each example.

    Returns:
        The program and the weights. Copies are labelled by the next numbers, or "... relabelled".

    Raises:
        ValueError: for unknown data or arguments, rows that do not fit, or data along another axis.
    """
    positions = positions_of(program, data)
    bound = arguments(program, changes, "changes")
    for name, value in bound.arguments.items():
        bound.arguments[name] = _with_copies(name, value, program.num_data, positions, changes)
    places = program.slots[positions]
    new = program.with_rows(bound.args, bound.kwargs, _names(program, positions), places)
    return Relabelling(new, _step(new, program.labels[positions], positions, together))


def _step(new: Program, names: np.ndarray, positions: Positions, together: bool) -> xr.DataArray:
    """Move the weight of each original to its copy."""
    copies = new.num_data - len(positions) + np.arange(len(positions))
    rows = np.zeros(len(positions), int) if together else np.arange(len(positions))
    weights = np.tile(new.initial_weights, (rows[-1] + 1, 1))
    weights[rows, positions], weights[rows, copies] = 0.0, 1.0
    return labelled(new, weights, "reweight", np.array(["relabelled"]) if together else names)


def _with_copies(
    name: str, value: Any, num_data: int, positions: Positions, changes: Mapping[str, Any]
) -> Any:
    """Append copies of rows, or what they are changed to, to an argument."""

    def repeat(leaf: Any) -> Any:
        return jnp.concatenate([leaf, leaf[positions]]) if holds_rows(leaf, num_data) else leaf

    if name not in changes:
        return jax.tree.map(repeat, value)
    return extend(value, changes[name], num_data, len(positions), f"changes[{name!r}]")


def _names(program: Program, positions: Positions) -> np.ndarray:
    labels = program.labels
    if np.issubdtype(labels.dtype, np.integer):
        return np.concatenate([labels, labels.max() + 1 + np.arange(len(positions))])
    return np.concatenate([labels, [f"{label} relabelled" for label in labels[positions]]])
