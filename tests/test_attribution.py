"""Scores against retraining and closed forms, on regression and a small network."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from tables import NUM_DATA, blown_up, ones, pull, train

import dtda_prob as dtda
from dtda_prob.compiling import _jitted
from dtda_prob.studies.check import Steps, advice
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
    assert scores["score"].dims == ("divergence", "query", "example")
    assert scores.sizes == {"divergence": 4, "query": 4, "example": NUM_DATA}
    assert scores.attrs["num_draws"] == 6
    signed = scores.sel(divergence=["mean", "variance"])
    assert (signed["lower"] <= signed["score"] + 1e-12).all()
    assert (signed["score"] <= signed["upper"] + 1e-12).all()
    assert (scores["lower"] <= scores["upper"] + 1e-12).all()
    assert (scores["q_value"] >= scores["p_value"] - 1e-12).all()
    assert (scores["rank_lower"] <= scores["rank_upper"]).all()
    assert scores["top_probability"].sel(divergence="mean").sum("example").values == pytest.approx(10)
    assert scores["score"].to_dataframe().index.names == ["divergence", "query", "example"]
    assert dtda.scores.spread_without_shift(scores).index.names == ["query", "example"]
    top = np.abs(scores["score"]).argmax("example")
    assert (scores["rank"].isel(example=top) == 1).all()
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
    summed = np.stack([single[:, by == g].sum("example") for g in range(3)], -1)
    close(grouped["score"].sel(divergence="mean"), summed, rtol=1e-3, atol=1e-6)
    assert list(grouped["perturbation"].values) == [0, 1, 2]


def test_retraining_by_push_and_by_pull_agree(training):
    by_push = dtda.attribute(training, KEY, 4, ["mean", "variance"], direction="push")
    by_pull = dtda.attribute(dtda.retrain(training), KEY, 4, ["mean", "variance"])
    close(by_push["score"], by_pull["score"], rtol=1e-3, atol=1e-5)


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
    measure = dtda.measures.function(lambda sites: jnp.stack([sites["slopes"], sites["slopes"] ** 2]))
    training = train("sgd by epoch", measure=measure)
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
    return pull(push_forward, ones() if weights is None else weights, key=key)


def test_several_perturbations_are_expanded_about_their_mean_in_both_directions(training):
    weights = dtda.random_subsets(training.program, KEY, 3, 0.5)
    linear = dtda.unroll(training, space="measurement")
    by_pull, by_push, amid = (
        dtda.attribute(source, KEY, 4, ["mean"], weights, direction=direction, options=QUIET)["score"]
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
        return scores["score"].notnull().all("example") & (scores.attrs["num_draws"] >= 12)

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
        ({"num_draws": 2}, "at least 3 times"),
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


# Certainty where there is none, and requests that cannot work


def regression_of(x, y, kernel=None) -> dtda.Training:
    program = dtda.Program(dtda.zoo.linear_regression, np.asarray(x, np.float32), y=y)
    kernel = dtda.kernels.exact() if kernel is None else kernel
    return dtda.Training(program, kernel, dtda.measures.prediction(np.eye(2, dtype=np.float32)))


def test_copies_share_an_interval_of_ranks():
    """Seven rows alike have all ranks; of seven with two copies these two have the same interval."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 2)), rng.normal(size=7)
    x[6], y[6] = x[2], y[2]
    alike = dtda.attribute(
        dtda.influence(regression_of(np.ones((7, 2)), np.ones(7))), KEY, 16, ["mean"],
        options=replace(QUIET, top=2),
    ).isel(divergence=0)  # fmt: skip
    close(alike["rank_lower"], 1)
    close(alike["rank_upper"], 7)
    close(alike["rank_probability"], 1 / 7, rtol=1e-6)
    close(alike["top_probability"], 2 / 7, rtol=1e-6)
    copied = dtda.attribute(dtda.influence(regression_of(x, y)), KEY, 16, ["mean"], options=QUIET)
    for name in ("rank_lower", "rank_upper", "top_probability"):
        close(copied[name].isel(example=2), copied[name].isel(example=6))
    inside = (copied["rank_lower"] <= copied["rank"]) & (copied["rank"] <= copied["rank_upper"])
    assert inside.isel(example=[2, 6]).all()


QUIET = dtda.Options(check=False, chunk_size=4)


ONE_MODEL = {
    "a checkpoint": dtda.kernels.pretrained({"slopes": np.array([1.0, -1.0], np.float32)}),
    "searches that end at one minimum": dtda.kernels.lbfgs(tolerance=1e-4),
}


@pytest.mark.parametrize("name", ONE_MODEL)
def test_one_model_is_not_ten(name):
    """Its draws may differ in rounding, as solves from several starts do."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 2))
    training = regression_of(x, x @ [1.0, -1.0] + 0.3 * rng.normal(size=8), ONE_MODEL[name])
    source = dtda.influence(training, dtda.curvature.dense(damping=1.0), at="old")
    checked = QUIET if training.kernel.count_steps(training.program) else dtda.Options()
    with pytest.warns(RuntimeWarning, match="2 of 2 queries: all draws are the same model") as caught:
        scores = dtda.attribute(source, KEY, 10, ["mean"], options=checked)
    assert len(caught) == 1  # a checkpoint is not compared with retraining, which would not move it
    assert np.isfinite(scores["score"]).all()
    for field in ("error", "lower", "upper", "p_value", "q_value", "rank_lower", "top_probability"):
        assert np.isnan(scores[field]).all(), field


def test_settings_that_vary_are_no_examples():
    program = dtda.vary(train("exact").program, "prior")
    training = dtda.Training(program, dtda.kernels.exact(), train("exact").measure)
    source = dtda.influence(training, at="old")
    scores = dtda.attribute(source, KEY, 4, ["mean"], options=QUIET)
    assert scores["example"].values.tolist() == list(range(NUM_DATA))
    plain = dtda.influence(train("exact"), at="old")
    plain = dtda.attribute(plain, KEY, 4, ["mean"], options=QUIET)
    close(scores["q_value"], plain["q_value"], rtol=1e-3)


def test_a_direction_is_taken_that_the_source_has():
    training = train("exact")
    by_push = dtda.importance(training, OTHER, num_draws=100)
    weights = dtda.leave_one_out(training.program, [0, 1])
    scores = dtda.attribute(by_push, KEY, 4, ["mean"], weights, options=QUIET)
    assert scores["score"].sizes["perturbation"] == 2
    with pytest.raises(ValueError, match=r"direction='pull': importance.* has 'push'"):
        dtda.attribute(by_push, KEY, 4, ["mean"], direction="pull")
    with pytest.raises(ValueError, match=r"direction='push': .* has 'pull'"):
        dtda.attribute(dtda.cosine(train("sgd by epoch")), KEY, 4, ["mean"], direction="push")


def scalar(old, new):
    return float((new - old).mean())


def unreduced(old, new):
    return new - old


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"divergences": []}, "empty list: name one"),
        ({"divergences": None}, "empty list: name one"),
        ({"divergences": "mean"}, r"divergences='mean' must be a list: write \['mean'\]"),
        ({"divergences": [scalar]}, r"'scalar' gives shape \(\) .* reduce the first axis"),
        ({"divergences": [unreduced]}, r"'unreduced' gives shape \(16, 1, 2\)"),
        ({"perturbations": np.ones((0, NUM_DATA))}, "hold no perturbation"),
        ({"perturbations": np.ones((0, NUM_DATA)), "direction": "push"}, "hold no perturbation"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_drawn(given, words, training, monkeypatch):
    monkeypatch.setattr("dtda_prob.studies.run._in_memory", None)
    with pytest.raises(ValueError, match=words):
        dtda.attribute(dtda.unroll(training), KEY, 4, **given)


def test_no_sample_is_drawn_of_no_perturbation(training):
    with pytest.raises(ValueError, match="hold no perturbation"):
        dtda.sample(training, KEY, 4, np.ones((0, NUM_DATA)))


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0, 2.0, np.nan])
def test_levels_lie_between_0_and_1(level):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        dtda.Options(level=level)


def test_states_of_a_run_say_how_many_draws_fit():
    late = dtda.kernels.keep(dtda.kernels.sgd(optax.sgd(0.05), num_steps=6, batch_size=4), 5)
    source = dtda.influence(train(late))
    with pytest.raises(ValueError, match=r"num_draws=8 .* num_states=5, .* take num_draws=15"):
        dtda.attribute(source, KEY, 8, ["mean"])
    with pytest.raises(ValueError, match="take num_draws=10"):
        dtda.sample(source, KEY, 4)
    with pytest.raises(ValueError, match=r"sample has no .*level"):
        dtda.sample(source, KEY, 10, options=dtda.Options(level=0.5))
    rule = dtda.until(dtda.settled(0.01), start=3, most=4)
    assert dtda.attribute(source, KEY, rule, ["mean"], options=QUIET).attrs["num_draws"] == 15


BY_NYSTROEM = "take a damped response, such as influence.*segments.*"
ADVICE = [
    ("influence", {"at": "old"}, 5.0, False, "^Expand at the middle .*, damp more, or retrain"),
    ("influence", {}, 5.0, False, "^Damp more, or retrain"),
    ("influence", {}, 0.1, False, "^Damp less, or retrain"),
    ("influence", {}, 5.0, True, "^Damp more, remove less at a time, or retrain"),
    ("unroll", {}, 5.0, False, f"^T{BY_NYSTROEM[1:]}, or retrain"),
    ("unroll", {}, 5.0, True, f"^T{BY_NYSTROEM[1:]}, remove less at a time, or retrain"),
    ("unroll", {}, 0.5, True, "^Remove less at a time, or retrain"),
]


@pytest.mark.parametrize(("name", "given", "ratio", "group", "words"), ADVICE)
def test_advice_about_the_range_fits_what_was_done(name, given, ratio, group, words, training):
    source = getattr(dtda, name)(training, **given)
    steps = Steps(np.zeros(1, int), np.array([ratio]), np.array([0.9]), np.array([group]))
    assert re.search(words, advice(source, steps))


def test_predictions_beside_retraining_are_checked_too(training):
    weights = dtda.leave_one_out(training.program, [1, 2])
    source = blown_up(training, -10.0)
    with pytest.warns(RuntimeWarning, match="out of its range"):
        dtda.evaluate.predictions(source, KEY, 4, weights, direction="push")
    dtda.evaluate.predictions(source, KEY, 4, weights, direction="push", check=False)


def test_programs_of_one_shape_share_what_is_compiled():
    """Other data, labels, weights and keys compile nothing, so that a loop over programs is flat."""
    rng = np.random.default_rng(0)

    def once(seed: int) -> None:
        training = regression_of(rng.normal(size=(9, 2)), rng.normal(size=9).astype(np.float32))
        source, key = dtda.influence(training, at="old"), jax.random.key(seed)
        dtda.sample(training, key, 4, dtda.remove(training.program, [seed]), options=QUIET)
        dtda.attribute(source, key, 4, ["mean"], options=QUIET)

    once(0)
    before = _jitted.cache_info().misses
    for seed in (1, 2, 3):
        once(seed)
    assert _jitted.cache_info().misses == before
