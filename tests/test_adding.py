"""New data as weights: the bigger program in the end, the program as it is to begin with."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.programs import NUM, schools
from cases.programs import Y as SCORES
from tables import KERNELS, NOISE, NUM_DATA, PRIOR, draw, pull, queries, regression, regression_data

import dtda_prob as dtda

KEY = jax.random.key(0)
close = np.testing.assert_allclose
ROWS = {"x": np.array([[1.0, 0.5, -1.0], [0.2, -0.4, 2.0]]), "y": np.array([3.0, -2.0])}
MORE = dtda.add(regression(), ROWS, together=True)


def bigger(**options):
    x, y = regression_data()
    x, y = np.concatenate([x, ROWS["x"]]), np.concatenate([y, ROWS["y"]])
    return dtda.Program(dtda.zoo.linear_regression, x, y=y, noise=NOISE, prior=PRIOR, **options)


def trained(program, kernel, weights, measure=None):
    return draw(bound(program, kernel, measure), jnp.asarray(weights)).value


@cache
def bound(program, kernel, measure):
    return dtda.Training(program, KERNELS[kernel], measure or queries())


@pytest.mark.parametrize("kernel", ["sgd by epoch", "exact"])
def test_weight_one_is_the_bigger_program(kernel):
    close(
        trained(MORE.program, kernel, MORE.weights[0]),
        trained(bigger(), kernel, np.ones(NUM_DATA + 2)),
        rtol=1e-4,
    )


def test_to_begin_with_posteriors_are_those_without_the_new_rows():
    before = trained(MORE.program, "exact", MORE.program.initial_weights)
    close(before, trained(regression(), "exact", np.ones(NUM_DATA)), rtol=1e-4)
    assert not np.allclose(before, trained(MORE.program, "exact", MORE.weights[0]), rtol=1e-2)


def test_the_objective_to_begin_with_is_the_same_up_to_the_number_of_rows():
    program, params = MORE.program, regression().init(KEY)
    ones, share = jnp.ones(NUM_DATA), NUM_DATA / (NUM_DATA + 2)
    found = jax.jit(program.objective)(params, jnp.asarray(program.initial_weights))
    close(found, share * jax.jit(regression().objective)(params, ones), rtol=1e-5)
    assert (program.num_rows, program.num_slots) == (NUM_DATA + 2, NUM_DATA + 2)
    close(program.full_weights(), program.initial_weights)


def test_a_kernel_of_a_number_of_steps_keeps_it():
    def steps(program):
        kernel = KERNELS["sgd by independent batches"]
        return dtda.Training(program, kernel, queries()).kernel.count_steps(program)

    assert steps(MORE.program) == steps(regression())


def test_dropping_from_a_program_with_new_rows_is_dropping_from_the_program():
    without = dtda.remove(MORE.program, [4], removal="drop")
    left = MORE.program.drop(int((without == 0).sum()))
    assert left.num_rows == NUM_DATA - 1
    close(left.full_weights(), MORE.program.initial_weights * (NUM_DATA - 1) / NUM_DATA)


def test_influence_gives_the_gradients_of_the_new_rows(x64):
    """On a program with a closed form: minus H^-1 times each new row's gradient."""
    more = dtda.add(regression(), ROWS)
    training = dtda.Training(
        more.program, dtda.kernels.exact(temperature=0.0), dtda.measures.parameters()
    )
    found = pull(dtda.influence(training, at="old"), jnp.asarray(more.program.initial_weights))
    x, y = regression_data()
    hessian = x.T @ x / NOISE**2 + np.eye(3) / PRIOR**2
    mode = np.linalg.solve(hessian, x.T @ y / NOISE**2)
    residuals = ROWS["y"] - ROWS["x"] @ mode
    expected = np.linalg.solve(hessian, ROWS["x"].T * residuals / NOISE**2)
    close(np.asarray(found)[:, NUM_DATA:], expected, rtol=1e-6)


def test_new_data_are_named_and_added_one_by_one():
    named = regression(labels=[f"row {i}" for i in range(NUM_DATA)])
    assert dtda.add(named, ROWS).program.labels[-2:].tolist() == ["new 0", "new 1"]
    more = dtda.add(named, ROWS, labels=["a", "b"])
    assert more.weights["perturbation"].values.tolist() == ["a", "b"]
    close(more.weights.values - more.program.initial_weights, np.eye(NUM_DATA + 2)[-2:])
    again = dtda.relabel(more.program, ["row 3"], {"y": [0.0]})
    assert (again.program.num_rows, again.program.num_data) == (NUM_DATA + 2, NUM_DATA + 3)


def test_new_data_bring_latent_sites_of_their_own():
    program = dtda.Program(schools, SCORES)
    more = dtda.add(program, {"y": np.array([2.0, 3.0])}, together=True)
    assert jax.tree.map(jnp.shape, more.program.init(KEY)) == {"centre": (), "level": (NUM + 2,)}
    centre = dtda.measures.function(lambda values: values["centre"][None])
    alone = trained(program, "exact mode", np.ones(NUM), centre)
    close(trained(more.program, "exact mode", more.program.initial_weights, centre), alone, rtol=1e-4)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({}, {}, "name some of the arguments"),
        ({"z": np.ones(2)}, {}, "name some of the arguments"),
        ({"x": ROWS["x"]}, {}, "leaves out argument 'y'"),
        ({"x": ROWS["x"], "y": np.ones(3)}, {}, "as many rows for each argument"),
        ({"x": np.ones((2, 5)), "y": np.ones(2)}, {}, r"must have shape \(2, 3\)"),
        (ROWS, {"labels": ["a"]}, "one per new row, 2"),
        (ROWS, {"labels": [0, 1]}, "labels must differ"),
        (ROWS, {"labels": ["a", "b"]}, "like the program's own"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, options, message):
    with pytest.raises(ValueError, match=message):
        dtda.add(regression(), rows, **options)
