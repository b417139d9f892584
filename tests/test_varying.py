"""Settings beside the data: inputs, priors and hyper-parameters as further weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tables import NOISE, NUM_DATA, PRIOR, draw, pull, regression, regression_data

import dtda_prob as dtda
from dtda_prob import kernels

KEY = jax.random.key(0)
close = np.testing.assert_allclose
slopes = dtda.measures.parameters()


def decayed(learning_rate, weight_decay):
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=0.9))


INJECTED = optax.inject_hyperparams(decayed)(learning_rate=0.05, weight_decay=0.1)
KERNELS = {
    "sgd": (
        kernels.sgd(optax.adam(0.05), num_epochs=2, batch_size=4),
        ("x", "noise", "learning_rate"),
    ),
    "injected": (
        kernels.sgd(INJECTED, num_epochs=2, batch_size=4),
        ("prior", "weight_decay", "learning_rate"),
    ),
    "exact": (kernels.exact(), ("y", "noise")),
    "sgld": (kernels.sgld(1e-3, num_steps=5, batch_size=4), ("prior", "step_size")),
}


def training(kernel, *names, measure=slopes):
    return dtda.Training(dtda.vary(regression(), *names), kernel, measure)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_response_to_settings_is_the_finite_difference(kernel, x64):
    made = training(KERNELS[kernel][0], *KERNELS[kernel][1])
    weights = made.program.full_weights()
    step = 1e-4 * jax.random.normal(jax.random.key(3), weights.shape)
    above, below = (draw(made, weights + sign * step).value for sign in (1, -1))
    response = pull(dtda.unroll(made), weights)
    assert response.shape == (3, len(weights))
    close(2 * response @ step, above - below, rtol=2e-5, atol=1e-11)
    for name in KERNELS[kernel][1]:
        assert jnp.abs(dtda.part(made.program, response, name)).max() > 0, name


def test_hyper_parameters_change_as_if_the_kernel_had_others(x64):
    made = training(KERNELS["injected"][0], "weight_decay", "learning_rate")
    weights = dtda.changed(made.program, weight_decay=2.0, learning_rate=1.5)
    other = kernels.sgd(decayed(0.075, 0.2), num_epochs=2, batch_size=4)
    expected = draw(dtda.Training(regression(), other, slopes), jnp.ones(NUM_DATA)).value
    close(draw(made, jnp.asarray(weights.values)).value, expected, rtol=1e-10)


def test_arguments_change_as_if_the_model_were_bound_to_others(x64):
    x, y = regression_data()
    x = x + 0.1
    made = training(kernels.exact(), "x", "prior")
    weights = dtda.changed(made.program, x=x, prior=1.0)
    other = dtda.Program(dtda.zoo.linear_regression, x, y=y, noise=NOISE, prior=1.0)
    expected = draw(dtda.Training(other, kernels.exact(), slopes), jnp.ones(NUM_DATA)).value
    close(draw(made, jnp.asarray(weights.values)).value, expected, rtol=1e-10)


def closed_form(x, prior):
    _, y = regression_data()
    return jnp.linalg.solve(x.T @ x / NOISE**2 + jnp.eye(3) / prior**2, x.T @ y / NOISE**2)


def test_features_and_the_prior_move_the_mode_as_its_closed_form_says(x64):
    made = training(kernels.exact(0.0), "x", "prior")
    response = pull(dtda.influence(made, dtda.curvature.gram()), made.program.full_weights())
    jacobian = jax.jit(jax.jacobian(closed_form, (0, 1)))
    by_x, by_prior = jacobian(jnp.asarray(regression_data()[0]), PRIOR)
    assert dtda.part(made.program, response, "x").shape == (3, NUM_DATA, 3)
    close(dtda.part(made.program, response, "x"), by_x, rtol=1e-5, atol=1e-10)
    close(dtda.part(made.program, response, "prior"), by_prior, rtol=1e-5, atol=1e-10)


def test_removal_is_the_same_whether_or_not_settings_vary(x64):
    made, plain = (
        training(kernels.exact(), "prior"),
        dtda.Training(regression(), kernels.exact(), slopes),
    )
    found = pull(dtda.influence(made), made.program.full_weights())
    close(found[:, :NUM_DATA], pull(dtda.influence(plain), jnp.ones(NUM_DATA)), rtol=1e-9)
    weights = [dtda.remove(each.program, [2, 5], removal="drop") for each in (made, plain)]
    assert weights[0]["setting"].values.tolist() == [""] * NUM_DATA + ["prior"]
    dropped = [
        draw(each.drop(2), jnp.asarray(w.values)).value
        for each, w in zip((made, plain), weights, strict=True)
    ]
    close(*dropped, rtol=1e-9)


def test_the_covariance_with_the_prior_is_the_response_of_the_mean():
    made = training(kernels.nuts(num_warmup=200, num_samples=2000), "prior")
    weights = made.program.full_weights()
    found = jax.jit(jax.vmap(dtda.covariance(made).pull, (0, None)))(jax.random.split(KEY, 8), weights)
    by_prior = dtda.part(made.program, found[:, 0], "prior")
    error = by_prior.std(0, ddof=1) / np.sqrt(8)
    x = jnp.asarray(regression_data()[0], jnp.float32)
    truth = jax.jacobian(closed_form, 1)(x, jnp.float32(PRIOR))
    assert (np.abs(by_prior.mean(0) - truth) < 5 * error).all()
    assert (error < 0.3 * np.abs(truth).max()).all()


def test_transforms_predict_a_change_that_retraining_makes():
    made = training(kernels.exact(), "prior", measure=slopes)
    weights = dtda.changed(made.program, prior=1.5)
    scores = dtda.attribute(
        dtda.influence(made), KEY, 8, ["mean"], weights, options=dtda.Options(num_permutations=0)
    )
    retrained = dtda.attribute(
        made, KEY, 8, ["mean"], weights, options=dtda.Options(num_permutations=0)
    )
    close(scores["score"], retrained["score"], rtol=0.05, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dtda.vary(regression()), "at least one setting"),
        (lambda: dtda.vary(regression(), "prior", "prior"), "each once"),
        (lambda: dtda.vary(dtda.vary(regression(), "prior"), "noise"), "vary already"),
        (lambda: training(kernels.exact(), "learning_rate"), "learning_rate"),
        (lambda: training(KERNELS["sgd"][0], "weight_decay"), "weight_decay"),
        (lambda: dtda.changed(regression(), prior=1.0), "settings that vary"),
        (lambda: dtda.changed(dtda.vary(regression(), "prior")), "nothing"),
        (lambda: dtda.changed(dtda.vary(regression(), "x"), x=1.0), "shape"),
        (lambda: dtda.part(dtda.vary(regression(), "x"), np.ones(50), "prior"), "name='prior'"),
        (lambda: dtda.remove(dtda.vary(regression(), "prior"), [NUM_DATA]), "are settings"),
        (lambda: dtda.sample(training(kernels.exact(), "prior"), KEY, 8, np.ones(NUM_DATA)), "setting"),
        (
            lambda: dtda.relabel(dtda.vary(regression(), "prior"), [0], {"y": np.zeros(1)}),
            "vary already",
        ),
    ],
)
def test_bad_settings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_are_no_setting():
    program = dtda.Program(dtda.zoo.classifier([4], 3), np.ones((5, 2)), y=np.zeros(5, int))
    with pytest.raises(ValueError, match="relabel"):
        dtda.vary(program, "y")
    with pytest.raises(NotImplementedError, match="push"):
        pull(dtda.retrain(training(kernels.exact(), "prior")), jnp.ones(NUM_DATA + 1))
