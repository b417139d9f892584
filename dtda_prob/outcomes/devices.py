"""One process with many devices: which share a call, and how it is split."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec


@cache
def all_devices() -> Mesh | None:
    """Give a mesh of all devices of this process, with one axis, `draw`; None where there is one."""
    devices = jax.local_devices()
    return Mesh(np.asarray(devices), ("draw",)) if len(devices) > 1 else None


def mesh_of(engine: Any) -> Mesh | None:
    """Give an engine that is a mesh of this process's devices, and split over them by us alone."""
    return Mesh(engine.devices, engine.axis_names) if isinstance(engine, Mesh) else None


def spread(function: Callable, mesh: Mesh | None, split: tuple[bool, ...]) -> Callable:
    """Split the leading axis of some arguments, and of the result, over all devices of a mesh.

    Each device computes its share by itself, as one device alone would compute so many.

    Args:
        function: what maps over the leading axis.
        mesh: the devices; None leaves the function as it is.
        split: which arguments are split; the others are the same everywhere.
    """
    if mesh is None:
        return function
    share, same = PartitionSpec(mesh.axis_names), PartitionSpec()
    specs = tuple(share if each else same for each in split)
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=share, check_vma=False)
