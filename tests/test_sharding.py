"""One training may be split over the devices of a mesh; see also test_studies for its numbers."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType
from tables import KEY, ones, train_network

from dtda_prob.sharding import by_example, by_parameter

MESH = AbstractMesh((2, 2), ("parameter", "example"), (AxisType.Auto, AxisType.Auto))


def traced(function, *args) -> list[tuple]:
    """Return shape and split of each array that a function splits over the mesh."""
    with jax.sharding.use_abstract_mesh(MESH):
        jaxpr = jax.make_jaxpr(function)(*args)
    return [*splits(jaxpr.jaxpr)]


def splits(jaxpr):
    for operation in jaxpr.eqns:
        if operation.primitive.name == "sharding_constraint":
            yield operation.invars[0].aval.shape, tuple(operation.params["sharding"].spec)
        for leaf in jax.tree.leaves([*operation.params.values()]):
            if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"):
                yield from splits(getattr(leaf, "jaxpr", leaf))


def test_arrays_are_split_along_the_longest_axis_that_devices_divide():
    tree = {"long": jnp.ones((2, 4)), "odd": jnp.ones((5, 2)), "whole": jnp.ones(3), "one": 1.0}
    found = traced(by_parameter, jax.tree.map(jnp.asarray, tree))
    assert found == [((2, 4), (None, "parameter")), ((5, 2), (None, "parameter"))]


def test_training_splits_its_states_and_its_batches():
    training = train_network()
    run = lambda key: training.kernel.run(key, training.program, ones()).params  # noqa: E731
    found = traced(run, KEY)
    weights = {leaf.shape for leaf in jax.tree.leaves(training.program.shapes) if leaf.size % 2 == 0}
    assert weights <= {shape for shape, split in found if "parameter" in split}
    assert ((4,), ("example",)) in found


def test_batches_are_divided_without_a_rest():
    with pytest.raises(ValueError, match="batch_size=3 must be a multiple of the 2 devices"):
        traced(by_example, jnp.arange(3))
