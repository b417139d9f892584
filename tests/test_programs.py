"""Laws over programs of every kind, against log likelihoods by hand."""

import copy
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpyro import handlers
from numpyro.infer.util import potential_energy
from programs import NUM, PROGRAMS, bind

import dtda_prob as dtda

each = pytest.mark.parametrize("name", PROGRAMS)
WEIGHTS = jnp.array([0.5, 0.0, 2.0, 1.0, 1.5, 3.0])
TRAINED = ["eight schools", "groups as data", "masked by handler", "scanned", "mixture"]
ORDER = jnp.array([3, 0, 5, 1, 4, 2])


def close(actual, desired, tolerance=1e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), actual, desired)


@cache
def found(name):
    """Everything the laws speak of, compiled once for each program."""
    program, changed = bind(name), copy.copy(bind(name))
    changed.args = jax.tree.map(jnp.asarray, PROGRAMS[name].changed)

    def everything(params):
        def loss(params, weights, indices=None, program=program):
            return program.objective(params, weights, indices)

        slope = jax.value_and_grad(loss)
        batches = ORDER.reshape(3, 2)
        rows = jnp.stack([WEIGHTS, jnp.zeros(NUM), jnp.ones(NUM)])
        at_rows = jax.vmap(slope, (None, 0))(params, rows)

        def several(k):
            return jax.tree.map(lambda leaf: leaf[k], at_rows)

        return {
            **dict(zip(("whole", "nothing", "ones"), (several(k) for k in range(3)), strict=True)),
            "changed": slope(params, WEIGHTS, program=changed),
            "batches": jax.vmap(lambda i: slope(params, WEIGHTS, i))(batches),
            "shuffled": slope(params, WEIGHTS, ORDER),
            "losses": program.losses(params),
            "gradients": program.gradients(params),
        }

    params = program.init(jax.random.key(1))
    return program.constrain(params), jax.jit(everything)(params)


@each
def test_losses_are_minus_the_log_likelihoods_by_hand(name):
    values, laws = found(name)
    close(laws["losses"], -np.asarray(PROGRAMS[name].log_likelihood(values)))


@each
def test_objective_is_linear_in_the_weights(name):
    laws = found(name)[1]
    close(laws["whole"][0], laws["nothing"][0] + WEIGHTS @ laws["losses"] / NUM)


@each
def test_what_is_observed_of_a_datum_of_weight_zero_does_not_matter(name):
    laws = found(name)[1]
    close(laws["changed"], laws["whole"])
    assert np.isfinite(laws["whole"][0])


@each
def test_batches_average_to_the_objective_and_its_gradient(name):
    laws = found(name)[1]
    close(jax.tree.map(lambda leaf: leaf.mean(0), laws["batches"]), laws["whole"])
    close(laws["shuffled"], laws["whole"])


@each
def test_gradients_of_data_add_up(name):
    laws = found(name)[1]
    total = jax.tree.map(lambda leaf: leaf.sum(0) / NUM, laws["gradients"])
    prior = laws["nothing"][1]
    close(jax.tree.map(jnp.add, total, prior), laws["ones"][1])


@each
def test_latent_sites_of_a_datum_are_known(name):
    assert set(bind(name).local) == set(PROGRAMS[name].local)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if PROGRAMS[name].by_numpyro])
def test_numpyro_agrees_at_weights_one(name):
    program, params = bind(name), bind(name).init(jax.random.key(1))
    model = handlers.seed(PROGRAMS[name].model, jax.random.key(0))
    close(potential_energy(model, program.args, {}, params), NUM * found(name)[1]["ones"][0])


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_is_compiled_and_mapped_over_keys(name):
    kernel = dtda.kernels.sgd(optax.sgd(1e-3), num_epochs=1, batch_size=2)
    training = dtda.Training(bind(name), kernel, dtda.measures.parameters())
    keys = jax.random.split(jax.random.key(0), 2)
    draws = jax.jit(jax.vmap(training.draw, (0, None)))(keys, WEIGHTS)
    assert np.isfinite(draws.value).all()
