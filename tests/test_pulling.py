"""Responses of blocks of queries, on one device and over a mesh of several."""

import jax
import numpy as np
import optax
import pytest
from tables import NUM_QUERIES, ones, train, train_network

import dtda_prob as dtda
from dtda_prob import kernels
from dtda_prob.compiling import _jitted, operations
from dtda_prob.studies.calls import push_pairs
from dtda_prob.studies.perturbed import perturbed
from dtda_prob.studies.pull import pull_runs, responses
from dtda_prob.studies.source import draw_keys
from dtda_prob.transforms import memory
from dtda_prob.transforms.memory import at_once

KEY = jax.random.key(0)
LATE = kernels.keep(kernels.sgd(optax.sgd(0.05), num_steps=4, batch_size=4), 3)
close = np.testing.assert_allclose


def pulled_alone(push_forward, keys, start, point, queries):
    """Return the pull of each run by itself, for all queries, and choose among them."""
    draw = jax.jit(push_forward.training.draw)
    values = [draw(key, start).value for key in keys]
    one = jax.jit(push_forward.pull)
    responses = [one(key, point) for key in keys]
    return tuple(np.stack(found)[:, :, queries] for found in (values, responses))


def test_blocks_are_the_single_pulls_of_their_runs_and_queries(x64):
    """Blocks of one size compile once, and together they hold all queries."""
    push_forward, keys, point = dtda.unroll(train(LATE)), draw_keys(KEY, 2), 0.5 * ones()
    alone = pulled_alone(push_forward, keys, ones(), point, np.arange(NUM_QUERIES))
    before = _jitted.cache_info().misses
    blocks = [np.array(block) for block in ([0, 1, 2], [2, 1, 3])]
    found = [pull_runs(push_forward, None, keys, ones(), point, block) for block in blocks]
    assert _jitted.cache_info().misses <= before + 1
    for block, values in zip(blocks, found, strict=True):
        for ours, expected in zip(values, alone, strict=True):
            close(ours, expected[:, :, block], rtol=1e-10, atol=1e-14)


def test_a_mesh_has_axes_that_responses_are_split_along():
    mesh, source = jax.make_mesh((1,), ("data",)), dtda.unroll(train("exact"))
    with pytest.raises(ValueError, match=r"axes \['data'\]"):
        responses(source, KEY, 1, perturbed(source.training.program, None), mesh=mesh)


def test_fewer_queries_are_pulled_at_once_where_each_passes_over_many_examples(monkeypatch):
    training = train("sgd by epoch")
    makes = (dtda.influence, dtda.segments, dtda.trajectory)
    assert {at_once(make(training)) for make in makes} == {64}
    monkeypatch.setattr(memory, "PAIRS", 2 * training.program.num_data + 1)
    assert {at_once(make(training)) for make in makes} == {2}
    assert {at_once(make(training, batch_size=1)) for make in makes} == {1}
    assert at_once(dtda.unroll(training, batch_size=5)) == 5
    everything = at_once(dtda.influence(training, batch_size=None))
    assert everything > 10**6
    assert at_once(dtda.unroll(training)) < everything / 2  # each passes through batches as well
    monkeypatch.setattr(memory, "memory_of_device", lambda: 0.0)
    assert at_once(dtda.unroll(training)) == 1


@pytest.mark.parametrize("setting", [None, "tensorfloat32"])
@pytest.mark.parametrize("make", [dtda.unroll, dtda.influence])
def test_responses_multiply_in_full_precision_unless_jax_is_told_otherwise(make, setting):
    source = make(train_network(), at="old")
    arguments = source, None, jax.random.split(KEY, 1), ones(), None, np.arange(2, dtype=np.int32)
    with jax.default_matmul_precision(setting):
        jaxpr, _ = pull_runs.traced(*arguments)
    products = [each for each in operations(jaxpr) if each.primitive.name == "dot_general"]
    found = {str(each.params["precision"]) for each in products}
    assert len(products) > 3
    assert {"HIGHEST" in each for each in found} == {setting is None}


def test_solves_of_a_push_are_in_full_precision():
    source = dtda.influence(train_network(), at="old")
    jaxpr, _ = push_pairs.traced(source, (), None, jax.random.split(KEY, 1), ones(), ones())
    found = {str(each.params.get("precision")) for each in operations(jaxpr)}
    assert any("HIGHEST" in each for each in found)
