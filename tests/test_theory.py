"""Theorems of the paper (arXiv 2506.12965) where both sides can be had exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

import dtda_prob as dtda
from dtda_prob import curvature, kernels

KEY = jax.random.key(0)
NUM_DATA = 20


def logistic(x, y):
    """Have no prior: slopes that no example sees stay where they started."""
    slopes = numpyro.param("slopes", lambda key: jax.random.normal(key, (x.shape[1],)))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Bernoulli(logits=x[i] @ slopes), obs=y[i])


def decaying(num_steps: int) -> optax.GradientTransformation:
    return optax.sgd(lambda count: 2.0 / (1 + count / 50) ** 0.75)


def test_unrolled_responses_tend_to_the_pseudo_inverse_as_sgd_with_decaying_steps_converges(x64):
    """Four features of rank two: exactly on all data, and as the root of the step size on batches."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_DATA, 2)) @ rng.normal(size=(2, 4)) / 2
    y = (x[:, 0] + rng.normal(size=NUM_DATA) > 0).astype(float)
    program, slopes = dtda.Program(logistic, jnp.asarray(x), jnp.asarray(y)), dtda.measures.parameters()

    def distances(num_steps: int, batch_size: int | None) -> list[float]:
        kernel = kernels.sgd(decaying, num_steps=num_steps, batch_size=batch_size)
        training = dtda.Training(program, kernel, slopes)
        made = dtda.unroll(training), dtda.influence(training), dtda.influence(training, damped)
        pull = jax.jit(lambda key: [each.pull(key, jnp.ones(NUM_DATA)) for each in made])
        unrolled, *others = pull(KEY)
        norm = jnp.linalg.norm(others[0])
        return [float(jnp.linalg.norm(unrolled - other) / norm) for other in others]

    damped = curvature.dense(damping=0.01)
    long, batches = (distances(*each) for each in ((300, None), (3000, 5)))
    assert long[0] < 1e-4
    assert long[1] > 0.1
    assert batches[0] < 0.1


def square(place):
    return place[0] ** 2 + 4 * place[1] ** 2


def ring(y):
    """Have an ellipse of minima."""
    place = numpyro.param("place", lambda key: jax.random.normal(key, (2,)))
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(square(place), 1.0), obs=y[i])


def ring_of_minima() -> tuple[dtda.Program, jax.Array, jax.Array]:
    y = 0.5 * np.random.default_rng(0).normal(size=NUM_DATA)
    old = jnp.ones(NUM_DATA)
    return dtda.Program(ring, jnp.asarray(1 + y - y.mean())), old, old.at[y.argmax()].add(-0.02)


def across(program, old, new, theta):
    """Return influence by the pseudo-inverse of the Gauss-Newton matrix, which is of rank one."""
    slope = jax.grad(square)(theta)
    change = [jax.grad(program.objective)({"place": theta}, w)["place"] for w in (new, old)]
    return -slope * (slope @ (change[0] - change[1])) / (slope @ slope) ** 2


def test_influence_is_the_displacement_of_least_divergence_as_the_temperature_falls(x64):
    """KL(pushed || new) by quadrature: influence's alone vanishes beside that of standing still."""
    program, old, new = ring_of_minima()
    influence = partial(across, program, old, new)

    @jax.jit
    def divergence(temperature, multiple):
        spread = 6 * (temperature / NUM_DATA) ** 0.5
        squares = 1 + spread * jnp.linspace(-1, 1, 120)
        angle = 2 * jnp.pi * jnp.arange(24) / 24
        radius, angle = jnp.meshgrid(jnp.sqrt(squares), angle, indexing="ij")
        theta = jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle) / 2], -1).reshape(-1, 2)

        def log_density(theta, weights):
            return -NUM_DATA * program.objective({"place": theta}, weights) / temperature

        def moved(theta):
            return theta + multiple * influence(theta)

        before, after = (jax.vmap(lambda t, w=w: log_density(t, w))(theta) for w in (old, new))
        there = jax.vmap(lambda t: log_density(moved(t), new))(theta)
        stretch = jax.vmap(lambda t: jnp.linalg.slogdet(jax.jacfwd(moved)(t))[1])(theta)
        log_old = before - jax.nn.logsumexp(before)
        return jnp.exp(log_old) @ (log_old - there + jax.nn.logsumexp(after) - stretch)

    shares = []
    for temperature in (1e-2, 1e-4):
        still, *several = (divergence(temperature, multiple) for multiple in (0.0, 1.0, 0.5, 1.5))
        shares.append(several[0] / still)
        assert (jnp.array(several[1:]) > 0.2 * still).all()
    assert 0 < shares[1] < shares[0] / 50 < 1e-3 / 50


def test_influence_on_a_ring_of_minima_is_the_pseudo_inverse_at_each_draw(x64):
    program, old, new = ring_of_minima()
    place = jnp.array([0.6, 0.4])
    training = dtda.Training(program, kernels.pretrained({"place": place}), dtda.measures.parameters())
    made = dtda.influence(training, curvature.dense("gauss_newton"), at="old", space="parameters")
    moved = jax.jit(made.push)(KEY, old, new).params["place"][0] - place
    np.testing.assert_allclose(moved, across(program, old, new, place), rtol=1e-8)
