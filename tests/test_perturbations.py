"""Perturbed datasets: the weights of each constructor by hand, and what is refused."""

import jax
import numpy as np
import pytest
import xarray as xr

from dtda_prob import zoo
from dtda_prob.perturbations import (
    check_weights,
    groups,
    leave_one_out,
    num_removed,
    random_subsets,
    remove,
    upweight,
)
from dtda_prob.program import Program

KEY = jax.random.key(0)
NAMES = list("abcdef")
COLOURS = ["red", "blue", "red", "green", "blue", "red"]
BY_COLOUR = [[1, 0, 1, 1, 0, 1], [1, 1, 1, 0, 1, 1], [0, 1, 0, 1, 1, 0]]
X, Y = np.arange(12.0).reshape(6, 2), np.zeros(6)
PROGRAM = Program(zoo.linear_regression, X, Y)
NAMED = Program(zoo.linear_regression, X, Y, labels=NAMES)
SHUFFLED = Program(zoo.linear_regression, X, Y, labels=[30, 10, 50, 0, 20, 40])

# Constructors: program, weights by hand, names of the perturbations (None for a single one).

MADE = {
    "remove": (lambda: remove(PROGRAM, [1, 4]), [1, 0, 1, 1, 0, 1], None),
    "remove by name": (lambda: remove(NAMED, ["f", "a"]), [0, 1, 1, 1, 1, 0], None),
    "remove by unsorted name": (lambda: remove(SHUFFLED, [0, 30]), [0, 1, 1, 0, 1, 1], None),
    "upweight": (lambda: upweight(PROGRAM, [0, 5]), [2, 1, 1, 1, 1, 2], None),
    "upweight by name": (lambda: upweight(NAMED, ["c"], factor=0.25), [1, 1, 0.25, 1, 1, 1], None),
    "leave one out": (lambda: leave_one_out(PROGRAM), 1 - np.eye(6), range(6)),
    "leave one out by name": (lambda: leave_one_out(NAMED), 1 - np.eye(6), NAMES),
    "leave some out": (
        lambda: leave_one_out(SHUFFLED, [20, 30]),
        [[1, 1, 1, 1, 0, 1], [0, 1, 1, 1, 1, 1]],
        [20, 30],
    ),
    "groups by array": (lambda: groups(PROGRAM, COLOURS), BY_COLOUR, ["blue", "green", "red"]),
    "groups by mapping": (
        lambda: groups(NAMED, {"first": ["a", "b"], "overlapping": ["b", "e"]}),
        [[0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1]],
        ["first", "overlapping"],
    ),
    "none": (lambda: check_weights(NAMED, None), np.ones(6), None),
    "one array": (lambda: check_weights(PROGRAM, [1, 0, 2, 1, 1, 1]), [1, 0, 2, 1, 1, 1], None),
    "two arrays": (lambda: check_weights(NAMED, X.T), X.T, [0, 1]),
}


@pytest.mark.parametrize("name", MADE)
def test_weights_by_hand(name):
    make, expected, perturbations = MADE[name]
    weights = make()
    np.testing.assert_array_equal(weights, expected)
    assert weights.attrs["removal"] == "reweight"
    if perturbations is None:
        assert weights.dims == ("example",)
    else:
        assert weights.dims == ("perturbation", "example")
        assert list(weights["perturbation"].values) == list(perturbations)


@pytest.mark.parametrize("program", [PROGRAM, NAMED, SHUFFLED])
def test_every_constructor_labels_the_data(program):
    first = program.labels[:1]
    made = (
        remove(program, first),
        upweight(program, first),
        leave_one_out(program),
        random_subsets(program, KEY, 2),
        groups(program, COLOURS),
        check_weights(program, np.ones(6)),
    )
    for weights in made:
        np.testing.assert_array_equal(weights["example"], program.labels)
        xr.testing.assert_identical(check_weights(program, weights), weights)


@pytest.mark.parametrize("removal", ["reweight", "drop"])
def test_removal_is_kept_and_says_how_many_rows_go(removal):
    made = (
        (remove(PROGRAM, [1, 4], removal=removal), 2),
        (leave_one_out(PROGRAM, removal=removal), [1] * 6),
        (random_subsets(PROGRAM, KEY, 3, keep=2, removal=removal), [4] * 3),
        (groups(PROGRAM, COLOURS, removal=removal), [2, 1, 3]),
    )
    for weights, removed in made:
        assert weights.attrs["removal"] == removal
        expected = removed if removal == "drop" else np.zeros_like(removed)
        np.testing.assert_array_equal(num_removed(weights), expected)


def test_weights_without_a_removal_take_no_rows_out():
    bare = xr.DataArray(np.zeros((2, 6)), dims=("perturbation", "example"))
    np.testing.assert_array_equal(num_removed(bare), [0, 0])


def test_removing_everything_is_reweighting_to_the_prior():
    assert not remove(PROGRAM, np.arange(6)).any()


# Random subsets.


@pytest.mark.parametrize(("keep", "size"), [(0.5, 3), (0.34, 2), (0.8, 5), (1, 1), (5, 5)])
def test_random_subsets_have_the_size(keep, size):
    weights = random_subsets(PROGRAM, KEY, 20, keep)
    assert weights.shape == (20, 6)
    assert set(np.unique(weights)) == {0.0, 1.0}
    np.testing.assert_array_equal(weights.sum("example"), np.full(20, size))


def test_random_subsets_are_a_function_of_the_key():
    first, again, other = (random_subsets(PROGRAM, jax.random.key(k), 20) for k in (0, 0, 1))
    xr.testing.assert_identical(first, again)
    assert not np.array_equal(first, other)


def test_random_subsets_differ_and_visit_all_data_alike():
    """600 subsets of half the data keep each of six data 300 times, give or take 12."""
    weights = random_subsets(PROGRAM, KEY, 600)
    assert len(np.unique(weights, axis=0)) == 20
    np.testing.assert_allclose(weights.sum("perturbation"), 300, atol=50)


def test_larger_subsets_of_one_key_hold_the_smaller():
    small, large = (random_subsets(PROGRAM, KEY, 20, keep) for keep in (2, 4))
    assert (small <= large).all()


# What is refused.


def labelled(program):
    return xr.DataArray(np.ones(6), dims="example", coords={"example": program.labels})


REFUSED = {
    "unknown": (lambda: remove(PROGRAM, [1, 6]), r"data=\[6\]: no such labels"),
    "unknown between": (lambda: leave_one_out(SHUFFLED, [15]), r"data=\[15\]: no such labels"),
    "unknown name": (lambda: upweight(NAMED, ["a", "g"]), r"data=\['g'\]: no such labels"),
    "position for a name": (lambda: remove(NAMED, [1]), r"by position, pass program.labels\[\[1\]\]"),
    "name for a position": (lambda: remove(PROGRAM, ["a"]), "no such labels"),
    "repeated": (lambda: remove(NAMED, ["a", "b", "a"]), "labels twice"),
    "mask": (lambda: remove(PROGRAM, np.eye(6, dtype=bool)[0]), "mask of booleans.*labels.*mask"),
    "empty": (lambda: remove(PROGRAM, []), "data is empty"),
    "empty names": (lambda: leave_one_out(NAMED, []), "data is empty"),
    "nothing left": (lambda: remove(PROGRAM, range(6), removal="drop"), "drops every example"),
    "one group": (lambda: groups(PROGRAM, ["red"] * 6, removal="drop"), "drops every example"),
    "removal": (lambda: remove(PROGRAM, [0], removal="delete"), "removal='delete' must be"),
    "negative factor": (lambda: upweight(PROGRAM, [0], -1.0), "factor=-1.0 must be"),
    "infinite factor": (lambda: upweight(PROGRAM, [0], np.inf), "factor=inf must be"),
    "missing factor": (lambda: upweight(PROGRAM, [0], np.nan), "factor=nan must be"),
    "no group": (lambda: groups(PROGRAM, {}), "by names no group"),
    "keep none": (lambda: random_subsets(PROGRAM, KEY, 2, 0), "keep=0 keeps 0 of 6"),
    "keep nearly none": (lambda: random_subsets(PROGRAM, KEY, 2, 0.01), "keeps 0 of 6"),
    "keep all": (lambda: random_subsets(PROGRAM, KEY, 2, 6), "keep=6 keeps 6 of 6"),
    "keep a share of one": (lambda: random_subsets(PROGRAM, KEY, 2, 1.0), "keep=1.0 keeps 6 of 6"),
    "keep too many": (lambda: random_subsets(PROGRAM, KEY, 2, 7), "keeps 7 of 6"),
    "short groups": (lambda: groups(PROGRAM, COLOURS[:5]), r"got shape \(5,\)"),
    "group of strangers": (lambda: groups(NAMED, {"first": ["z"]}), "no such labels"),
    "empty group": (lambda: groups(NAMED, {"first": []}), "data is empty"),
    "short": (lambda: check_weights(PROGRAM, np.ones(5)), r"got \(5,\)"),
    "scalar": (lambda: check_weights(PROGRAM, 1.0), r"got \(\)"),
    "three axes": (lambda: check_weights(PROGRAM, np.ones((2, 2, 6))), r"got \(2, 2, 6\)"),
    "negative": (lambda: check_weights(PROGRAM, -np.eye(6)), "finite and at least 0"),
    "missing": (lambda: check_weights(PROGRAM, [np.nan] * 6), "finite and at least 0"),
    "infinite": (lambda: check_weights(PROGRAM, [np.inf] * 6), "finite and at least 0"),
    "others' labels": (lambda: check_weights(PROGRAM, labelled(NAMED)), "for other data"),
    "others' order": (lambda: check_weights(PROGRAM, labelled(PROGRAM)[::-1]), "for other data"),
    "other rows": (
        lambda: check_weights(PROGRAM, xr.DataArray(np.ones(6), dims="row")),
        "last dimension of weights must be 'example'",
    ),
    "transposed": (
        lambda: check_weights(PROGRAM, random_subsets(PROGRAM, KEY, 6).T),
        "last dimension of weights must be 'example'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_perturbation_is_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("key", "error"),
    [(jax.random.PRNGKey(0), TypeError), (0, TypeError), (jax.random.split(KEY), ValueError)],
)
def test_key_is_refused(key, error):
    with pytest.raises(error, match="key must be"):
        random_subsets(PROGRAM, key, 2)
