"""How many rows of a response are pulled at once, by what each holds in memory."""

from typing import Any

import jax
import jax.numpy as jnp

from dtda_prob.checkpoints import SHARE, memory_of_device, num_bytes, traced
from dtda_prob.program.abstraction import per_structure
from dtda_prob.sharding import EXAMPLE, PARAMETER, devices_along
from dtda_prob.training import Training
from dtda_prob.transforms.push_forward import Restricted

PAIRS = 2**18
"""Pairs of queries and examples that are held at once where each query passes over all examples."""
COPIES = 6
"""Copies of the parameters that a row holds in reverse mode: two states of Adam."""


def at_once(source: Any) -> int:
    """Return how many rows of a response are pulled at once: at most the `batch_size` of the source.

    They fit into a quarter of the device's memory. A row holds copies of the parameters, and where it
    passes through training, derivatives of all that the objective of a batch computes. Where it passes
    over all examples instead, rows are fewer the more examples there are.
    """
    training, most = source.training, source.batch_size
    held = COPIES * num_bytes(training.program.shapes) / devices_along(PARAMETER)
    if not isinstance(source, Restricted):
        held += _computed(training) / devices_along(EXAMPLE)
    fitting = int(SHARE * memory_of_device() // max(held, 1.0))
    if most is None:
        return max(1, fitting)
    if isinstance(source, Restricted):
        most = min(most, PAIRS // training.program.num_data)
    return max(1, min(most, fitting))


@per_structure
def _computed(training: Training) -> float:
    """Count the bytes that the objective of the largest batch computes."""
    program = training.program
    sizes = [getattr(phase, "batch_size", None) for phase in training.kernel.phases]
    largest = max((size or program.num_rows for size in sizes), default=program.num_rows)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), program.shapes)
    rows = None if largest >= program.num_data else jnp.arange(largest)
    return traced(program.objective, params, jnp.ones(program.num_data), rows)[1]
