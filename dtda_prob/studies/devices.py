"""Compiled calls that are split over the devices of one process."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dtda_prob.compiling import joined, split


@cache
def all_devices() -> Mesh | None:
    """Return a mesh of all devices of this process, with the axis `draw`; None where there is one."""
    devices = jax.local_devices()
    return Mesh(np.asarray(devices), ("draw",)) if len(devices) > 1 else None


def mesh_of(engine: Any) -> Mesh | None:
    """Return an engine that is a mesh of devices, without the axis types it was made with."""
    return Mesh(engine.devices, engine.axis_names) if isinstance(engine, Mesh) else None


def num_devices(mesh: Mesh | None, axis: str | None = None) -> int:
    """Count the devices of a mesh, or those along an axis; 1 where there is no mesh or no such axis."""
    if mesh is None:
        return 1
    return mesh.size if axis is None else dict(mesh.shape).get(axis, 1)


def whole(size: int, multiple: int) -> int:
    """Round up to a multiple, at least one."""
    return -(-max(1, size) // multiple) * multiple


def spread(
    function: Callable,
    mesh: Mesh | None,
    same: Any,
    specs: tuple[PartitionSpec, ...],
    out: PartitionSpec,
) -> Callable:
    """Split arguments of a function, and its result, over the devices of a mesh.

    Each device computes its share by itself, as one device alone would compute so many.

    Args:
        function: `(same, *arguments) -> result`.
        mesh: the devices; None leaves the function as it is.
        same: a pytree that every device gets whole.
        specs: how each argument is split.
        out: how the result is split.
    """
    if mesh is None:
        return partial(function, same)
    traced, static = split(same)

    def share(traced: Any, *arguments: Any) -> Any:
        return function(joined(traced, static), *arguments)

    specs = (PartitionSpec(), *specs)
    shared = jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
    return partial(shared, traced)
