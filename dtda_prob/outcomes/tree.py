"""Arrays of draws to ArviZ DataTrees."""

import json
from collections.abc import Hashable, Sequence
from importlib.metadata import version
from typing import Any

import arviz_base
import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

PACKAGES = ("dtda_prob", "jax", "numpyro", "optax", "arviz_base")


def to_datatree(
    source: Training | PushForward,
    training: Training,
    drawn: dict[str, Any],
    keys: Key[Array, " run"],
    weights: xr.DataArray,
    num_chains: int,
) -> xr.DataTree:
    """Build a tree with sample dimensions `(chain, draw)`; draw i goes to chain i mod num_chains."""
    several = [str(dim) for dim in weights.dims if dim != "datum"]
    coords = {str(name): coord.values for name, coord in weights.coords.items()}

    def group(arrays: dict[str, np.ndarray], dims: dict[str, list[str]], **more: Any) -> xr.Dataset:
        own: dict[Hashable, Sequence[Hashable]] = {
            name: [*several, *dims.get(name, [])] for name in arrays
        }
        chained = {name: in_chains(array, num_chains) for name, array in arrays.items()}
        named = {dim for names in own.values() for dim in names}
        labels = {dim: value for dim, value in (coords | more).items() if dim in named}
        return arviz_base.dict_to_dataset(chained, dims=own, coords=labels, check_conventions=False)

    measure = training.measure
    output = ["query", "output"][: drawn["value"].ndim - 1 - len(several)]
    stats = drawn["stats"] | ({"losses": drawn["losses"]} if "losses" in drawn else {})
    key_data = np.tile(jax.random.key_data(keys), (training.kernel.num_states, 1))
    groups = {
        "posterior_predictive": group(
            {measure.name: drawn["value"]}, {measure.name: output}, query=measure.queries
        ),
        "sample_stats": group(stats, {"losses": ["step"]}),
        "constant_data": weights.to_dataset(name="weights"),
    }
    groups["sample_stats"]["key"] = (("chain", "draw", "word"), in_chains(key_data, num_chains))
    if "log_likelihood" in drawn:
        own, datum = {"log_likelihood": ["datum"]}, training.program.labels
        groups["log_likelihood"] = group(drawn["log_likelihood"], own, datum=datum)
    if "log_prior" in drawn:
        groups["log_prior"] = group(drawn["log_prior"], {})
    if "params" in drawn:
        named = drawn["params"]
        groups["posterior"] = group(named, {k: _own_dims(k, v, several) for k, v in named.items()})
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["dtda_prob"] = _describe(source, training, weights)
    return tree


def values_of(sample: xr.DataTree | xr.DataArray) -> xr.DataArray:
    """Give the measured values of a sample set, `(chain, draw, ...)`, in double precision."""
    if isinstance(sample, xr.DataTree):
        sample = next(iter(sample.children["posterior_predictive"].to_dataset().values()))
    return sample.astype(float).transpose("chain", "draw", ...)


def draws_of(sample: xr.DataTree | xr.DataArray) -> xr.DataArray:
    """Give the measured values with all chains in one dimension `draw`, in the order of their keys."""
    if isinstance(sample, xr.DataArray) and "chain" not in sample.dims:
        return sample.astype(float).transpose("draw", ...)
    by_draw = values_of(sample).transpose("draw", "chain", ...)
    flat = by_draw.values.reshape(-1, *by_draw.shape[2:])
    coords = {
        name: coord for name, coord in by_draw.coords.items() if not {"chain", "draw"} & {*coord.dims}
    }
    return xr.DataArray(flat, coords, ("draw", *by_draw.dims[2:]), name=by_draw.name)


def in_chains(array: np.ndarray, num_chains: int) -> np.ndarray:
    """Deal draws out to chains: `(draw, ...)` to `(chain, draw, ...)`."""
    return array.reshape(-1, num_chains, *array.shape[1:]).swapaxes(0, 1)


def _own_dims(name: str, array: np.ndarray, several: list[str]) -> list[str]:
    return [f"{name}_dim_{i}" for i in range(array.ndim - 1 - len(several))]


def _describe(source: Training | PushForward, training: Training, weights: xr.DataArray) -> str:
    transform = "training" if isinstance(source, Training) else source.name
    model = training.program.model
    return json.dumps(
        {
            "program": getattr(model, "__qualname__", type(model).__name__),
            "num_data": training.program.num_data,
            "measure": training.measure.name,
            "transform": transform,
            "temperature": training.kernel.temperature,
            "removal": weights.attrs.get("removal", "reweight"),
            "versions": {name: version(name) for name in PACKAGES},
        }
    )
