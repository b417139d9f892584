"""Counterfactual labels as weights: retraining with them, and what transforms predict."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from tables import (
    KERNELS,
    NOISE,
    NUM_DATA,
    PRIOR,
    draw,
    pull,
    queries,
    regression,
    regression_data,
)

import dtda_prob as dtda
from dtda_prob import evaluate
from dtda_prob.perturbations import num_removed

KEY, OTHER = jax.random.key(0), jax.random.key(1)
close = np.testing.assert_allclose
CHANGED, LABELS = [2, 7], np.array([3.0, -2.0])
EDIT = dtda.relabel(regression(), CHANGED, {"y": LABELS}, together=True)


ON_ALL_DATA = KERNELS["adam on all data"]


def trained(program, kernel, weights, key=KEY):
    return draw(bound(program, kernel), jnp.asarray(weights), key).value


@cache
def bound(program, kernel):
    return dtda.Training(program, KERNELS[kernel], queries())


def relabelled_by_hand():
    x, y = regression_data()
    y = y.copy()
    y[CHANGED] = LABELS
    return dtda.Program(dtda.zoo.linear_regression, x, y=y, noise=NOISE, prior=PRIOR)


@pytest.mark.parametrize("kernel", ["sgd by epoch", "adam on all data", "exact"])
def test_moving_weight_to_copies_is_training_on_other_labels(kernel):
    """With the same key: the same initialisation, batches and noise."""
    ones = np.ones(NUM_DATA)
    before = trained(EDIT.program, kernel, EDIT.program.initial_weights)
    after = trained(EDIT.program, kernel, EDIT.weights[0])
    close(before, trained(regression(), kernel, ones), rtol=1e-4)
    close(after, trained(relabelled_by_hand(), kernel, ones), rtol=1e-4)
    assert (np.abs(after - before) > 1e-3).all()


def test_a_kernel_of_a_number_of_steps_keeps_it():
    def steps(program):
        training = dtda.Training(program, KERNELS["sgd by independent batches"], queries())
        return training.kernel.count_steps(program)

    assert steps(EDIT.program) == steps(regression())


def test_removing_and_relabelling_at_once_drops_the_rows():
    weights = EDIT.weights * (np.arange(NUM_DATA + 2) != 4)
    weights.attrs["removal"] = "drop"
    assert num_removed(weights) == 3
    training = dtda.Training(EDIT.program, ON_ALL_DATA, queries())
    by_hand = dtda.Training(relabelled_by_hand(), ON_ALL_DATA, queries())
    without = dtda.remove(by_hand.program, [4], removal="drop")
    found, truth = (
        evaluate.retrainings(t, KEY, w, num_retrainings=2)["perturbed"]
        for t, w in ((training, weights), (by_hand, without))
    )
    close(found, truth, rtol=1e-4)


def test_other_perturbations_leave_copies_out():
    program = EDIT.program
    made = (
        dtda.remove(program, [0]),
        dtda.upweight(program, [0]),
        dtda.leave_one_out(program),
        dtda.random_subsets(program, KEY, 3, 4),
        dtda.groups(program, {"a": [0, 1]}),
        dtda.relabel(program, [5], {"y": [0.0]}).weights,
    )
    copies = [weights.values[..., NUM_DATA : NUM_DATA + 2] for weights in made]
    assert not any(copy.any() for copy in copies)
    assert made[2].shape == (NUM_DATA, NUM_DATA + 2)
    assert (made[3].sum("example") == 4).all()
    assert made[5].shape == (1, NUM_DATA + 3)


def test_relabelling_one_by_one_is_named_by_the_data():
    named = regression(labels=[f"row {i}" for i in range(NUM_DATA)])
    edit = dtda.relabel(named, ["row 2", "row 7"], {"y": LABELS})
    assert edit.weights["perturbation"].values.tolist() == ["row 2", "row 7"]
    assert edit.program.labels[-1] == "row 7 relabelled"
    expected = np.zeros((2, NUM_DATA + 2))
    expected[0, [2, NUM_DATA]] = expected[1, [7, NUM_DATA + 1]] = [-1, 1]
    close(edit.weights - edit.program.initial_weights, expected)


def test_the_response_is_the_difference_of_gradients(x64):
    """On a program with a closed form: H^-1 times the gradients' difference, by influence."""
    edit = dtda.relabel(regression(), CHANGED, {"y": LABELS}, together=True)
    measure = dtda.measures.parameters()
    training = dtda.Training(edit.program, dtda.kernels.exact(temperature=0.0), measure)
    found = pull(dtda.influence(training, at="old"), jnp.asarray(edit.program.initial_weights))
    step = np.asarray(found) @ (edit.weights.values[0] - edit.program.initial_weights)
    x, y = regression_data()
    hessian = x.T @ x / NOISE**2 + np.eye(3) / PRIOR**2
    close(step, np.linalg.solve(hessian, x[CHANGED].T @ (LABELS - y[CHANGED])) / NOISE**2, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:4 of 4 queries. all draws are the same model:RuntimeWarning")
def test_single_data_are_attributed_beside_copies_as_without_them():
    """A copy that is not there has no influence to lose, and stays away when another example goes."""
    mode = dtda.kernels.exact(temperature=0.0)
    plain, beside = (
        dtda.attribute(
            dtda.influence(dtda.Training(program, mode, queries()), at="old"),
            KEY,
            3,
            ["mean"],
            options=dtda.Options(check=False),
        )["score"].values
        for program in (regression(), EDIT.program)
    )
    assert beside.shape == plain.shape == (1, 4, NUM_DATA)
    close(beside, plain, rtol=1e-3, atol=1e-5)


REFUSED = {
    "unknown argument": ({"labels": LABELS}, r"changes names \['labels'\]"),
    "nothing": ({}, "changes names"),
    "too few rows": ({"y": LABELS[:1]}, r"must have shape \(2,\); got \(1,\)"),
    "not of data": ({"noise": LABELS}, "changes\\['noise'\\] must have one row per example"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_changes_that_do_not_fit_are_refused(name):
    changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        dtda.relabel(regression(), CHANGED, changes)


def test_copies_survive_a_round_trip(tmp_path):
    training = dtda.Training(EDIT.program, KERNELS["sgd by epoch"], queries())
    arms = evaluate.retrainings(training, KEY, EDIT.weights, num_retrainings=2)
    dtda.save(xr.DataTree(arms), tmp_path / "arms")
    xr.testing.assert_identical(dtda.load(tmp_path / "arms").to_dataset().load(), arms)
