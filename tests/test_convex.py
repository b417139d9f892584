"""Gauss-Newton steps: the same draws, and another second derivative in their response."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
from cases.networks import NETWORKS
from cases.networks import X as IMAGES
from cases.networks import Y as LABELS
from jax.flatten_util import ravel_pytree
from tables import NUM_DATA, draw, network, ones, pull, push, train, train_network

import dtda_prob as dtda
from dtda_prob import curvature, kernels
from dtda_prob.curvature.quadratic import Quadratic
from dtda_prob.program.convex import convex

close = np.testing.assert_allclose
KEY = jax.random.key(0)
BATCH = jnp.array([4, 1, 2, 7])


@pytest.mark.parametrize("indices", [None, BATCH])
def test_the_derivative_of_the_gradient_is_the_gauss_newton_matrix(indices, x64):
    program, weights = network(), jnp.linspace(0.5, 1.5, NUM_DATA)
    curvature.dense("gauss_newton").check(program)
    steps = convex(program)
    theta, unravel = ravel_pytree(program.init(KEY))
    visited = jnp.arange(NUM_DATA) if indices is None else indices
    share = NUM_DATA / len(visited)
    seen = jnp.zeros_like(weights).at[visited].set(share * weights[visited])

    def gradient(of, theta):
        return ravel_pytree(jax.grad(of.objective)(unravel(theta), weights, indices))[0]

    @jax.jit
    def all_of_them(theta):
        own = lambda theta: gradient(steps, theta)  # noqa: E731
        h = Quadratic(program, curvature.gauss_newton(), KEY, unravel(theta), seen)
        rows = jax.vmap(lambda v: ravel_pytree(h.product(unravel(v)))[0])(jnp.eye(theta.size))
        return (
            own(theta),
            gradient(program, theta),
            jax.jacfwd(own)(theta),
            jax.jacrev(own)(theta),
            rows,
        )

    one, other, forward, reverse, expected = all_of_them(theta)
    close(one, other, rtol=1e-12)
    close(forward, expected, atol=1e-12)
    close(reverse, expected, atol=1e-12)
    assert np.linalg.eigvalsh(expected).min() > -1e-12


def test_where_outputs_are_linear_gauss_newton_steps_are_exact(x64):
    """Priors, momentum, second moments and clipping are then the same in both."""
    training = train("adamw, clipped, warmed up")
    exact, steps = (dtda.unroll(training, matrix=m) for m in ("hessian", "gauss_newton"))
    close(pull(steps, ones()), pull(exact, ones()), rtol=1e-9, atol=1e-12)


def test_gauss_newton_steps_leave_draws_as_they_are(x64):
    training, weights = train_network(), ones(network().num_data)
    steps = dtda.unroll(training, matrix="gauss_newton")
    alone = jax.jit(lambda w: steps.draw(KEY, w).value[-1])(weights)
    close(alone, draw(training, weights).value, rtol=0, atol=0)


def test_gauss_newton_steps_go_through_batch_normalisation():
    """With one step from a given start, the response is the exact one but for rounding."""
    program = dtda.Program(NETWORKS["nnx"].model, IMAGES, y=LABELS, evaluation={"train": False})
    kernel = kernels.sgd(optax.sgd(0.3, momentum=0.9), num_steps=1, batch_size=6)
    training = dtda.Training(program, kernel, dtda.measures.loss(IMAGES, y=LABELS))
    exact, steps = (dtda.unroll(training, matrix=m) for m in ("hessian", "gauss_newton"))
    close(pull(steps, ones(len(IMAGES))), pull(exact, ones(len(IMAGES))), rtol=1e-3, atol=1e-5)


def test_gauss_newton_steps_stay_in_range_at_the_edge_of_stability():
    """Two hundred digits at a rate that is too large: exact derivatives explode, these do not."""
    split = dtda.zoo.digits()
    x, y = split.x_train[:200], split.y_train[:200]
    program = dtda.Program(dtda.zoo.classifier([8], 10), x, y=y)
    kernel = kernels.sgd(optax.sgd(0.4, momentum=0.9), num_steps=100, batch_size=20)
    training = dtda.Training(program, kernel, dtda.measures.loss(split.x_test[:8], y=split.y_test[:8]))
    exact, steps = (dtda.unroll(training, matrix=m) for m in ("hessian", "gauss_newton"))
    lengths = [np.linalg.norm(pull(each, ones(200))) for each in (exact, steps)]
    assert lengths[0] > 30 * lengths[1]


def test_gauss_newton_steps_are_refused_where_they_have_no_matrix():
    training = train("sgd by epoch")
    with pytest.raises(ValueError, match=r"matrix='fisher' must be one of"):
        dtda.unroll(training, matrix="fisher")
    with pytest.raises(ValueError, match="the kernel minimises"):
        dtda.unroll(train("variational"), matrix="gauss_newton")

    def by_factor(x):
        slope = numpyro.param("slope", jnp.ones(()))
        with numpyro.plate("data", len(x)) as i:
            numpyro.factor("loss", -((slope * x[i]) ** 2))

    program = dtda.Program(by_factor, jnp.ones(4))
    alone = dtda.Training(program, training.kernel)
    with pytest.raises(ValueError, match=r"numpyro\.factor"):
        dtda.unroll(alone, matrix="gauss_newton")


def test_a_factor_multiplies_the_response():
    training = train("sgd by epoch")
    once, thrice = dtda.unroll(training), dtda.unroll(training, factor=3.0)
    close(pull(thrice, ones()), 3 * pull(once, ones()), rtol=1e-5)
    options = {"at": "old", "space": "measurement"}
    half, whole = dtda.influence(training, factor=0.5, **options), dtda.influence(training, **options)
    moved, expected = push(half, ones(), 0.5 * ones()), push(whole, ones(), 0.75 * ones())
    close(moved.value, expected.value, rtol=1e-4)


def test_a_multiple_of_the_automatic_damping_is_a_number_for_sgd():
    training = train("sgd by epoch")
    number = 2.0 / training.total_step_size()
    settled = [curvature.dense(damping=d) for d in (curvature.auto(2.0), number)]
    close(*(pull(dtda.influence(training, each), ones()) for each in settled), rtol=1e-6)
    with pytest.raises(ValueError, match="factor=0"):
        curvature.auto(0)
