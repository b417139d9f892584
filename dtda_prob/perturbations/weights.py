"""Perturbed data sets as weights: one non-negative number per example, labelled.

Every constructor returns an `xarray.DataArray` with dimension `example`, or `(perturbation, example)`
for several. Its attribute `removal` says what weight 0 means in a retraining: `"reweight"` keeps the
batches and the number of steps and gives the example no weight; `"drop"` takes the row out, so that
as many epochs run over fewer rows.
"""

from collections.abc import Hashable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import jax
import numpy as np
import xarray as xr

from dtda_prob.program import Program
from dtda_prob.program.labels import check_labels
from dtda_prob.typing import PRNGKey, check_key, check_kind

Removal = Literal["reweight", "drop"]
Data = Sequence[Hashable] | np.ndarray
PROGRAM = "a program, dtda.Program(model, x, y=y); of a training pass training.program"


def remove(program: Program, data: Data, *, removal: Removal = "reweight") -> xr.DataArray:
    """Return weights of 0 for these examples and 1 for all others.

    Here and below, rows that `relabel` and `add` appended keep the weight 0.

    Args:
        program: the program of the examples.
        data: labels of the examples (positions, where the program has no labels).
        removal: what weight 0 means in a retraining.

    Raises:
        ValueError: for unknown or repeated labels, where nothing is named, or all is dropped.
    """
    positions = positions_of(program, data)
    weights = program.initial_weights.copy()
    weights[positions] = 0.0
    return labelled(program, weights, removal)


def upweight(program: Program, data: Data, factor: float = 2.0) -> xr.DataArray:
    """Return weights of `factor` for these examples and 1 for all others; 2 is a duplicate.

    Raises:
        ValueError: for unknown or repeated labels, or a factor that is negative or not finite.
    """
    if not 0 <= factor < np.inf:
        raise ValueError(f"factor={factor} must be finite and at least 0")
    positions = positions_of(program, data)
    weights = program.initial_weights.copy()
    weights[positions] = factor
    return labelled(program, weights, "reweight")


def leave_one_out(
    program: Program, data: Data | None = None, *, removal: Removal = "reweight"
) -> xr.DataArray:
    """Remove one example at a time: one perturbation for each of `data` (of all examples if None)."""
    check_kind("program", program, Program, PROGRAM)
    data = program.labels[program.initial_weights > 0] if data is None else data
    positions = positions_of(program, data)
    weights = np.tile(program.initial_weights, (len(positions), 1))
    weights[np.arange(len(positions)), positions] = 0.0
    return labelled(program, weights, removal, program.labels[positions])


def random_subsets(
    program: Program,
    key: PRNGKey,
    num_subsets: int,
    keep: float | int = 0.5,
    *,
    removal: Removal = "reweight",
) -> xr.DataArray:
    """Keep random subsets of one size, drawn without replacement.

    Args:
        program: the program of the examples.
        key: randomness of the choice.
        num_subsets: number of perturbations.
        keep: share of the examples kept (a float below 1) or their number (an int).
        removal: what weight 0 means in a retraining.

    Raises:
        ValueError: if nothing or everything would be kept.
    """
    check_kind("program", program, Program, PROGRAM)
    check_key(key)
    present = np.flatnonzero(program.initial_weights)
    if isinstance(keep, bool) or not np.isfinite(keep):
        raise ValueError(f"keep={keep} must be a share below 1 or a number of examples")
    if num_subsets < 1:
        raise ValueError(f"num_subsets={num_subsets} must be at least 1")
    size = int(keep) if isinstance(keep, Integral) else round(keep * len(present))
    if not 0 < size < len(present):
        raise ValueError(f"keep={keep} keeps {size} of {len(present)} examples; keep some, not all")
    keys = jax.random.split(key, num_subsets)
    order = np.asarray(jax.vmap(lambda key: jax.random.permutation(key, len(present)))(keys))
    weights = np.zeros((num_subsets, len(program.initial_weights)))
    weights[:, present] = order < size
    return labelled(program, weights, removal, np.arange(num_subsets))


def groups(
    program: Program,
    by: np.ndarray | Sequence[Hashable] | Mapping[Hashable, Data],
    *,
    removal: Removal = "reweight",
) -> xr.DataArray:
    """Remove one group of examples at a time.

    Args:
        program: the program of the examples.
        by: the group of each example, or a mapping from group names to labels of examples.
        removal: what weight 0 means in a retraining.

    Raises:
        ValueError: if `by` does not fit the data.
    """
    check_kind("program", program, Program, PROGRAM)
    if isinstance(by, Mapping):
        members = [positions_of(program, data) for data in by.values()]
        names = check_labels(list(by), len(by), "by", "group")
    else:
        groups_of_data = np.asarray(by)
        if groups_of_data.shape == (program.num_data,):
            groups_of_data = check_labels(by, program.num_data, "by", "example")
        if groups_of_data.shape != (program.num_data,):
            raise ValueError(
                f"by must name the group of each of {program.num_data} examples, or map names to "
                f"labels; got shape {groups_of_data.shape}"
            )
        names = np.unique(groups_of_data)
        members = [np.flatnonzero(groups_of_data == name) for name in names]
    if not members:
        raise ValueError("by names no group; give at least one")
    weights = np.tile(program.initial_weights, (len(members), 1))
    for row, positions in enumerate(members):
        weights[row, positions] = 0.0
    return labelled(program, weights, removal, names)


def check_weights(program: Program, weights: Any) -> xr.DataArray:
    """Return weights as a labelled array, refusing what does not fit the program.

    Args:
        program: the program.
        weights: None for the data as they are, an array of shape `(example,)` or
            `(perturbation, example)`, or one of the arrays made here.

    Raises:
        ValueError: for the wrong length, other data labels, or weights negative or not finite.
    """
    check_kind("program", program, Program, PROGRAM)
    if weights is None:
        weights = program.initial_weights.copy()
    shape, wanted = np.shape(weights), len(program.labels)
    if shape[-1:] != (wanted,) or len(shape) > 2:
        raise ValueError(
            f"weights must have shape ({wanted},) or (perturbation, {wanted}), one per example"
            f"{' and number of a setting' if program.settings else ''}; got {shape}"
        )
    if shape[0] == 0:
        raise ValueError("weights hold no perturbation; give at least one row")
    if not isinstance(weights, xr.DataArray):
        names = np.arange(len(weights)) if len(shape) == 2 else None
        weights = labelled(program, np.asarray(weights), "reweight", names)
    if weights.dims[-1] != "example":
        raise ValueError(f"the last dimension of weights must be 'example'; got {weights.dims}")
    if not np.array_equal(weights["example"], program.labels):
        raise ValueError("weights are labelled for other data than the program's")
    of_data = weights.values[..., : program.num_data]
    if not (np.isfinite(weights.values).all() and (of_data >= 0).all()):
        raise ValueError("weights must be finite and at least 0 (0 removes an example)")
    if weights.ndim == 2 and weights.dims[0] not in weights.coords:
        weights = weights.assign_coords({weights.dims[0]: np.arange(len(weights))})
    return weights.astype(float, copy=False)


def num_removed(weights: xr.DataArray) -> np.ndarray:
    """Count the rows that each perturbation drops: 0 unless its removal is "drop"."""
    zeros = (weights.values[..., : weights.attrs.get("num_data")] == 0).sum(-1)
    return zeros if weights.attrs.get("removal") == "drop" else np.zeros_like(zeros)


def remove_leading(
    program: Program, ranking: Data, counts: Sequence[int], *, removal: Removal = "reweight"
) -> xr.DataArray:
    """Remove the first examples of a ranking: one perturbation for each count, which labels it.

    Args:
        program: the program of the examples.
        ranking: labels of examples, first the one to be removed first.
        counts: how many to remove.
        removal: what weight 0 means in a retraining.

    Raises:
        ValueError: for unknown or repeated labels, or counts beyond the ranking.
    """
    positions = positions_of(program, ranking)
    if not counts or min(counts) < 1 or max(counts) > len(positions):
        raise ValueError(
            f"counts={[*counts]} must lie between 1 and the {len(positions)} examples ranked"
        )
    weights = np.tile(program.initial_weights, (len(counts), 1))
    for row, count in enumerate(counts):
        weights[row, positions[:count]] = 0.0
    return labelled(program, weights, removal, np.asarray(counts))


def positions_of(program: Program, data: Data) -> np.ndarray:
    """Return the positions of examples by their labels; see `remove` for what is refused."""
    check_kind("program", program, Program, PROGRAM)
    names = _names(program, data)
    order = np.argsort(program.labels)
    found = np.searchsorted(program.labels, names, sorter=order).clip(max=len(order) - 1)
    positions = order[found]
    unknown = names[program.labels[positions] != names]
    if len(unknown):
        raise ValueError(f"data={unknown[:5].tolist()}: no such labels among the program's examples")
    if len(np.unique(positions)) < len(positions):
        raise ValueError(f"data names some of its {len(positions)} labels twice; name each once")
    if (positions >= program.num_data).any():
        settings = names[positions >= program.num_data].tolist()
        raise ValueError(f"data={settings}: these are settings, which are varied, not examples")
    return positions


def _names(program: Program, data: Data) -> np.ndarray:
    """Return labels as an array of the type of the program's.

    Raises:
        ValueError: if nothing is named, or by a mask or labels of another type.
    """
    names = np.asarray([data] if isinstance(data, str) else data).reshape(-1)
    if names.dtype == bool:
        raise ValueError(
            "data is a mask of booleans, and labels are wanted: program.labels[:program.num_data][mask]"
        )
    if not names.size:
        raise ValueError("data is empty; name at least one example")
    kinds = "iuf" if program.labels.dtype.kind in "iuf" else program.labels.dtype.kind
    if names.dtype.kind not in kinds:
        given, like = names[:5].tolist(), program.labels[0]
        by_position = f"; for examples by position, pass program.labels[{given}]"
        raise ValueError(
            f"data={given}: no such labels, the program's are like {like!r}"
            f"{by_position if kinds == 'U' and names.dtype.kind in 'iu' else ''}"
        )
    return names


def labelled(
    program: Program, weights: np.ndarray, removal: Removal, names: np.ndarray | None = None
) -> xr.DataArray:
    """Label weights with the program's examples, and perturbations with their names."""
    if removal not in ("reweight", "drop"):
        raise ValueError(f"removal={removal!r} must be 'reweight' or 'drop'")
    if removal == "drop" and (weights[..., : program.num_data].sum(-1) == 0).any():
        raise ValueError("a perturbation drops every example; leave at least one")
    coords: dict[str, Any] = {"example": program.labels}
    if names is not None:
        coords["perturbation"] = names
    attrs: dict[str, Any] = {"removal": removal}
    if program.settings:
        names_of_settings = [label for each in program.settings for label in each.labels()]
        coords["setting"] = ("example", [""] * program.num_data + names_of_settings)
        attrs["num_data"] = program.num_data
    dims = ("example",) if names is None else ("perturbation", "example")
    return xr.DataArray(weights, dims=dims, coords=coords, name="weights", attrs=attrs)
