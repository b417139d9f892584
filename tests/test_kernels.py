"""Kernels beyond those of the laws' table: a few laws each, and what each of them is for."""

import copy
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer.autoguide import (
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)
from tables import (
    FIXED,
    MORE_KERNELS,
    NOISE,
    PRIOR,
    direction,
    ones,
    regression,
    regression_data,
    train,
)

import dtda_prob as dtda
from dtda_prob import kernels
from dtda_prob.kernels import kernel as loop

KEY, OTHER_KEY = jax.random.key(0), jax.random.key(1)
close = np.testing.assert_allclose
ADAM, PARAMETERS = optax.adam(0.05), dtda.measures.parameters()

more_kernels = pytest.mark.parametrize("kernel", MORE_KERNELS)


@cache
def compiled(kernel: str):
    """Compile one draw as a function of key, weights and observations."""
    training = train(MORE_KERNELS[kernel])

    def value(key, weights, y):
        program = copy.copy(training.program)
        program.kwargs = program.kwargs | {"y": y}
        return training.observe(kernels.run(training.kernel, key, program, weights).params)[1]

    y = jnp.asarray(regression_data()[1])
    return training, jax.jit(value), y


@more_kernels
def test_a_draw_depends_on_key_and_weights_and_on_no_datum_of_weight_zero(kernel, x64):
    _, value, y = compiled(kernel)
    first = value(KEY, ones(), y)
    assert first.dtype == jnp.float64
    assert (first == value(KEY, ones(), y)).all()
    assert jnp.allclose(first, value(OTHER_KEY, ones(), y), rtol=1e-6) == (kernel in FIXED)
    without = ones().at[3].set(0.0)
    assert not jnp.allclose(first, value(KEY, without, y), rtol=1e-4)
    close(value(KEY, without, y.at[3].set(100.0)), value(KEY, without, y), rtol=1e-8)


@more_kernels
def test_the_response_is_the_finite_difference(kernel, x64):
    training, value, y = compiled(kernel)
    step = 1e-4 * direction()
    above, below = (value(KEY, ones() + sign * step, y) for sign in (1, -1))
    response = jax.jit(dtda.unroll(training).pull)(KEY, ones())
    close(2 * response @ step, above - below, rtol=1e-5, atol=1e-10)


@more_kernels
def test_a_draw_is_single_precision_by_default(kernel):
    assert jax.eval_shape(train(MORE_KERNELS[kernel]).draw, KEY, ones()).value.dtype == jnp.float32


# Kernels that end at rest.


def test_laplace_is_exact_where_the_objective_is_quadratic(x64):
    exact, approximate = (kernels.exact(temperature=0.5), MORE_KERNELS["laplace"])
    _, value, y = compiled("laplace")
    drawn = jax.jit(train(exact).draw)(KEY, ones()).value
    close(value(KEY, ones(), y), drawn, rtol=1e-8)
    assert approximate.phases[-1].temperature == 0.5


def saddle(y):
    """Two minima in one coordinate, and none of the likelihood's curvature in the other."""
    place = numpyro.param("place", lambda key: jax.random.normal(key, (2,)))
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(place[0] ** 2, 1.0), obs=y[i])


def test_a_flat_direction_moves_nothing_at_rest_and_has_no_laplace_draw(x64):
    program = dtda.Program(saddle, jnp.array([0.8, 1.0, 1.3]))
    keys = jax.random.split(KEY, 8)

    def rest(keys, weights):
        return jax.vmap(lambda key: loop.run(kernels.lbfgs(), key, program, weights).params["place"])(
            keys
        )

    found, moved = jax.jit(lambda w: jax.jvp(lambda w: rest(keys, w), (w,), (w * jnp.arange(3.0),)))(
        jnp.ones(3)
    )
    root = jnp.mean(program.args[0]) ** 0.5
    close(jnp.abs(found[:, 0]), root, rtol=1e-8)
    assert len(set(np.sign(found[:, 0]))) == 2
    y, along = program.args[0], jnp.arange(3.0)
    shift = (along @ (y - y.mean()) / 3) / (2 * root)
    close(moved[:, 0], np.sign(found[:, 0]) * shift, rtol=1e-6)
    close(moved[:, 1], 0.0)
    training = dtda.Training(program, kernels.laplace(), dtda.measures.parameters())
    ended = jax.jit(lambda w: training.stats(training.draw(KEY, w), w))(jnp.ones(3))
    assert ended["diverging"]


def logistic(x, y):
    slopes = numpyro.sample("slopes", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Bernoulli(logits=x[i] @ slopes), obs=y[i])


def test_the_response_at_rest_is_influence(x64):
    x, y = regression_data()
    program = dtda.Program(logistic, x, (y > 0).astype(int))
    training = dtda.Training(program, kernels.lbfgs(), dtda.measures.parameters())
    responses = [
        jax.jit(make(training).pull)(KEY, 0.7 * ones()) for make in (dtda.unroll, dtda.influence)
    ]
    close(*responses, rtol=1e-8)


def test_a_search_says_how_it_ended(x64):
    program = regression()

    def ending(kernel):
        (phase,) = kernel.phases
        state = phase.init(loop.Start(program.init(KEY)), program)
        assert not phase.stats(state)["converged"]
        return phase.stats(jax.jit(lambda: phase.step(KEY, state, program, ones())[0])())

    done, cut = ending(kernels.lbfgs()), ending(kernels.lbfgs(max_steps=1))
    assert done["converged"]
    assert done["gradient_norm"] < 2e-12
    assert (not cut["converged"], cut["num_steps"]) == (True, 1)
    assert cut["gradient_norm"] > 1e-6
    assert train(kernels.lbfgs()).num_passes() == pytest.approx(int(done["num_gradients"]), abs=3)


# Averages, given parameters, few digits.


def test_averages_are_those_of_the_iterates(x64):
    """Shares of the eight iterates: exponential, and the same over the last half."""
    kernel, program = kernels.keep(kernels.sgld(1e-3, num_steps=8, batch_size=4), 8), regression()
    several = [kernels.average(kernels.keep(kernel, 1), **o) for o in ({"decay": 0.8}, {"share": 0.5})]

    @jax.jit
    def ends():
        runs = [loop.run(each, KEY, program, ones()) for each in (kernel, *several)]
        return [run.params["slopes"] for run in runs]

    iterates, exponential, late = ends()
    shares = 0.8 ** np.arange(7.0, -1.0, -1.0)
    close(exponential, shares @ iterates / shares.sum(), rtol=1e-12)
    close(late, iterates[4:].mean(0), rtol=1e-12)
    assert several[0].phases[-1].temperature is None


def spread(y):
    scale = numpyro.sample("scale", dist.HalfNormal())
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(0.0, scale), obs=y[i])


def test_what_is_given_is_what_training_starts_from(x64):
    """On the site's own support; no datum moves it, and an optimizer may leave it as it is."""
    program, measure = dtda.Program(spread, np.ones(4)), dtda.measures.parameters()
    training = dtda.Training(program, kernels.given({"scale": 2.0}), measure)
    response, drawn = jax.jit(lambda w: (dtda.unroll(training).pull(KEY, w), training.draw(KEY, w)))(
        jnp.ones(4)
    )
    close(program.constrain(drawn.params)["scale"], 2.0, rtol=1e-12)
    close(response, 0.0)


def test_few_digits_are_those_of_the_gradient_alone(x64):
    """A step is that of the rounded gradient, and updates below half a bfloat16 are not lost."""
    rate, program = 1e-4, regression()
    kernel = kernels.in_precision(kernels.sgd(optax.sgd(rate), num_steps=1))
    start = {"slopes": jnp.array([1.0, -1.0, 0.3])}
    moved = jax.jit(lambda: loop.run(kernel, KEY, program, ones(), start).params["slopes"])()
    assert moved.dtype == jnp.float64
    gradient = (start["slopes"] - moved) / rate
    assert (gradient != 0).all()
    close(gradient, gradient.astype(jnp.bfloat16).astype(float), rtol=1e-8)
    exact = jax.grad(program.objective)(start, ones())["slopes"]
    close(gradient, exact, rtol=0.03, atol=0.03)
    assert (jnp.abs(gradient - exact) > 1e-6).any()


# What a model draws by itself.


def dropout(x, y=None, train=True):
    """Drop features and jitter them while training."""
    slopes = numpyro.sample("slopes", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("data", len(x)) as i:
        inputs = x[i]
        if train:
            mask_key, jitter_key = jax.random.split(numpyro.prng_key())
            kept = jax.random.bernoulli(mask_key, 0.5, inputs.shape)
            inputs = 2 * kept * (inputs + 0.1 * jax.random.normal(jitter_key, inputs.shape))
        numpyro.sample("y", dist.Normal(inputs @ slopes, 0.5), obs=None if y is None else y[i])


def test_masks_are_the_keys_whatever_the_weights(x64):
    x, y = regression_data()
    program = dtda.Program(dropout, x, y=y)
    kernel = kernels.sgd(optax.sgd(0.05), num_steps=6, batch_size=4)
    training = dtda.Training(program, kernel, dtda.measures.prediction(x[:4], train=False))
    value = jax.jit(lambda key, w: training.draw(key, w).value)
    first, step = value(KEY, ones()), 1e-5 * direction()
    assert (first == value(KEY, ones())).all()
    assert not jnp.allclose(first, value(OTHER_KEY, ones()), rtol=1e-3)
    response = jax.jit(dtda.unroll(training).pull)(KEY, ones())
    close(
        2 * response @ step,
        value(KEY, ones() + step) - value(KEY, ones() - step),
        rtol=1e-6,
        atol=1e-12,
    )
    slopes = jnp.arange(3.0)
    close(training.observe({"slopes": slopes})[1], x[:4] @ slopes, rtol=1e-10)
    loss = jax.jit(lambda key: program.objective({"slopes": slopes}, ones(), key=key))
    assert loss(KEY) == loss(KEY) != loss(OTHER_KEY)


# Variational inference.


def test_a_full_rank_guide_of_a_conjugate_posterior_is_that_posterior(x64):
    program = regression()
    rate = optax.cosine_decay_schedule(0.05, 1000)
    kernel = kernels.svi(AutoMultivariateNormal, optax.adam(rate), num_steps=1000, num_particles=16)
    (phase,) = kernel.phases

    @jax.jit
    def fit():
        def step(state, key):
            return phase.step(key, state, program, ones())[0], None

        begun = phase.init(loop.Start(program.init(KEY)), program)
        state, _ = jax.lax.scan(step, begun, jax.random.split(KEY, 1000))
        draws = jax.vmap(lambda key: state.draw(key, state.variational)["slopes"])
        return draws(jax.random.split(OTHER_KEY, 20_000))

    found, (x, y) = fit(), regression_data()
    covariance = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(3) / PRIOR**2)
    spread = np.sqrt(np.diag(covariance))
    close(found.mean(0), covariance @ x.T @ y / NOISE**2, atol=0.05 * spread.min())
    close(np.cov(found.T) / np.outer(spread, spread), covariance / np.outer(spread, spread), atol=0.06)


def other_guide(x, y=None, **options):
    numpyro.sample("intercept", dist.Normal())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kernels.svi(AutoNormal, ADAM, num_steps=2, num_particles=0), "num_particles=0"),
        (lambda: kernels.svi(AutoNormal, ADAM), "one of num_steps and num_epochs"),
        (lambda: kernels.svi(lambda model: None, ADAM, num_steps=2), "must map a model to a guide"),
        (lambda: kernels.svi(lambda: None, ADAM, num_steps=2), "with a model alone"),
        (lambda: kernels.svi(AutoLaplaceApproximation, ADAM, num_steps=2), "kernels.laplace"),
        (lambda: train(kernels.svi(lambda model: other_guide, ADAM, num_steps=2)), "intercept"),
        (lambda: kernels.in_precision(kernels.svi(AutoNormal, ADAM, num_steps=2)), "ELBO of a guide"),
        (lambda: kernels.in_precision(kernels.exact(), jnp.int32), "floating type"),
        (lambda: kernels.average(kernels.exact()), "one of decay and share"),
        (lambda: kernels.average(kernels.exact(), decay=1.0), "decay=1"),
        (lambda: kernels.average(kernels.exact(), share=0.0), "share=0"),
        (lambda: train(kernels.given({"slope": np.ones(3)})), "no sites"),
        (lambda: train(kernels.given({"slopes": np.ones(2)})), "has shape"),
        (
            lambda: train(kernels.given({"scale": -1.0}), dtda.Program(spread, np.ones(4)), PARAMETERS),
            "not inside the site's support",
        ),
        (lambda: kernels.laplace(temperature=-1.0), "temperature=-1"),
        (lambda: kernels.lbfgs(max_steps=0), "max_steps=0"),
        (lambda: kernels.lbfgs(solve="cholesky"), "solve='cholesky'"),
    ],
)
def test_bad_settings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
