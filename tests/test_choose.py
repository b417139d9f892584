"""Choosing a push-forward: agreement in direction and size, its errors, and what is done with it."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from tables import ones, pull, train, train_network

import dtda_prob as dtda
from dtda_prob import curvature, kernels
from dtda_prob.attribution.choose import _leaves_little
from dtda_prob.attribution.methods import candidates, compare
from dtda_prob.measures.some import some

KEY = jax.random.key(3)
close = np.testing.assert_allclose
NUM = 40


@pytest.fixture(scope="module")
def training() -> dtda.Training:
    """Two hundred digits and a small network, trained well within the range of its derivative."""
    split = dtda.zoo.digits()
    program = dtda.Program(dtda.zoo.classifier([6], 10), split.x_train[:NUM], y=split.y_train[:NUM])
    kernel = kernels.sgd(optax.sgd(0.1), num_steps=40, batch_size=20)
    return dtda.Training(program, kernel, dtda.measures.loss(split.x_test[:40], y=split.y_test[:40]))


def made_up(noise: float, size: float, num_draws: int = 8):
    """Draws of methods and retrainings with a known direction, size and noise."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(30, 20))
    draws = lambda n, sd: true + sd * rng.normal(size=(n, *true.shape))  # noqa: E731
    other = rng.normal(size=(num_draws, *true.shape))
    predicted = {"right": draws(num_draws, noise) / size, "noise": other}
    return predicted, draws(6, 0.5)


def test_directions_and_sizes_are_the_known_ones():
    """Six retrainings with noise 0.5 have the reliability 1 / (1 + 0.25 / 6)."""
    predicted, retrained = made_up(noise=2.0, size=3.0)
    table = compare(predicted, retrained)
    right = table.sel(transform="right")
    ceiling = 1 / (1 + 0.25 / 6) ** 0.5
    close(table["ceiling"], ceiling, atol=0.02)
    close(right["direction"], ceiling / (1 + 4 / 8) ** 0.5, atol=0.03)
    close(right["limit"], ceiling, atol=0.05)
    close(right["size"], 3.0, rtol=0.1)
    assert abs(right["size"] - 3.0) < 4 * right["size_error"] < 1.2
    assert right["gap"] == 0
    assert right["explained"] > 0.4
    close(table["expected"], right["direction"], atol=0.02)
    assert table.sel(transform="noise")["gap"] > 5 * table.sel(transform="noise")["gap_error"]


def test_a_method_that_is_not_finite_is_not_chosen():
    predicted, retrained = made_up(noise=0.1, size=1.0)
    predicted["noise"][0] = np.nan
    table = compare(predicted, retrained)
    assert np.isnan(table.sel(transform="noise")["direction"])
    assert table.sel(transform="right")["gap"] == 0


def test_the_choice_among_methods_is_made_by_retraining(training):
    """A method that points elsewhere loses, and a wrong size is corrected."""
    good = dtda.unroll(training, factor=0.25)
    bad = dtda.influence(training, curvature.identity(damping=1.0))
    choice = dtda.choose(training, KEY, methods=[bad, good], budget=36, num_draws=4)
    assert choice.push_forward.name.startswith("unroll")
    assert choice.push_forward.training is training
    close(choice.push_forward.factor, 1.0, rtol=0.35)
    close(choice.table.sel(transform=good.name)["size"], 4.0, rtol=0.35)
    assert choice.perturbations.sizes == {"perturbation": 8, "example": NUM}
    assert choice.shifts.shape == (4, 40, 8)  # of all queries, of which 32 are compared
    assert len(choice.push_forward.training.measure.queries) == 40
    assert "is chosen: its effects correlate with retraining" in str(choice)
    assert "multiplied by" in choice.summary


def test_the_search_ends_where_little_could_be_gained(training):
    choice = dtda.choose(training, KEY, budget=36, num_draws=8)
    assert list(choice.table["transform"].values) == ["unroll()"]
    assert "unroll by Gauss-Newton steps" in choice.refused
    assert "4 other methods were not compared" in choice.summary


@pytest.mark.parametrize(
    ("noise", "other", "ends"), [(0.5, 0.0, True), (2.0, 0.0, False), (0.5, 0.5, False)]
)
def test_the_search_goes_on_after_noise_and_after_what_points_elsewhere(noise, other, ends):
    predicted, retrained = made_up(noise=noise, size=1.0)
    elsewhere = np.random.default_rng(1).normal(size=predicted["right"].shape[1:])
    assert _leaves_little(compare({"one": predicted["right"] + other * elsewhere}, retrained)) == ends


def test_effects_that_are_lost_in_noise_end_no_search():
    """Halves of retrainings that disagree have the ceiling 0, below which no method lies."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 3, 30, 20))
    table = compare({"one": one}, np.concatenate([one, 0.3 * other - 0.5 * one]))
    assert table["ceiling"] == 0
    assert table["direction"] > 0
    assert not _leaves_little(table)


def test_ek_fac_samples_a_label_where_an_example_has_many_outputs():
    """Exact factors take a backward pass for each output: 432 for 16 tokens of 27 letters."""

    def wide(x, y):
        slopes = numpyro.param("slopes", jnp.zeros((2, 40)))
        with numpyro.plate("data", len(x)) as i:
            numpyro.sample("y", dist.Normal(x[i] @ slopes, 1.0).to_event(1), obs=y[i])

    program = dtda.Program(wide, np.ones((6, 2)), np.ones((6, 40)))
    made, _ = candidates(dtda.Training(program, kernels.sgd(optax.sgd(0.1), num_steps=2)))
    assert "influence(curvature=kronecker())" in made
    assert "influence(curvature=chebyshev(preconditioner=kronecker()))" in made


def test_trained_models_are_compared_with_the_training_of_their_program(training):
    """Four models are the draws; a choice by retraining has them for its draws, with all queries."""
    models = [training.program.init(key) for key in jax.random.split(KEY, 4)]
    finished = dtda.Training(training.program, kernels.pretrained(models), training.measure)
    methods = [dtda.influence(finished, curvature.identity(damping=d)) for d in (1.0, 2.0)]
    choice = dtda.choose(training, KEY, methods=methods, budget=36, num_draws=4)
    assert choice.push_forward.training == finished
    sizes = choice.table["size"].values
    close(sizes[1], 2 * sizes[0], rtol=1e-4)


def test_without_a_budget_unrolling_stands_in(training, tmp_path):
    methods = [dtda.unroll(training), dtda.influence(training, curvature.identity(damping=1.0))]
    choice = dtda.choose(training, KEY, methods=methods, budget=0, num_draws=4)
    assert choice.reference.startswith("unroll")
    assert choice.push_forward.name == "unroll()"


def test_retrainings_of_a_choice_are_kept_and_shared(training, tmp_path):
    where = dtda.Where(tmp_path / "study", progress=False)
    small = dtda.Training(training.program, training.kernel, some(training.measure, np.arange(4)))
    methods = [dtda.unroll(small)]
    choice = dtda.choose(small, KEY, methods=methods, budget=36, num_draws=4, where=where)
    assert {"retrained.all_data", "retrained.perturbed"} == {*dtda.contents(where.store).index}
    arms = dtda.evaluate.retrainings(
        small, choice.key, choice.perturbations, num_retrainings=4, where=where
    )
    close(choice.shifts, arms["perturbed"] - arms["full"], rtol=1e-6)


def test_what_cannot_be_chosen_is_refused():
    training = train_network()
    with pytest.raises(ValueError, match="budget=12 trainings say too little"):
        dtda.choose(training, KEY, budget=12)
    other = dtda.Training(training.program, kernels.sgd(optax.sgd(0.1), num_steps=2), training.measure)
    with pytest.raises(ValueError, match="of the training that is passed"):
        dtda.choose(training, KEY, methods=[dtda.unroll(other)])
    params = jax.tree.map(np.asarray, training.program.init(KEY))
    still = dtda.Training(training.program, kernels.pretrained(params), training.measure)
    with pytest.raises(ValueError, match="nothing can be retrained"):
        dtda.choose(still, KEY)


def test_some_queries_of_a_measure_are_rows_of_its_response():
    training = train("exact mode")
    chosen = dtda.Training(training.program, training.kernel, some(training.measure, np.array([2, 0])))
    weights = ones(training.program.num_data)
    rows = pull(dtda.unroll(training), weights)
    close(pull(dtda.unroll(chosen), weights), rows[np.array([2, 0])], rtol=1e-4, atol=1e-6)
    assert chosen.measure.queries.tolist() == [2, 0]


def test_attribute_chooses_where_no_push_forward_is_named(training):
    chosen = dtda.choose(training, KEY, methods=[dtda.unroll(training)], budget=36, num_draws=4)
    assert chosen.table.attrs["chosen"] == "unroll()"
    attempts = []

    def choose(source, key, **_):
        attempts.append(source)
        return chosen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("dtda_prob.attribution.attribute"), "choose", choose)
        scores = dtda.attribute(training, KEY, 4, ["mean"])
        dtda.attribute(training, KEY, 4, ["mean"], dtda.remove(training.program, [1]))
    assert attempts == [training]
    assert scores.attrs["choice"] == chosen.summary
    same = dtda.attribute(chosen.push_forward, KEY, 4, ["mean"])
    close(scores["score"], same["score"], rtol=1e-5)


def test_runs_of_several_states_count_once_and_removal_stays_what_it_was(training):
    kept = dtda.Training(training.program, kernels.keep(training.kernel, 3), training.measure)
    singles = dtda.leave_one_out(training.program, removal="drop")
    methods = [dtda.influence(kept, curvature.identity(damping=1.0))]
    choice = dtda.choose(kept, KEY, singles, methods=methods, budget=36, num_draws=4)
    assert choice.perturbations.attrs["removal"] == "drop"
    assert (choice.perturbations == 0).sum("example").values.tolist() == [NUM // 10] * 8
    assert np.isfinite(choice.table["direction"]).all()


def test_methods_that_are_not_finite_are_named(training):
    broken = dtda.influence(training, curvature.identity(damping=1.0), factor=np.nan)
    methods = [dtda.unroll(training), broken]
    with pytest.warns(RuntimeWarning, match="not finite"):
        choice = dtda.choose(training, KEY, methods=methods, budget=36, num_draws=4)
    assert choice.push_forward.name == "unroll()"
    assert f"The effects of {broken.name} are not finite." in choice.summary
