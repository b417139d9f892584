"""Perturbed datasets as weights: one non-negative number per example, labelled.

Every constructor returns an `xarray.DataArray` with dimension `example`, or `(perturbation, example)`
for several. Its attribute `removal` says what weight 0 means in a retraining: `"reweight"` keeps the
batches and the number of steps and gives the example no weight; `"drop"` takes the row out, so that as
many epochs run over fewer rows.
"""

from collections.abc import Hashable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import jax
import numpy as np
import xarray as xr

from dtda_prob.program import Program
from dtda_prob.typing import PRNGKey, check_key

Removal = Literal["reweight", "drop"]
Data = Sequence[Hashable] | np.ndarray


def remove(program: Program, data: Data, *, removal: Removal = "reweight") -> xr.DataArray:
    """Weigh these data 0 and all others 1 (and copies that `relabel` made 0, here and below).

    Args:
        program: the program whose data they are.
        data: labels of the data (positions, where the program has no labels).
        removal: what weight 0 means in a retraining.

    Raises:
        ValueError: for unknown or repeated labels, where nothing is named, or all is dropped.
    """
    weights = program.initial_weights.copy()
    weights[positions_of(program, data)] = 0.0
    return labelled(program, weights, removal)


def upweight(program: Program, data: Data, factor: float = 2.0) -> xr.DataArray:
    """Weigh these data `factor` and all others 1; 2 is what a duplicate would do.

    Raises:
        ValueError: for unknown or repeated labels, or a factor that is negative or not finite.
    """
    if not 0 <= factor < np.inf:
        raise ValueError(f"factor={factor} must be finite and at least 0")
    weights = program.initial_weights.copy()
    weights[positions_of(program, data)] = factor
    return labelled(program, weights, "reweight")


def leave_one_out(
    program: Program, data: Data | None = None, *, removal: Removal = "reweight"
) -> xr.DataArray:
    """Remove one example at a time: one perturbation for each of `data` (of all data if None)."""
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
        program: the program whose data they are.
        key: randomness of the choice.
        num_subsets: number of perturbations.
        keep: share of the data kept (a float below 1) or their number (an int).
        removal: what weight 0 means in a retraining.

    Raises:
        ValueError: if nothing or everything would be kept.
    """
    check_key(key)
    present = np.flatnonzero(program.initial_weights)
    size = int(keep) if isinstance(keep, Integral) else round(keep * len(present))
    if not 0 < size < len(present):
        raise ValueError(f"keep={keep} keeps {size} of {len(present)} data; keep some, not all")
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
    """Remove one group of data at a time.

    Args:
        program: the program whose data they are.
        by: the group of each example, or a mapping from group names to labels of data.
        removal: what weight 0 means in a retraining.

    Raises:
        ValueError: if `by` does not fit the data.
    """
    if isinstance(by, Mapping):
        members = [positions_of(program, data) for data in by.values()]
        names = np.asarray(list(by))
    else:
        groups_of_data = np.asarray(by)
        if groups_of_data.shape != (program.num_data,):
            raise ValueError(
                f"by must name the group of each of {program.num_data} data, or map names to data; "
                f"got shape {groups_of_data.shape}"
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
    """Give weights as a labelled array, refusing those that do not fit the program.

    Args:
        program: the program to weigh.
        weights: None for the data as they are, an array of shape `(example,)` or
            `(perturbation, example)`, or one of the arrays made here.

    Raises:
        ValueError: for the wrong length, other data labels, or weights negative or not finite.
    """
    if weights is None:
        weights = program.initial_weights.copy()
    shape, wanted = np.shape(weights), len(program.labels)
    if shape[-1:] != (wanted,) or len(shape) > 2:
        raise ValueError(
            f"weights must have shape ({wanted},) or (perturbation, {wanted}), one per example"
            f"{' and number of a setting' if program.settings else ''}; got {shape}"
        )
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
    """Count the rows that each perturbation takes out: none unless its removal is "drop"."""
    zeros = (weights.values[..., : weights.attrs.get("num_data")] == 0).sum(-1)
    return zeros if weights.attrs.get("removal") == "drop" else np.zeros_like(zeros)


def remove_leading(
    program: Program, ranking: Data, counts: Sequence[int], *, removal: Removal = "reweight"
) -> xr.DataArray:
    """Remove the first data of a ranking: one perturbation for each count, which is its label.

    Args:
        program: the program whose data they are.
        ranking: labels of data, those to be removed first in front.
        counts: how many to remove.
        removal: what weight 0 means in a retraining.

    Raises:
        ValueError: for unknown or repeated labels, or counts beyond the ranking.
    """
    positions = positions_of(program, ranking)
    if not counts or min(counts) < 1 or max(counts) > len(positions):
        raise ValueError(f"counts={[*counts]} must lie between 1 and the {len(positions)} data ranked")
    weights = np.tile(program.initial_weights, (len(counts), 1))
    for row, count in enumerate(counts):
        weights[row, positions[:count]] = 0.0
    return labelled(program, weights, removal, np.asarray(counts))


def positions_of(program: Program, data: Data) -> np.ndarray:
    """Give the positions of data by their labels; see `remove` for what is refused."""
    names = np.asarray(data).reshape(-1)
    order = np.argsort(program.labels)
    found = np.searchsorted(program.labels, names, sorter=order).clip(max=len(order) - 1)
    positions = order[found]
    unknown = names[program.labels[positions] != names]
    if len(unknown):
        raise ValueError(f"data={unknown[:5].tolist()}: no such labels among the program's data")
    if len(np.unique(positions)) < len(positions):
        raise ValueError(f"data names some of its {len(positions)} labels twice; name each once")
    if (positions >= program.num_data).any():
        raise ValueError(f"data={names[positions >= program.num_data].tolist()} are settings, not data")
    if not len(positions) > 0:
        raise ValueError("data is empty; name at least one example")
    return positions


def labelled(
    program: Program, weights: np.ndarray, removal: Removal, names: np.ndarray | None = None
) -> xr.DataArray:
    """Label weights with the program's data, and perturbations with their names."""
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
