"""Draws of a block as ArviZ DataTrees, and measured values read off them."""

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import xarray as xr

from dtda_prob.studies.reading import STATS, VALUE
from dtda_prob.studies.source import keys_of
from dtda_prob.training import Training

if TYPE_CHECKING:
    from dtda_prob.studies.draw import Draws

PACKAGES = ("dtda_prob", "jax", "numpyro", "optax", "arviz_base")


def to_datatree(
    draws: "Draws", arrays: dict[str, np.ndarray], along: np.ndarray, columns: np.ndarray
) -> xr.DataTree:
    """Arrange arrays of a block of draws in the groups of ArviZ's schema.

    Args:
        draws: what was drawn.
        arrays: named `group.name`, of shape `(run, perturbation, state, ...)`.
        along: positions of the block along the first dimension of the grid.
        columns: its perturbations.

    Returns:
        A tree whose variables have dimensions `(chain, draw, [perturbation,] ...)`. Run i is draw
        i // num_chains of chain i modulo num_chains; where the kernel keeps several states, a run is a
        chain and its states are draws.
    """
    groups: dict[str, dict[str, Any]] = {}
    several = [str(dim) for dim in draws.weights.dims[:-1]]
    for name, array in arrays.items():
        group, _, own = name.partition(".")
        by_state = np.swapaxes(array, 1, 2)
        chained = _in_chains(draws, by_state if several else by_state[:, :, 0])
        dims = ["chain", "draw", *several]
        dims += _own_dims(group, own, chained.ndim - len(dims))
        groups.setdefault(group, {})[own] = dims, chained
    if STATS in groups:
        groups[STATS]["key"] = ["chain", "draw", "word"], _key_words(draws, along)
    some = {draws.dims[0]: along} | dict.fromkeys(several, columns)
    groups["constant_data"] = {"weights": draws.weights.variable.isel(some, missing_dims="ignore")}
    coords = draws.coords.isel(some, missing_dims="ignore").coords
    tree = xr.DataTree.from_dict({name: _dataset(group, coords) for name, group in groups.items()})
    tree.attrs["dtda_prob"] = describe(draws)
    return tree


def coordinates(draws: "Draws") -> xr.Dataset:
    """Return the labels of all chains, draws, perturbations, examples and queries."""
    coords = {str(name): coord for name, coord in draws.weights.coords.items()}
    num_draws = draws.num_runs * draws.training.kernel.num_states
    chains = draws.num_runs if draws.has_states else draws.num_chains
    own = {
        "chain": np.arange(chains),
        "draw": np.arange(num_draws // chains),
        "query": draws.training.measure.queries,
    }
    return xr.Dataset(coords=coords | own)


def values_of(sample: xr.DataTree | xr.DataArray) -> xr.DataArray:
    """Return the measured values of a sample set, `(chain, draw, ...)`, in double precision."""
    if isinstance(sample, xr.DataTree):
        sample = next(iter(sample.children[VALUE].to_dataset().values()))
    return sample.astype(float).transpose("chain", "draw", ...)


def draws_of(sample: xr.DataTree | xr.DataArray) -> xr.DataArray:
    """Return the measured values with all chains in one dimension `draw`, in the order of keys."""
    if isinstance(sample, xr.DataArray) and "chain" not in sample.dims:
        return sample.astype(float).transpose("draw", ...)
    by_chain = values_of(sample)
    coords = {
        name: coord for name, coord in by_chain.coords.items() if not {"chain", "draw"} & {*coord.dims}
    }
    dims = ("draw", *by_chain.dims[2:])
    return xr.DataArray(in_draws(by_chain.values), coords, dims, name=by_chain.name)


def in_chains(array: np.ndarray, num_chains: int) -> np.ndarray:
    """Distribute draws over chains: `(draw, ...)` to `(chain, draw, ...)`."""
    return array.reshape(-1, num_chains, *array.shape[1:]).swapaxes(0, 1)


def in_draws(array: np.ndarray) -> np.ndarray:
    """Return all draws in one row, `(chain, draw, ...)` to `(draw, ...)`: undo `in_chains`."""
    return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])


def describe(draws: "Draws") -> str:
    """Describe a sample set in JSON."""
    source, training, weights = draws.source, draws.training, draws.weights
    model = training.program.model
    about: dict[str, Any] = {
        "program": getattr(model, "__qualname__", type(model).__name__),
        "num_data": training.program.num_data,
        "measure": {"name": training.measure.name},
        "transform": "training" if isinstance(source, Training) else source.name,
        "temperature": training.kernel.temperature,
        "removal": weights.attrs.get("removal", "reweight"),
        "versions": {name: version(name) for name in PACKAGES},
    }
    return json.dumps(about)


def _dataset(variables: dict[str, Any], coords: Any) -> xr.Dataset:
    """Make a dataset with the coordinates of its dimensions."""
    dataset = xr.Dataset(variables)
    own = {name: coord for name, coord in coords.items() if {*coord.dims} <= {*dataset.dims}}
    return dataset.assign_coords(own)


def _in_chains(draws: "Draws", array: np.ndarray) -> np.ndarray:
    """Arrange `(run, state, ...)` as `(chain, draw, ...)`."""
    chains = in_chains(array, len(array) if draws.has_states else draws.num_chains)
    return chains.reshape(len(chains), -1, *chains.shape[3:])


def _key_words(draws: "Draws", along: np.ndarray) -> np.ndarray:
    keys = keys_of(draws.source, draws.key, draws.first + draws.runs_at(along))
    words = np.asarray(jax.random.key_data(keys))
    return _in_chains(draws, np.repeat(words[:, None], draws.training.kernel.num_states, 1))


def _own_dims(group: str, name: str, number: int) -> list[str]:
    if group == "posterior":
        return [f"{name}_dim_{i}" for i in range(number)]
    dims = {VALUE: ["query", "output"], "log_likelihood": ["example"], STATS: ["step"]}
    return dims.get(group, [])[:number]
