"""What says whether a prediction can be trusted, and what it will cost."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tables import NUM_DATA, ones, regression, train, train_network

import dtda_prob as dtda
from dtda_prob import curvature, diagnostics
from dtda_prob.transforms import PushForward

KEY = jax.random.key(0)
close = np.testing.assert_allclose


def blown_up(training: dtda.Training, factor: float) -> PushForward:
    """A transform whose steps point the right way and are `factor` times too long."""
    exact = dtda.retrain(training)

    def push(key, old, new):
        base, there = training.draw(key, old), training.draw(key, new)
        return there._replace(value=base.value + factor * (there.value - base.value))

    return PushForward(
        "blown up", training, push, exact.pull, exact.cost, lambda other, at: blown_up(other, factor)
    )


@pytest.mark.parametrize(("factor", "warned"), [(2.0, False), (-1.0, True)])
def test_steps_out_of_range_are_warned_of(factor, warned):
    training = train_network()
    weights = dtda.leave_one_out(training.program, range(3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dtda.sample(blown_up(training, factor), KEY, 4, weights)
        dtda.attribute(blown_up(training, factor), KEY, 4, ["mean"], weights, direction="push")
    assert len(caught) == 2 * warned
    if warned:
        assert "blown up: 3 of the 3 longest steps" in str(caught[0].message)


def test_the_check_can_be_left_out_and_retraining_needs_none():
    training = train_network()
    weights = dtda.leave_one_out(training.program, range(3))
    dtda.sample(blown_up(training, 10.0), KEY, 4, weights, check=False)
    dtda.sample(dtda.retrain(training), KEY, 4, weights)
    dtda.sample(training, KEY, 4, weights)


def test_dropped_rows_are_checked_against_the_training_that_drops_them():
    training = train(dtda.kernels.sgd(optax.sgd(0.05), num_epochs=20, batch_size=4), regression(40))
    weights = dtda.random_subsets(training.program, KEY, 2, 36, removal="drop")
    dtda.attribute(dtda.unroll(training), KEY, 4, ["mean"], weights)
    dtda.sample(dtda.unroll(training), KEY, 4, weights)


def test_the_linear_range_of_a_linear_training_is_everything(x64):
    """Parameters that move by one gradient step are linear in the weights."""
    kernel = dtda.kernels.sgd(optax.sgd(0.05), num_steps=1)
    training = train(kernel, measure=dtda.measures.parameters())
    weights = dtda.leave_one_out(training.program, range(2))
    found = diagnostics.linear_range(dtda.unroll(training), KEY, weights, num_draws=2, num_segments=1)
    close(found["norm_ratio"], 1.0, rtol=1e-8)
    close(found["cosine"], 1.0, rtol=1e-8)
    close(found["halves"], 0.0, atol=1e-8)
    assert found.sizes == {"draw": 2, "perturbation": 2, "share": 1}


def test_an_unstable_training_shows_in_the_growth_of_its_response(x64):
    """A rate beyond the stable one: the response grows from step to step."""
    program = regression()
    weights = dtda.leave_one_out(program, range(2))
    reports = [
        diagnostics.linear_range(
            dtda.unroll(train(dtda.kernels.sgd(optax.sgd(rate), num_steps=40), program)), KEY, weights
        )
        for rate in (0.02, 1.0)
    ]
    growth = [report["growth"].isel(share=-1) / report["growth"].isel(share=0) for report in reports]
    assert growth[1].min() > 100 * growth[0].max()


def test_transforms_without_a_response_have_no_halves():
    training = train_network()
    weights = dtda.leave_one_out(training.program, range(2))
    push_forward = dtda.newton(training, curvature.dense("gauss_newton", damping=0.1))
    found = diagnostics.linear_range(push_forward, KEY, weights, num_draws=2)
    assert np.isnan(found["halves"]).all()
    assert np.isfinite(found["norm_ratio"]).all()


def test_residuals_tell_exact_solves_from_approximate_ones(x64):
    training = train_network()
    exact = diagnostics.residuals(training, curvature.gram(damping=0.1), KEY)
    close(exact, 0.0, atol=1e-9)
    assert exact.dims == ("query",)
    near = diagnostics.residuals(training, curvature.kronecker("gauss_newton", damping=0.1), KEY)
    far = diagnostics.residuals(training, curvature.diagonal(damping=0.1), KEY)
    assert (near > 1e-3).all()
    assert near.mean() < far.mean()
    for unmeasured, message in (
        (curvature.identity(damping=1.0), "no matrix"),
        (curvature.gram(damping=curvature.relative(1.0)), "relative"),
    ):
        with pytest.raises(ValueError, match=message):
            diagnostics.residuals(training, unmeasured, KEY)


def test_pareto_k_grows_with_what_is_removed():
    training = train(dtda.kernels.exact())
    program = training.program
    weights = np.stack([ones(), ones().at[0].set(0.9), ones().at[jnp.arange(6)].set(0.0)])
    found = diagnostics.pareto_k(training, KEY, weights, num_draws=1000)
    assert found.shape == (3,)
    assert found[1] < 0.5
    assert found[2] > 0.7
    single = diagnostics.pareto_k(training, KEY, dtda.remove(program, [0]), num_draws=1000)
    assert single.shape == ()


def test_a_plan_counts_trainings_and_knows_when_retraining_is_cheaper():
    training = train_network()
    group = dtda.remove(training.program, [0, 1])
    one = dtda.plan(dtda.unroll(training), KEY, num_draws=4, perturbations=group)
    assert one.table["trainings"]["retrain"] == 8
    assert one.table["trainings"]["push"] == 4 * (1 + 3)
    assert one.table["trainings"]["pull"] == 4 * (1 + 2.5 * 4)
    assert (one.table > 0).all(axis=None)
    no_push = dtda.plan(dtda.cosine(training), KEY, num_draws=4)
    assert no_push.table["trainings"]["retrain"] == 4 * (NUM_DATA + 1)
    assert np.isnan(no_push.table["seconds"]["push"])
    assert "retrain" in str(no_push)
    assert "4 draws of 12 perturbations and all 4 queries" in no_push.advice


def test_diagnostics_refuse_several_numbers_of_dropped_rows():
    training = train_network()
    weights = dtda.groups(training.program, {"a": [0], "b": [1, 2]}, removal="drop")
    with pytest.raises(ValueError, match="apart"):
        diagnostics.linear_range(dtda.unroll(training), KEY, weights)
