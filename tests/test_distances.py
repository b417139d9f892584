"""How far each parameter moves in training, and the responses that take it for their unit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases.kernels import CASES
from tables import draw, network, ones, pull, regression, train

import dtda_prob as dtda
from dtda_prob import curvature, kernels
from dtda_prob.kernels.distances import DISTANCE, with_distances

KEY = jax.random.key(0)
RATES = np.array([0.1, 0.3, 0.02])
MOMENTS = 1 / RATES**2
close = np.testing.assert_allclose


def distances(kernel, program):
    run = jax.jit(lambda: with_distances(kernel).run(KEY, program, ones()))()
    return run.params["slopes"][-1], run.stats[DISTANCE]["slopes"][-1]


@pytest.mark.parametrize("name", ["phases", "average", "in precision", "sgld"])
def test_where_steps_are_multiples_of_the_gradient_distances_are_their_total_size(name, x64):
    training = train(name)
    params, moved = distances(training.kernel, training.program)
    close(params, draw(training, ones()).params["slopes"], rtol=1e-10)
    close(moved, training.total_step_size(), rtol=1e-3)


def test_distances_of_clipped_adamw_hold_its_second_moments_and_clipping_factors(x64):
    """The recursion of the optimizer for a gradient that is larger by 1, written down by hand."""
    training = train("adamw, clipped, warmed up")
    program, num_steps, (b1, b2) = training.program, 8, (0.9, 0.999)
    chosen = optax.chain(optax.clip_by_global_norm(0.3), optax.adamw(0.1, b1, b2, weight_decay=0.5))
    kernel = kernels.sgd(chosen, num_steps=num_steps)
    start = program.init(jax.random.split(KEY)[0])["slopes"]
    ends = jax.jit(lambda: kernel.path(KEY, program, ones(), num_steps).ends["slopes"])()
    gradient = jax.jit(jax.grad(lambda slopes: program.objective({"slopes": slopes}, ones())))
    moment = second = moved = np.zeros(3)
    for count, params in enumerate([start, *ends[:-1]], 1):
        g = np.asarray(gradient(params))
        factor = min(1.0, 0.3 / np.linalg.norm(g))
        moment, second = b1 * moment + (1 - b1) * factor, b2 * second + (1 - b2) * (factor * g) ** 2
        root = np.sqrt(second / (1 - b2**count)) + 1e-8
        moved = moved + 0.1 * (moment / (1 - b1**count) / root - 0.5 * moved)
    params, found = distances(kernel, program)
    close(params, ends[-1], rtol=1e-10)
    close(found, moved, rtol=1e-9)


def _with_moments(made):
    """Return a transformation with second moments that hardly move."""

    def init(params):
        state = made.init(params)
        return state._replace(nu={"slopes": jnp.asarray(MOMENTS)}, count=jnp.array(10**10))

    return optax.chain(optax.GradientTransformation(init, made.update), optax.scale(-1.0))


CONSTANT = _with_moments(optax.scale_by_adam(b1=0.5, b2=1 - 1e-9, eps=1e-3))
"""Adam whose preconditioner is constant, and differs between parameters."""


def test_responses_in_the_geometry_of_the_optimizer_are_those_of_its_steps_on_a_quadratic(x64):
    """`segments` at any rate, `trajectory` while little moves, `influence` there and at rest.

    Training starts at the minimum, so that gradients do not change on the way.
    """
    program, whole = regression(), curvature.dense(damping="auto")
    mode = jax.jit(lambda: kernels.exact(temperature=0.0).run(KEY, program, ones()).params)()
    start = kernels.pretrained({"slopes": np.asarray(mode["slopes"][-1])})
    rates = {1e-6: "segments trajectory influence", 1e-3: "segments", 1.0: "influence"}
    for rate, exact in rates.items():
        steps = kernels.sgd(CONSTANT, learning_rate=rate, num_steps=10_000)
        kernel = kernels.sequence(start, steps)
        training = dtda.Training(program, kernel, dtda.measures.parameters())
        unrolled = pull(dtda.unroll(training, at="old"), ones())
        responses = {
            "segments": dtda.segments(training, whole, num_segments=2, at="old"),
            "trajectory": dtda.trajectory(training, num_checkpoints=2, at="old"),
            "influence": dtda.influence(training, whole, at="old"),
        }
        for each in exact.split():
            error = np.linalg.norm(pull(responses[each], ones()) - unrolled)
            assert error < 0.02 * np.linalg.norm(unrolled), (each, rate)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (optax.lion(0.1), "a larger gradient does not lead to larger steps"),
        (optax.sign_sgd(0.1), "a larger gradient does not lead to larger steps"),
        (optax.rprop(0.1), "a larger gradient does not lead to larger steps"),
        (optax.contrib.muon(0.1), "mix parameters"),
        (optax.chain(optax.centralize(), optax.adam(0.1)), "mix parameters"),
    ],
)
def test_optimizers_that_take_signs_or_mix_parameters_have_no_distances(optimizer, message):
    training = train(kernels.sgd(optimizer, num_steps=4), network(), dtda.measures.parameters())
    with pytest.raises(ValueError, match=message):
        training.total_step_size()


def test_a_prior_is_left_to_the_damping_where_it_must_be_isotropic(x64):
    training = train("adamw, clipped, warmed up")
    whole, other = (
        pull(dtda.influence(training, chosen, at="old"), ones())
        for chosen in (curvature.dense("gauss_newton", damping="auto"), curvature.gram())
    )
    close(other, whole, rtol=1e-8)
    with pytest.raises(ValueError, match="a unit of its own"):
        dtda.segments(training, curvature.gram())


def test_each_state_has_its_own_distances_and_an_outcome_without_them_is_trained_again(x64):
    training = train(kernels.keep(CASES["adam on all data"].kernel, 3))
    made = dtda.influence(training, curvature.dense(damping="auto"), at="old")
    new = ones().at[3].set(0.0)

    @jax.jit
    def both(key):
        outcome = training.draw(key, ones())
        carried = made.carry(key, outcome, ones(), new)
        _, moved = made.states(key, outcome, ones())
        return outcome, carried, made.push(key, ones(), new), moved["slopes"]

    outcome, carried, pushed, moved = both(KEY)
    jax.tree.map(partial(close, rtol=1e-9), carried, pushed)
    assert carried.stats.keys() == outcome.stats.keys()
    assert moved.shape == (3, 3)
    assert (np.diff(moved, axis=0) > 0).all()
