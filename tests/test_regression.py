"""Conjugate linear regression: draws and responses against the closed form, signs and factors too."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from tables import (
    NOISE,
    NUM_DATA,
    NUM_FEATURES,
    PRIOR,
    draw,
    last,
    ones,
    pull,
    push,
    regression,
    regression_data,
    train,
)

import dtda_prob as dtda
from dtda_prob.compiling import compiled
from dtda_prob.kernels.kernel import one_state
from dtda_prob.typing import Outcome

KEY = jax.random.key(0)
close = np.testing.assert_allclose

CONVERGED = dtda.kernels.sgd(optax.sgd(0.03, momentum=0.9), num_steps=800)
slopes = dtda.measures.parameters()
draws = compiled(lambda training, *args: last(jax.vmap(training.draw, (0, None), 1)(*args)))


def precision(weights: np.ndarray) -> np.ndarray:
    x, _ = regression_data()
    return x.T @ (weights[:, None] * x) / NOISE**2 + np.eye(NUM_FEATURES) / PRIOR**2


def mode(weights: np.ndarray) -> np.ndarray:
    x, y = regression_data()
    return np.linalg.solve(precision(weights), x.T @ (weights * y) / NOISE**2)


def response(weights: np.ndarray) -> np.ndarray:
    """d mode / d weights: column k is A^-1 x_k (y_k - x_k' mode) / noise^2, A the precision."""
    x, y = regression_data()
    return np.linalg.solve(precision(weights), x.T * (y - x @ mode(weights)) / NOISE**2)


def weights_of_all_kinds() -> np.ndarray:
    weights = np.ones(NUM_DATA)
    weights[[0, 3, 5]] = 0.0, 2.0, 0.3
    return weights


@pytest.mark.parametrize("kernel", [CONVERGED, dtda.kernels.exact(0.0)], ids=["sgd", "exact"])
@pytest.mark.parametrize("weights", [np.ones(NUM_DATA), weights_of_all_kinds()], ids=["ones", "mix"])
def test_training_ends_at_the_mode(kernel, weights, x64):
    training = train(kernel, measure=slopes)
    close(draw(training, jnp.asarray(weights)).value, mode(weights), rtol=1e-8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dtda.unroll(train(CONVERGED, measure=slopes), at="old"),
        lambda: dtda.influence(train(dtda.kernels.exact(0.0), measure=slopes), at="old"),
        lambda: dtda.influence(
            train(dtda.kernels.exact(0.0), measure=slopes),
            dtda.curvature.conjugate_gradient(damping=1e-12, tolerance=1e-12),
            at="old",
        ),
    ],
    ids=["unroll sgd", "influence exact", "influence cg"],
)
@pytest.mark.parametrize("weights", [np.ones(NUM_DATA), weights_of_all_kinds()], ids=["ones", "mix"])
def test_the_response_is_that_of_the_mode(make, weights, x64):
    push_forward, new = make(), np.ones(NUM_DATA)
    new[2] = 0.0
    old = jnp.asarray(weights)
    close(pull(push_forward, old), response(weights), rtol=1e-6, atol=1e-9)
    moved = push(push_forward, old, jnp.asarray(new)).value
    close(moved, mode(weights) + response(weights) @ (new - weights), rtol=1e-6)


SETTLED = {
    "influence": dtda.influence,
    "segments": lambda t: dtda.segments(t, dtda.curvature.dense("gauss_newton")),
    "newton": lambda t: dtda.newton(t),
}


@pytest.mark.parametrize("name", SETTLED)
def test_at_rest_all_responses_are_that_of_the_mode(name, x64):
    found = pull(SETTLED[name](train(CONVERGED, measure=slopes)), ones())
    close(found, response(np.ones(NUM_DATA)), rtol=1e-8, atol=1e-10)


def test_one_newton_step_on_the_perturbed_objective_is_retraining(x64):
    training, new = train(CONVERGED, measure=slopes), np.ones(NUM_DATA)
    new[[1, 4, 7]] = 0.0
    moved = push(dtda.newton(training), ones(), jnp.asarray(new)).value
    close(moved, mode(new), rtol=1e-7)


def test_the_covariance_with_the_losses_is_the_response_of_the_posterior_mean():
    """Within five standard errors over keys, and the errors are small."""
    training = train(dtda.kernels.exact(0.0), measure=slopes)
    push_forward = dtda.covariance(
        training, step_size=5e-4, num_samples=1000, num_warmup=500, thinning=20
    )
    responses = jax.jit(jax.vmap(push_forward.pull, (0, None)))(jax.random.split(KEY, 16), ones())
    mean, error = responses.mean(0), responses.std(0, ddof=1) / 4
    expected = response(np.ones(NUM_DATA))
    assert (np.abs(mean - expected) < 5 * error + 0.03 * np.abs(expected).max()).all()
    assert error.max() < 0.1 * np.abs(expected).max()


def test_reweighing_draws_from_the_posterior_without_the_data_and_keeps_draws_where_weights_stay():
    training, new = train(dtda.kernels.exact(), measure=slopes), np.ones(NUM_DATA)
    new[3] = 0.0
    push_forward = dtda.importance(training, jax.random.key(5), num_draws=4000)
    keys, goal = jax.random.split(KEY, 2000), jnp.asarray(new)
    several = jax.jit(jax.vmap(push_forward.push, (0, None, None)))
    assert (several(keys, ones(), ones()).value[0, 0] == draw(training, ones(), keys[0]).value).all()
    moved = several(keys, ones(), goal).value[:, 0]
    covariance = np.linalg.inv(precision(new))
    error = np.sqrt(np.diag(covariance) / 1000)
    assert (np.abs(moved.mean(0) - mode(new)) < 4 * error).all()
    close(np.cov(moved.T), covariance, atol=0.15 * np.diag(covariance).max())
    with pytest.raises(NotImplementedError, match="direction='push'"):
        push_forward.pull(KEY, ones())


def test_the_cosine_is_that_of_gradients(x64):
    training = train(CONVERGED, measure=slopes)
    params = draw(training, ones()).params
    program = training.program
    both = jax.jit(lambda params: (program.gradients(params)["slopes"], program.gradient_norms(params)))
    gradients, norms = map(np.asarray, both(params))
    lengths = np.linalg.norm(gradients, axis=1)
    close(norms, lengths, rtol=1e-10)
    expected, some = -(gradients / lengths[:, None]).T, np.array([2, 0])
    close(pull(dtda.cosine(training), ones()), expected, rtol=1e-9)
    close(pull(dtda.cosine(training), ones(), some), expected[some], rtol=1e-9)
    with pytest.raises(NotImplementedError, match="direction='pull'"):
        dtda.cosine(training).push(KEY, ones(), ones())


def test_removing_an_example_moves_parameters_by_plus_inverse_hessian_times_gradient_over_n(x64):
    program = regression()
    training = train(dtda.kernels.exact(0.0), program, slopes)
    params = draw(training, ones()).params
    hessian_at = jax.hessian(lambda theta: program.objective({"slopes": theta}, ones()))
    both = jax.jit(lambda params: (hessian_at(params["slopes"]), program.gradients(params)["slopes"]))
    hessian, gradients = both(params)
    moved = np.linalg.solve(hessian, gradients[4]) / NUM_DATA
    pushed = push(dtda.influence(training, at="old"), ones(), ones().at[4].set(0.0))
    close(pushed.value - draw(training, ones()).value, moved, rtol=1e-8)


def test_retraining_is_the_closed_form_without_the_example(x64):
    training = train(CONVERGED, measure=slopes)
    effect = pull(dtda.retrain(training), ones())
    without = np.ones(NUM_DATA)
    without[6] = 0.0
    close(effect[:, 6], mode(np.ones(NUM_DATA)) - mode(without), rtol=1e-6)


def test_exact_draws_have_the_posterior_s_mean_and_covariance():
    num_draws = 20_000
    training = train(dtda.kernels.exact(), measure=slopes)
    weights = weights_of_all_kinds()
    keys = jax.random.split(KEY, num_draws)
    drawn = draws(training, keys, jnp.asarray(weights)).value
    covariance = np.linalg.inv(precision(weights))
    error = np.sqrt(np.diag(covariance) / num_draws)
    assert (np.abs(drawn.mean(0) - mode(weights)) < 4 * error).all()
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert (np.abs(np.cov(drawn.T) - covariance) < 6 * scale / np.sqrt(num_draws)).all()


def test_unrolling_exact_draws_follows_the_posterior_draw_by_draw(x64):
    """The pathwise derivative carries mean and spread, so a small change needs no retraining."""
    training = train(dtda.kernels.exact(), measure=slopes)
    new = ones().at[1].set(0.99)
    pushed = push(dtda.unroll(training), ones(), new).value
    old, truth = draw(training, ones()).value, draw(training, new).value
    assert jnp.linalg.norm(pushed - truth) < 0.02 * jnp.linalg.norm(truth - old)


def test_a_singular_hessian_gives_the_least_move():
    """Two equal features and a flat prior: only their sum is determined."""
    x, y = regression_data()
    program = dtda.Program(
        dtda.zoo.linear_regression, np.stack([x[:, 0]] * 2, 1), y=y, noise=NOISE, prior=1e4
    )
    kernel = dtda.kernels.sgd(optax.sgd(0.02), num_steps=300)
    training = dtda.Training(program, kernel, slopes)
    effect = pull(dtda.influence(training, dtda.curvature.dense(rtol=1e-4)), ones())
    assert jnp.isfinite(effect).all()
    close(effect[0], effect[1], rtol=1e-3)
    theta = draw(training, ones()).value
    slope = x[:, 0] * (y - x[:, 0] * theta.sum()) / (x[:, 0] @ x[:, 0])
    close(effect.sum(0), slope, rtol=1e-3, atol=1e-4)


def test_conjugate_gradients_that_do_not_converge_give_nan():
    """In a push; `test_attribution` has the pull."""
    training = train("exact mode")
    curvature = dtda.curvature.conjugate_gradient(damping=1e-9, tolerance=1e-6, max_steps=1)
    push_forward = dtda.influence(training, curvature)
    assert jnp.isnan(push(push_forward, ones(), ones().at[0].set(0.0)).value).any()


@pytest.mark.parametrize(
    "transform",
    [
        dtda.influence,
        lambda t: dtda.newton(t, num_steps=2),
    ],
    ids=["influence", "newton, two steps"],
)
def test_draws_of_a_posterior_are_carried_with_their_spread(transform, x64):
    """Each as a stationary point, draws would change their covariance by twice as much."""
    training = train(dtda.kernels.exact(), measure=slopes)
    old, new = ones(), ones().at[3].set(0.9)
    keys = jax.random.split(KEY, 4000)
    several = jax.jit(jax.vmap(transform(training).push, (0, None, None)))
    drawn = draws(training, keys, old).value
    carried = several(keys, old, new).value[:, 0]
    change = np.cov(carried.T) - np.cov(drawn.T)
    expected = np.linalg.inv(precision(new)) - np.linalg.inv(precision(old))
    assert np.linalg.norm(change - expected) < 0.1 * np.linalg.norm(expected)
    moved = carried.mean(0) - drawn.mean(0)
    close(moved, mode(new) - mode(old), rtol=0.02, atol=1e-4)


def test_where_a_draw_of_a_posterior_has_no_derivative_the_response_is_at_the_draw_itself():
    """Draws at other weights are others, so that the spread about them is not the draw's own."""
    training = train(dtda.kernels.nuts(num_warmup=20, num_samples=4), measure=slopes)
    assert dtda.influence(training).at == "old"
    assert dtda.influence(training).matched(0, ones()).at == "old"
    assert dtda.influence(train("exact")).at == "centre"


def funnel(effects, errors, top):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("data", len(effects)) as i:
        density = dist.Normal(mu, jnp.hypot(tau, errors[i])).log_prob(effects[i])
        numpyro.factor("effect", density + jnp.where(tau > 1e30, top, 0.0))


carry = compiled(lambda made, *args: made.carry(KEY, *args))
derivatives = compiled(
    lambda program, *args: [each(program.objective)(*args) for each in (jax.grad, jax.hessian)]
)


@pytest.mark.parametrize("top", [0.0, np.inf], ids=["higher there", "overflows there"])
def test_a_draw_from_which_no_newton_step_leads_to_the_mode_keeps_its_own_step(top, x64):
    effects = jnp.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    errors = jnp.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    program = dtda.Program(funnel, effects, errors, top)
    nuts = dtda.kernels.nuts(num_warmup=20, num_samples=1)
    training = dtda.Training(program, nuts, dtda.measures.parameters())
    params = {"mu": jnp.array(3.0), "tau": jnp.array(-1.7)}
    outcome = Outcome(*one_state((params, *training.observe(params), jnp.zeros(1))), stats={})
    old, new = jnp.ones(8), jnp.ones(8).at[0].set(0.0)
    carried = last(carry(dtda.influence(training, at="old"), outcome, old, new).params)
    (gradient, hessian), (there, _) = (derivatives(program, params, weights) for weights in (old, new))
    change = jax.tree.map(np.subtract, there, gradient)
    matrix = np.array([[hessian[a][b] for b in ("mu", "tau")] for a in ("mu", "tau")])
    assert 100 < -np.linalg.solve(matrix, [gradient["mu"], gradient["tau"]])[1] < 300  # of log tau
    expected = -np.linalg.solve(matrix, [change["mu"], change["tau"]])
    moved = [carried[name] - params[name] for name in ("mu", "tau")]
    np.testing.assert_allclose(moved, expected, rtol=1e-3)
