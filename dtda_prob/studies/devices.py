"""Compiled calls that are split over the devices of one process."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dtda_prob.compiling import joined, split
from dtda_prob.sharding import INSIDE


@cache
def all_devices() -> Mesh | None:
    """Return a mesh of all devices of this process, with the axis `draw`; None where there is one."""
    devices = jax.local_devices()
    return Mesh(np.asarray(devices), ("draw",)) if len(devices) > 1 else None


def mesh_of(engine: Any) -> Mesh | None:
    """Return an engine that is a mesh of devices, with an axis "draw" and without its axis types."""
    if not isinstance(engine, Mesh):
        return None
    if dealt(engine):
        return Mesh(engine.devices, engine.axis_names)
    return Mesh(engine.devices[None], ("draw", *engine.axis_names))


def dealt(mesh: Mesh | None) -> tuple[str, ...]:
    """Return the axes of a mesh along which trainings or queries are dealt out."""
    return () if mesh is None else tuple(name for name in mesh.axis_names if name not in INSIDE)


def num_devices(mesh: Mesh | None, *axes: str) -> int:
    """Count the devices along axes of a mesh, 1 where it lacks them; along `dealt` ones if none."""
    shape = {} if mesh is None else dict(mesh.shape)
    return math.prod(shape.get(axis, 1) for axis in axes or dealt(mesh))


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

    Each device computes its share by itself, as one device alone would compute so many; devices along
    the axes that `sharding` names compute one share together.

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
    shared = jax.shard_map(
        share, mesh=mesh, in_specs=specs, out_specs=out, axis_names={*dealt(mesh)}, check_vma=False
    )
    return partial(shared, traced)
