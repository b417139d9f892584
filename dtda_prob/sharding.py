"""Networks larger than a device: parameters and batches of one training, split over devices.

A mesh with an axis "parameter" or "example" splits what a single training computes. XLA derives
the communication; one device gives the same numbers up to rounding.
"""

from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

PARAMETER, EXAMPLE = "parameter", "example"
INSIDE = frozenset({PARAMETER, EXAMPLE})
"""Axes of a mesh that split one training; along all others, trainings or queries are dealt out."""


def devices_along(axis: str) -> int:
    """Count the devices along an axis of the mesh that JAX is tracing for; 1 without it."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(axis, 1)


def by_parameter(tree: Any) -> Any:
    """Split each array of a state of training along its longest axis that the devices divide."""
    number = devices_along(PARAMETER)
    return tree if number == 1 else jax.tree.map(lambda leaf: _split(leaf, number), tree)


def by_example(batch: Array) -> Array:
    """Split the positions of a batch, so that each device computes the gradient of its share.

    Raises:
        ValueError: if the devices do not divide the batch.
    """
    number = devices_along(EXAMPLE)
    if number == 1:
        return batch
    if len(batch) % number:
        raise ValueError(
            f"batch_size={len(batch)} must be a multiple of the {number} devices along the mesh's axis "
            f"{EXAMPLE!r}"
        )
    return jax.lax.with_sharding_constraint(batch, PartitionSpec(EXAMPLE))


def _split(leaf: Array, number: int) -> Array:
    lengths = {axis: length for axis, length in enumerate(leaf.shape) if length % number == 0}
    if not lengths:
        return leaf
    longest = max(lengths, key=lengths.__getitem__)
    return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*[None] * longest, PARAMETER))
