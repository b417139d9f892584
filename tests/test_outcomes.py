"""Sample sets: reproducible draws, ArviZ trees, stores."""

import json

import arviz_plots
import arviz_stats
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
import xarray as xr
from tables import NUM_DATA, draw, network, ones, queries, regression, train, train_network

import dtda_prob as dtda
from dtda_prob.compiling import _jitted
from dtda_prob.studies.source import draw_keys

KEY = jax.random.key(0)


def values(tree: xr.DataTree) -> np.ndarray:
    """Draws in the order they were made, whatever the chains."""
    found = tree["posterior_predictive"]["loss"].transpose("draw", "chain", ...).values
    return found.reshape(-1, *found.shape[2:])


@pytest.fixture(scope="module")
def training():
    return train("sgd by epoch")


@pytest.fixture(scope="module")
def full(training):
    return dtda.sample(training, KEY, 16, keep=["parameters", "losses"])


def test_a_sample_is_the_draws_of_its_keys(training, full):
    keys = full["sample_stats"]["key"].transpose("draw", "chain", "word").values.reshape(16, 2)
    alone = [draw(training, ones(), jax.random.wrap_key_data(key)).value for key in keys[:3]]
    np.testing.assert_allclose(values(full)[:3], alone, rtol=1e-5)


def test_chunks_give_the_same_draws(training, full):
    """To rounding: another batch size is another compilation."""
    parts = dtda.sample(training, KEY, 16, options=dtda.Options(chunk_size=3))
    np.testing.assert_allclose(values(parts), values(full), rtol=1e-5)


def test_chunks_of_one_size_give_the_same_bits(training):
    """Whatever the number of draws, of chains, or how full the last chunk is."""
    more = dtda.sample(training, KEY, 16, options=dtda.Options(chunk_size=4))
    fewer = dtda.sample(training, KEY, 6, options=dtda.Options(num_chains=2, chunk_size=4))
    np.testing.assert_array_equal(values(fewer), values(more)[:6])


def test_several_perturbations_are_each_sampled(training):
    program = training.program
    weights = dtda.groups(program, {"first": [0, 1], "second": [5], "third": [2, 3]}, removal="drop")
    tree = dtda.sample(training, KEY, 4, weights)
    assert tree["posterior_predictive"]["loss"].dims == ("chain", "draw", "perturbation", "query")
    alone = dtda.sample(training, KEY, 4, dtda.remove(program, [5], removal="drop"))
    np.testing.assert_allclose(values(tree)[:, 1], values(alone), rtol=1e-5)


def test_dropping_runs_fewer_steps_and_push_forwards_follow(training):
    without = dtda.remove(training.program, range(4), removal="drop")
    steps = dtda.sample(training, KEY, 4, without, keep=["losses"])["sample_stats"].sizes["step"]
    unchecked = {"keep": ["losses"], "options": dtda.Options(check=False)}
    pushed = dtda.sample(dtda.unroll(training), KEY, 4, without, **unchecked)
    assert steps == pushed["sample_stats"].sizes["step"] == 6


def test_a_push_forward_is_sampled_from_old_to_new(training):
    program = training.program
    start, end = dtda.remove(program, [0]), dtda.remove(program, [0, 1])
    tree = dtda.sample(dtda.unroll(training), KEY, 4, end, old=start)
    key = draw_keys(KEY, 4)[0]
    arms = (jnp.asarray(weights.values) for weights in (start, end))
    pushed = jax.jit(dtda.unroll(training).push)(key, *arms)
    np.testing.assert_allclose(values(tree)[0], pushed.value[0], rtol=1e-5)


def test_the_groups_of_a_tree(full):
    assert set(full.children) == {"posterior", "posterior_predictive", "sample_stats", "constant_data"}
    stats = full["sample_stats"]
    assert {"objective", "gradient_norm", "diverging", "key", "losses"} == set(stats.data_vars)
    assert stats["losses"].dims == ("chain", "draw", "step")
    assert full["posterior"]["slopes"].shape == (4, 4, 3)
    assert full["constant_data"]["weights"].dims == ("example",)
    about = json.loads(full.attrs["dtda_prob"])
    assert about["transform"] == "training"
    assert set(about["versions"]) >= {"jax", "numpyro"}


def test_statistics_are_those_of_the_parameters(training, full):
    params = {"slopes": jnp.asarray(full["posterior"]["slopes"].values[1, 2])}
    objective, gradient = jax.jit(jax.value_and_grad(training.program.objective))(params, ones())
    found = full["sample_stats"].isel(chain=1, draw=2)
    assert float(found["objective"]) == pytest.approx(float(objective), rel=1e-5)
    assert float(found["gradient_norm"]) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)


def test_labels_of_data_and_queries_reach_the_tree():
    labels, names = [f"row {i}" for i in range(NUM_DATA)], list("abcd")
    training = train("exact", regression(labels=labels), queries(queries=names))
    weights = dtda.leave_one_out(training.program, ["row 3"])
    tree = dtda.sample(training, KEY, 4, weights)
    assert list(tree["posterior_predictive"]["query"].values) == names
    assert list(tree["posterior_predictive"]["perturbation"].values) == ["row 3"]
    assert list(tree["constant_data"]["example"].values) == labels


def test_vector_measurements_have_an_output_dimension():
    measure = dtda.measures.prediction(jnp.ones((2, 3)))
    tree = dtda.sample(dtda.Training(network(), train_network().kernel, measure), KEY, 4)
    assert tree["posterior_predictive"]["prediction"].dims == ("chain", "draw", "query", "output")
    np.testing.assert_allclose(tree["posterior_predictive"]["prediction"].sum("output"), 1, rtol=1e-5)


def test_arviz_takes_a_tree_as_it_is(full, training):
    summary = arviz_stats.summary(full, group="posterior_predictive", round_to="none")
    losses = full["posterior_predictive"]["loss"]
    np.testing.assert_allclose(summary["mean"].astype(float), losses.mean(("chain", "draw")), rtol=1e-5)
    other = dtda.sample(training, KEY, 16, dtda.remove(training.program, [1]))
    both = {"full": full, "without": other}
    for plot in (arviz_plots.plot_dist, arviz_plots.plot_forest):
        plot(both, group="posterior_predictive")
        plt.close("all")


def test_plots_refuse_samples_of_different_shape(full, training):
    with pytest.raises(ValueError, match="trees differ in"):
        dtda.plots.compare({"full": full, "fewer": dtda.sample(training, KEY, 8)})
    with pytest.raises(ValueError, match="trees is empty"):
        dtda.plots.compare({})


def test_plots_draw_the_queries_asked_for(full):
    dtda.plots.compare({"one": full, "two": full}, queries=[0, 2])
    assert len(plt.gcf().axes) == 2
    plt.close("all")


def test_draws_that_are_not_finite_are_kept_flagged_and_reported():
    kernel = dtda.kernels.sgd(optax.sgd(1e6), num_steps=200)
    with pytest.warns(RuntimeWarning, match="8 of 8 draws diverge.* or are not finite"):
        tree = dtda.sample(train(kernel), KEY, 8)
    assert tree["posterior_predictive"]["loss"].sizes["draw"] == 2
    assert tree["sample_stats"]["diverging"].all()


def test_one_compilation_serves_all_calls_of_a_shape(training):
    before = _jitted.cache_info().misses
    for data in ([0], [1], [2, 3]):
        dtda.sample(training, KEY, 12, dtda.remove(training.program, data))
    assert _jitted.cache_info().misses <= before + 1


def test_a_store_holds_what_was_saved_and_plain_xarray_opens_it(full, tmp_path):
    path = dtda.save({"full": full, "again": full}, tmp_path / "store")
    for tree in (dtda.load(path), xr.open_datatree(path, engine="zarr", consolidated=False)):
        xr.testing.assert_equal(tree["full/posterior"].to_dataset(), full["posterior"].to_dataset())
        assert (tree["again/sample_stats/key"] == full["sample_stats/key"]).all()
    with pytest.raises(FileExistsError, match="choose another"):
        dtda.save(full, path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_draws": 6}, ValueError, "num_draws=6.*num_chains=4"),
        ({"num_draws": 0}, ValueError, "num_draws=0"),
        ({"keep": ["weights"]}, ValueError, "keep"),
        ({"weights": np.ones(3)}, ValueError, "weights"),
        ({"weights": -np.ones(NUM_DATA)}, ValueError, "at least 0"),
        ({"key": jax.random.PRNGKey(0)}, TypeError, "jax.random.key"),
        ({"key": jax.random.split(KEY)}, ValueError, "one key"),
        ({"key": jax.random.key(0, impl="rbg")}, ValueError, "threefry"),
    ],
)
def test_bad_requests_are_refused(training, options, error, message):
    with pytest.raises(error, match=message):
        dtda.sample(training, **({"key": KEY, "num_draws": 4} | options))
