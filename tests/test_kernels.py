"""Kernels beyond those of the laws' table: a few laws each, and what each of them is for."""

import copy
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from tables import FIXED, MORE_KERNELS, direction, ones, regression, regression_data, train

import dtda_prob as dtda
from dtda_prob import kernels
from dtda_prob.kernels import kernel as loop

KEY, OTHER_KEY = jax.random.key(0), jax.random.key(1)
close = np.testing.assert_allclose

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
