"""The zoo's data sets and programs."""

from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dtda_prob as dtda

SPLIT = dtda.zoo.concrete()


def test_concrete_is_the_published_table():
    table = np.loadtxt(resources.files(dtda.zoo) / "concrete.csv", delimiter=",", skiprows=1)
    assert table.shape == (1030, 9)
    assert table[:, -1].mean() == pytest.approx(35.818, abs=5e-4)


def test_concrete_is_standardised_by_its_training_rows():
    assert [part.shape for part in SPLIT] == [(896, 8), (896,), (103, 8), (103,)]
    assert {part.dtype for part in SPLIT} == {np.dtype("float32")}
    for part in (SPLIT.x_train, SPLIT.y_train):
        np.testing.assert_allclose(part.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(part.std(axis=0), 1, rtol=1e-5)


def test_a_seed_names_a_split_of_concrete():
    np.testing.assert_array_equal(dtda.zoo.concrete().x_test, SPLIT.x_test)
    assert not np.array_equal(dtda.zoo.concrete(seed=1).y_test, SPLIT.y_test)


def test_radon_is_the_table_of_the_book():
    """Gelman and Hill (2007), chapter 12: 85 counties of Minnesota, St. Louis with 116 houses."""
    found = dtda.zoo.radon()
    assert {len(column) for column in found} == {919}
    assert (found.county == "St Louis").sum() == 116
    assert found.log_radon.mean() == pytest.approx(1.2646, abs=5e-4)
    assert found.floor.sum() == 153
    for name in np.unique(found.county):
        assert len(np.unique(found.uranium[found.county == name])) == 1


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (dtda.zoo.regressor([4], jnp.tanh, noise=0.5), SPLIT.y_train),
        (dtda.zoo.classifier([4], 2, jax.nn.gelu), (SPLIT.y_train > 0).astype(np.int32)),
    ],
)
def test_networks_train(model, y):
    program = dtda.Program(model, SPLIT.x_train[:16], y=y[:16])
    kernel = dtda.kernels.sgd(optax.sgd(0.05), num_steps=2, batch_size=8)
    training = dtda.Training(program, kernel, dtda.measures.loss(SPLIT.x_train[16:20], y=y[16:20]))
    outcome = jax.jit(training.draw)(jax.random.key(0), program.full_weights())
    assert outcome.value.shape == (1, 4)
    assert np.isfinite(outcome.value).all()


def test_the_noise_of_a_regressor_scales_its_errors():
    def losses(noise):
        program = dtda.Program(
            dtda.zoo.regressor([4], noise=noise), SPLIT.x_train[:8], y=SPLIT.y_train[:8]
        )
        return program.losses(program.init(jax.random.key(0)))

    normaliser = 0.5 * np.log(2 * np.pi)
    expected = 4 * (losses(1.0) - normaliser) + normaliser + np.log(0.5)
    np.testing.assert_allclose(losses(0.5), expected, rtol=1e-4, atol=1e-5)


def test_networks_of_equal_settings_are_one_model():
    """So that programs of them share what is compiled."""
    one, other = (dtda.zoo.classifier([3], 2) for _ in range(2))
    assert one == other != dtda.zoo.classifier([4], 2)
    assert hash(one) == hash(other)
    assert repr(dtda.zoo.regressor([3], noise=0.5)) == "regressor(widths=(3,), noise=0.5)"
