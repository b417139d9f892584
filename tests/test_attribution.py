"""Scores against retraining and closed forms, on regression and a small network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from tables import NUM_DATA, ones, train, train_network

import dtda_prob as dtda
from dtda_prob.studies.source import draw_keys

KEY, OTHER = jax.random.key(0), jax.random.key(1)
close = np.testing.assert_allclose


@pytest.fixture(scope="module")
def training():
    return train("sgd by epoch")


@pytest.fixture(scope="module")
def scores(training):
    return dtda.attribute(
        dtda.unroll(training),
        KEY,
        6,
        ["mean", "variance", "wasserstein", "energy"],
        options=dtda.Options(check=False),
    )


def test_the_mean_score_is_minus_the_mean_response(training, scores):
    keys = draw_keys(KEY, 6)
    push_forward = dtda.unroll(training)
    responses = jnp.stack([pull_at(push_forward, key) for key in keys])
    found = scores.sel(divergence="mean")
    close(found["score"], -responses.mean(0), rtol=1e-3, atol=1e-6)
    close(found["error"], responses.std(0, ddof=1) / np.sqrt(6), rtol=1e-2, atol=1e-6)


def test_scores_have_labels_ranks_errors_and_nulls(scores):
    assert scores["score"].dims == ("divergence", "query", "datum")
    assert scores.sizes == {"divergence": 4, "query": 4, "datum": NUM_DATA}
    assert scores.attrs["num_draws"] == 6
    signed = scores.sel(divergence=["mean", "variance"])
    assert (signed["lower"] <= signed["score"] + 1e-12).all()
    assert (signed["score"] <= signed["upper"] + 1e-12).all()
    assert (scores["lower"] <= scores["upper"] + 1e-12).all()
    assert (scores["q_value"] >= scores["p_value"] - 1e-12).all()
    assert (scores["rank_lower"] <= scores["rank_upper"]).all()
    assert scores["top_probability"].sel(divergence="mean").sum("datum").values == pytest.approx(10)
    assert scores["score"].to_dataframe().index.names == ["divergence", "query", "datum"]
    top = np.abs(scores["score"]).argmax("datum")
    assert (scores["rank"].isel(datum=top) == 1).all()
    assert sorted(scores["rank"].isel(divergence=1, query=2).values) == list(range(1, NUM_DATA + 1))
    assert np.isnan(scores["null"].sel(divergence="mean")).all()
    assert np.isfinite(scores["null"].sel(divergence="energy")).all()


def test_the_effect_of_a_group_is_the_response_along_it(training, scores):
    by = np.arange(NUM_DATA) % 3
    groups = dtda.groups(training.program, by)
    grouped = dtda.attribute(
        dtda.unroll(training, at="old"), KEY, 6, ["mean"], groups, options=dtda.Options(check=False)
    )
    single = scores.sel(divergence="mean")["score"]
    summed = np.stack([single[:, by == g].sum("datum") for g in range(3)], -1)
    close(grouped["score"].sel(divergence="mean"), summed, rtol=1e-3, atol=1e-6)
    assert list(grouped["perturbation"].values) == [0, 1, 2]


def test_retraining_by_push_and_by_pull_agree(training):
    by_push = dtda.attribute(training, KEY, 4, ["mean", "variance"])
    by_pull = dtda.attribute(dtda.retrain(training), KEY, 4, ["mean", "variance"])
    close(by_push["score"], by_pull["score"], rtol=1e-3, atol=1e-5)


def test_pushing_keeps_what_is_not_linear():
    training = train_network()
    weights = dtda.groups(training.program, {"some": [0, 1, 2, 3]})
    linear, curved = (
        dtda.attribute(dtda.unroll(training), KEY, 4, ["mean"], weights, direction=d)["score"]
        for d in ("pull", "push")
    )
    exact = dtda.attribute(
        dtda.unroll(training, space="measurement"), KEY, 4, ["mean"], weights, direction="push"
    )["score"]
    close(linear, exact, rtol=1e-4, atol=1e-6)
    assert np.abs(linear - curved).max() > 1e-4


def test_other_keys_make_arms_independent(training):
    weights = dtda.leave_one_out(training.program, [0])
    coupled, independent = (
        dtda.attribute(training, KEY, 16, ["mean"], weights, options=dtda.Options(new_key=k))
        for k in (None, OTHER)
    )
    assert (independent["error"] > coupled["error"]).all()


def test_independent_samples_share_no_seed_with_each_other(training):
    same = dtda.leave_one_out(training.program, [0]).values.repeat(2, 0)
    scores = dtda.attribute(training, KEY, 4, ["mean"], same, options=dtda.Options(new_key=OTHER))[
        "score"
    ]
    assert not np.allclose(scores.isel(perturbation=0), scores.isel(perturbation=1))


def test_vector_measurements_are_scored_as_vectors():
    measure = dtda.measures.prediction(jnp.ones((2, 3)))
    training = dtda.Training(train_network().program, train_network().kernel, measure)
    scores = dtda.attribute(dtda.unroll(training), KEY, 4, ["mean", "wasserstein", "energy"])
    push_forward = dtda.unroll(training)
    each = np.stack([pull_at(push_forward, key) for key in draw_keys(KEY, 4)])
    squared = (each.mean(0) ** 2 - each.var(0, ddof=1) / 4).sum(1)
    close(
        scores["score"].sel(divergence="mean"), np.sign(squared) * np.sqrt(np.abs(squared)), rtol=1e-2
    )
    assert np.isfinite(scores["null"]).all()


def test_dropped_rows_are_attributed_with_the_matched_training(training):
    weights = dtda.random_subsets(training.program, KEY, 3, 0.5, removal="drop")
    scores = dtda.attribute(
        dtda.unroll(training), KEY, 4, ["mean"], weights, options=dtda.Options(check=False)
    )
    matched, centre = dtda.unroll(training.drop(6)), jnp.asarray(weights.values.mean(0))
    response = jnp.stack([pull_at(matched, key, centre) for key in draw_keys(KEY, 4)]).mean(0)
    close(scores["score"][0], response @ (weights.values - 0.5).T, rtol=1e-3, atol=1e-5)


def pull_at(push_forward, key, weights=None):
    return jax.jit(push_forward.pull)(key, ones() if weights is None else weights)


def test_several_perturbations_are_expanded_about_their_mean_in_both_directions():
    training = train_network()
    weights = dtda.random_subsets(training.program, KEY, 3, 0.5)
    linear = dtda.unroll(training, space="measurement")
    by_pull, by_push, amid = (
        dtda.attribute(source, KEY, 4, ["mean"], weights, direction=direction)["score"]
        for source, direction in (
            (linear, "pull"),
            (linear, "push"),
            (dtda.unroll(training, at=weights.values.mean(0)), "pull"),
        )
    )
    close(by_pull, by_push, rtol=1e-4, atol=1e-6)
    close(by_pull, amid, rtol=1e-4, atol=1e-6)


def test_blocks_of_queries_do_not_change_scores(training, scores, monkeypatch):
    monkeypatch.setattr("dtda_prob.attribution.scores.MOST_ELEMENTS", 100)
    again = dtda.attribute(
        dtda.unroll(training),
        KEY,
        6,
        ["mean", "variance", "wasserstein", "energy"],
        options=dtda.Options(check=False),
    )
    xr.testing.assert_allclose(again, scores)


def test_responses_that_are_not_finite_are_reported_and_never_averaged_away():
    unsolved = dtda.curvature.conjugate_gradient(damping=1e-9, tolerance=1e-7, max_steps=1)
    with pytest.warns(RuntimeWarning, match="4 of 4 draws diverge.* or are not finite"):
        scores = dtda.attribute(dtda.influence(train("exact"), unsolved), KEY, 4, ["mean"])
    assert np.isnan(scores["score"]).any()


def test_draws_are_added_until_a_rule_is_met(training):
    def twelve(scores):
        return scores["score"].notnull().all("datum") & (scores.attrs["num_draws"] >= 12)

    source = dtda.unroll(training)
    enough = dtda.until(twelve, start=6, most=50)
    until = dtda.attribute(source, KEY, enough, ["mean"], options=dtda.Options(check=False))
    whole = dtda.attribute(source, KEY, 12, ["mean"], options=dtda.Options(check=False))
    assert until["settled"].all()
    xr.testing.assert_allclose(until.drop_vars("settled"), whole, rtol=1e-3)
    assert until.attrs == whole.attrs


def test_independent_draws_are_added_too_and_what_is_not_settled_is_told(training):
    weights = dtda.leave_one_out(training.program, [0, 1, 2])
    enough = dtda.until(dtda.precision(1e-6), start=4, most=7)
    with pytest.warns(RuntimeWarning, match="after 7 draws, 4 of 4 queries are not settled"):
        until = dtda.attribute(
            training, KEY, enough, ["mean"], weights, options=dtda.Options(new_key=OTHER)
        )
    whole = dtda.attribute(training, KEY, 7, ["mean"], weights, options=dtda.Options(new_key=OTHER))
    xr.testing.assert_allclose(until.drop_vars("settled"), whole, rtol=1e-3)
    assert not until["settled"].any()


def test_power_is_that_of_the_draws(training):
    weights = dtda.leave_one_out(training.program)
    found = dtda.power(training, KEY, weights, ["mean", "wasserstein"], num_draws=6)
    scores = dtda.attribute(training, KEY, 6, ["mean"], weights)
    pooled = np.sqrt((scores["error"] ** 2).mean("perturbation")).median()
    assert found.table.loc["mean", "coupled_error"] == pytest.approx(float(pooled), rel=1e-3)
    assert (found.table["gain"] > 1).all()
    with pytest.raises(ValueError, match="at least 3 perturbations"):
        dtda.power(training, KEY, weights[:2], num_draws=6)
    with pytest.raises(ValueError, match="no contributions"):
        dtda.power(training, KEY, weights, [lambda old, new: new.mean(0)], num_draws=6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergences": ["meen"]}, "meen"),
        ({"direction": "sideways"}, "direction='sideways'"),
        ({"options": dtda.Options(new_key=OTHER), "direction": "pull"}, "new_key"),
        ({"num_draws": 2}, "at least 3 draws"),
        ({"divergences": ["sliced_wasserstein"]}, "not defined for scalars"),
        ({"perturbations": np.ones((2, 5))}, "weights"),
    ],
)
def test_bad_requests_are_refused(training, options, message):
    settings = {"key": KEY, "num_draws": 4, "divergences": ["mean"]} | options
    with pytest.raises(ValueError, match=message):
        dtda.attribute(dtda.unroll(training), **settings)


def test_groups_that_drop_different_numbers_of_rows_cannot_share_a_pull(training):
    weights = dtda.groups(training.program, {"a": [0], "b": [1, 2]}, removal="drop")
    with pytest.raises(ValueError, match="direction='push'"):
        dtda.attribute(dtda.unroll(training), KEY, 4, ["mean"], weights)
    pushed = dtda.attribute(
        dtda.unroll(training),
        KEY,
        4,
        ["mean"],
        weights,
        direction="push",
        options=dtda.Options(check=False),
    )
    assert np.isfinite(pushed["score"]).all()
