"""Predictions against retraining: datasets of known truth, round trips, and small trainings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from tables import NUM_DATA, regression, train

import dtda_prob as dtda
from dtda_prob import evaluate

KEY, OTHER = jax.random.key(0), jax.random.key(1)
FEW = evaluate.CompareOptions(num_draws=4, num_retrainings=6)
close = np.testing.assert_allclose
CONVERGED = dtda.kernels.sgd(optax.sgd(0.03, momentum=0.9), num_steps=300)


@pytest.fixture(scope="module")
def training():
    return train("sgd by epoch")


@pytest.fixture(scope="module")
def subsets(training):
    return dtda.random_subsets(training.program, KEY, 5, 0.5, removal="drop")


@pytest.fixture(scope="module")
def truth(training, subsets):
    return evaluate.retrainings(training, OTHER, subsets, num_retrainings=8)


@pytest.fixture(scope="module")
def predicted(training, subsets):
    return evaluate.predictions(dtda.unroll(training), KEY, 4, subsets, check=False)


# Both arms.


def test_arms_are_samples_of_training_with_their_keys(training, truth, subsets):
    assert truth["full"].dims == ("draw", "query")
    assert truth["perturbed"].dims == ("draw", "query", "perturbation")
    assert truth.attrs["arms"], truth.attrs["removal"] == ("coupled", "drop")
    key = jax.random.wrap_key_data(truth["key"].values[2])
    alone = jax.jit(training.draw)(key, jnp.ones(NUM_DATA)).value[0]
    less = jax.jit(training.drop(6).draw)(key, jnp.asarray(subsets.values[3])).value[0]
    close(truth["full"][2], alone, rtol=1e-4)
    close(truth["perturbed"][2, :, 3], less, rtol=1e-4)


def test_a_prediction_of_dropped_rows_starts_from_all_of_them(training, predicted, subsets):
    again = evaluate.retrainings(training, KEY, subsets[:1], num_retrainings=4)
    close(predicted["full"], again["full"], rtol=1e-5)


def test_independent_arms_share_no_key(training):
    same = np.ones((2, NUM_DATA))
    coupled, independent = (
        evaluate.retrainings(training, KEY, same, num_retrainings=3, coupled=c) for c in (True, False)
    )
    close(coupled["perturbed"][:, :, 1], coupled["full"], rtol=1e-6)
    draws = np.stack([independent["full"], *independent["perturbed"].transpose("perturbation", ...)])
    assert all((draws[i] != draws[j]).all() for i, j in ((0, 1), (0, 2), (1, 2)))
    assert (coupled.attrs["arms"], independent.attrs["arms"]) == ("coupled", "independent")


def test_arms_that_a_study_keeps_are_those_in_memory(training, truth, predicted, subsets, tmp_path):
    """And the second call trains for nothing."""
    where = dtda.Where(tmp_path / "study")
    for _ in range(2):
        true = evaluate.retrainings(training, OTHER, subsets, num_retrainings=8, where=where)
        guess = evaluate.predictions(dtda.unroll(training), KEY, 4, subsets, where=where, check=False)
    xr.testing.assert_identical(true, truth)
    xr.testing.assert_identical(guess, predicted)
    names = {name for name, _ in dtda.verify(tmp_path / "study").index}
    assert names == {"retrained.all_data", "retrained.perturbed", "predicted", "predicted.all_data"}


def test_arms_are_stored_and_compared_again(truth, predicted, tmp_path):
    for name, arms in (("truth", truth), ("predicted", predicted)):
        dtda.save(xr.DataTree(arms), tmp_path / name)
        xr.testing.assert_identical(dtda.load(tmp_path / name).to_dataset().load(), arms)
    stored = [dtda.load(tmp_path / name).to_dataset() for name in ("predicted", "truth")]
    again, first = (
        evaluate.agreement(
            evaluate.effects(guess, ["mean", "energy"]),
            evaluate.effects(true, ["mean", "energy"], num_splits=2),
        )
        for guess, true in (stored, (predicted, truth))
    )
    xr.testing.assert_identical(again, first)


# Agreement, on datasets of known truth.


def arms_of(old, new, seed, arms="independent"):
    draws = len(old)
    return xr.Dataset(
        {
            "full": (("draw", "query"), old),
            "perturbed": (("draw", "query", "perturbation"), new),
            "weights": (("perturbation", "example"), np.eye(new.shape[-1])),
            "key": (("draw", "word"), np.stack([np.full(draws, seed), np.arange(draws)], 1)),
        },
        coords={"query": np.arange(new.shape[1]), "perturbation": np.arange(new.shape[2])},
        attrs={"source": "made up", "measure": "number", "arms": arms, "removal": "reweight"},
    )


def test_states_of_a_run_are_no_runs_in_errors_and_halves():
    """Three equal states of each run say what one of them says, to the last digit."""
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(8, 2)), rng.normal(size=(8, 2, 3))
    once = arms_of(old, new, 0, "coupled")
    several = arms_of(np.tile(old, (3, 1)), np.tile(new, (3, 1, 1)), 0, "coupled")
    several.attrs["num_states"] = 3
    expected, found = (evaluate.effects(arms, num_splits=4) for arms in (once, several))
    for name in ("value", "error", "halves"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-10)


def made_up(seed, noise, num_perturbations=60, num_draws=10, num_queries=3):
    """Return a perfect prediction of the mean, and a truth of the reliability 1 / (1 + noise^2)."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(1, num_queries, num_perturbations))
    spread = rng.normal(size=(num_draws, num_queries, num_perturbations)) * noise * num_draws**0.5
    exact = arms_of(np.zeros((3, num_queries)), np.repeat(signal, 3, 0), 1000)
    return exact, arms_of(np.zeros((num_draws, num_queries)), signal + spread, seed)


def agree(predicted, retrained, divergences="mean", num_splits=20, **options):
    guess = evaluate.effects(predicted, divergences)
    truth = evaluate.effects(retrained, divergences, num_splits=num_splits)
    return evaluate.agreement(guess, truth, **options)


def test_effects_are_divergences_of_the_arms(predicted):
    found = evaluate.effects(predicted, ["mean", "wasserstein"], num_permutations=10)
    shift = (predicted["perturbed"] - predicted["full"]).mean("draw")
    close(found["value"].sel(divergence="mean"), shift, rtol=1e-4)
    old, new = predicted["full"].values[:, :, None], predicted["perturbed"].values
    expected = dtda.divergences.estimate("wasserstein", old, new, num_permutations=10)
    close(found["value"].sel(divergence="wasserstein"), expected.value)
    close(found["null"].sel(divergence="wasserstein"), expected.null)


def test_noise_in_the_truth_is_found_and_given_back():
    """Over 20 truths of reliability 1 / 2 a perfect prediction correlates by the root of it."""
    found = [agree(*made_up(seed, 1.0), num_resamples=10) for seed in range(20)]
    names = ("pearson", "lds", "lds_reliability", "lds_disattenuated")
    mean = {name: np.mean([f[name].values for f in found]) for name in names}
    close(mean["pearson"], 0.5**0.5, atol=0.04)
    close(mean["lds_reliability"], 0.48, atol=0.05)
    close(mean["lds"], 0.69, atol=0.04)
    close(mean["lds_disattenuated"], 1.0, atol=0.05)


def test_the_error_is_the_spread_over_repetitions():
    found = [agree(*made_up(seed, 1.0), num_splits=4, num_resamples=30) for seed in range(40)]
    scores, errors, lower, upper = (
        np.array([float(f[name][0]) for f in found])
        for name in ("lds", "lds_error", "lds_lower", "lds_upper")
    )
    assert 0.6 < scores.std() / errors.mean() < 1.3
    assert ((lower < scores.mean()) & (scores.mean() < upper)).mean() >= 0.8


def test_any_divergence_takes_the_place_of_the_mean():
    """Perturbed spreads differ and means do not, so that the variance alone can be predicted."""
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(size=(1, 2, 40)))

    def arms(seed, num_draws):
        draws = np.random.default_rng(seed).normal(size=(num_draws, 2, 41))
        return arms_of(draws[..., 0], scale * draws[..., 1:], seed)

    def second_moment(old, new):
        return (new**2).mean(0) - (old**2).mean(0)

    found = agree(arms(1, 40), arms(2, 40), ["mean", "variance", second_moment])
    assert abs(found["lds"].sel(divergence="mean")) < 0.4
    assert (found["lds"].sel(divergence=["variance", "second_moment"]) > 0.9).all()
    assert (found["lds_reliability"].sel(divergence="variance") > 0.9).all()
    assert "nothing is subtracted" in found.attrs["floor"]


def test_draws_are_taken_from_the_front():
    exact, retrained = made_up(0, 0.5)
    noisy = arms_of(exact["full"].values, exact["perturbed"].values, 1000)
    noisy["perturbed"][1] += 5 * np.random.default_rng(1).normal(size=noisy["perturbed"].shape[1:])
    found = evaluate.agreement_by_draws(noisy, retrained, [1, 3], num_splits=4)
    assert found["lds"].dims == ("draws", "divergence")
    whole = agree(noisy, retrained, num_splits=4)
    close(found["lds"].sel(draws=3), whole["lds"])
    assert (found["lds"].sel(draws=1) > found["lds"].sel(draws=3)).all()


# Designs.


def test_leave_one_out_agrees_where_the_response_is_exact():
    result = evaluate.loo(
        dtda.unroll(train(CONVERGED, regression(100))),
        KEY,
        OTHER,
        range(8),
        options=FEW,
    )
    assert (result["pearson"] > 0.97).all()
    assert (result["reliability"] > 0.99).all()
    assert result["predicted"].dims == ("divergence", "query", "perturbation")


def test_lds_predicts_random_subsets():
    result = evaluate.lds(
        dtda.unroll(train(CONVERGED)),
        KEY,
        OTHER,
        subsets=evaluate.Subsets(8, keep=10),
        options=FEW,
    )
    assert (result["lds"] > 0.9).all()
    assert ((result["lds_lower"] < result["lds"]) & (result["lds"] < result["lds_upper"])).all()


def test_groups_are_left_out_by_label(training):
    by = np.array(list("abc"))[np.arange(NUM_DATA) % 3]
    options = evaluate.CompareOptions(3, 6, direction="push")
    groups = dtda.groups(training.program, by)
    result = evaluate.compare(dtda.retrain(training), KEY, OTHER, groups, options=options)
    assert list(result["perturbation"].values) == ["a", "b", "c"]
    assert np.isfinite(result["lds_error"]).all()
    again = evaluate.predictions(dtda.retrain(training), KEY, 3, groups, direction="push", check=False)
    close(result["predicted"], evaluate.effects(again)["value"])


def test_agreement_has_no_value_where_nothing_moves():
    still = dtda.measures.function(lambda params: jnp.ones(2), name="still")
    training = dtda.Training(regression(), CONVERGED, still)
    result = evaluate.loo(dtda.unroll(training), KEY, OTHER, range(4), options=FEW)
    assert np.isnan(result["pearson"]).all()
    assert np.isnan(result["lds"]).all()
    assert (result["num_queries"] == 0).all()


def test_designs_refuse_shared_seeds_and_odd_halves(training):
    with pytest.raises(ValueError, match="retrain_key is key"):
        evaluate.loo(dtda.unroll(training), KEY, KEY, [0, 1])
    with pytest.raises(ValueError, match="num_retrainings=7"):
        evaluate.CompareOptions(num_retrainings=7)


def scores_of(truth, seed=0):
    """Make up scores of single examples by three models."""
    sizes = truth.sizes["query"], truth.sizes["example"]
    matrices = np.random.default_rng(seed).normal(size=(3, *sizes))
    labels = {"queries": truth["query"].values, "examples": truth["example"].values}
    return matrices, dtda.read_scores(matrices, **labels)


def test_scores_of_single_examples_add_up_over_those_that_are_removed(truth):
    matrices, scores = scores_of(truth)
    moved = np.einsum("mqe,pe->mqp", matrices, 1 - truth["weights"].values)
    dims = ("draw", "query", "perturbation")
    arms = truth.isel(draw=slice(3)).assign(
        full=(dims[:2], np.zeros(moved.shape[:2])), perturbed=(dims, moved)
    )
    expected = agree(arms.drop_vars("key").assign(key=arms["key"] + 1), truth)
    retrained = evaluate.effects(truth, num_splits=4)
    shuffled = scores.isel(example=np.random.default_rng(1).permutation(scores.sizes["example"]))
    for each in (scores, shuffled):
        found = evaluate.agreement(each, retrained)
        close(found["predicted"], expected["predicted"], atol=1e-5)
        close(found["lds"], expected["lds"])


def shared(arms, with_arms):
    return arms.isel(draw=slice(4)).assign(key=with_arms["key"][:4])


MISMATCHED = {
    "shared keys": (lambda guess, true: agree(shared(guess, true), true), "share keys"),
    "other data": (
        lambda guess, true: agree(guess.assign(weights=1 - guess["weights"]), true),
        "differ in 'weights'",
    ),
    "other queries": (lambda guess, true: agree(guess.isel(query=[0]), true), "differ in 'query'"),
    "scores of too few": (
        lambda guess, true: evaluate.agreement(
            scores_of(true)[1].isel(example=slice(3)), evaluate.effects(true, num_splits=1)
        ),
        "must be of single examples",
    ),
    "no halves": (lambda guess, true: agree(guess, true, num_splits=0), "pass num_splits"),
    "few draws": (
        lambda guess, true: agree(guess, true.isel(draw=slice(4))),
        "4 runs cannot be split",
    ),
    "no divergence": (lambda guess, true: evaluate.effects(guess, []), "empty list: name one"),
    "no count": (lambda guess, true: evaluate.agreement_by_draws(guess, true, [5]), r"counts=\[5\]"),
}


@pytest.mark.parametrize("name", MISMATCHED)
def test_what_does_not_match_is_refused(predicted, truth, name):
    compare, message = MISMATCHED[name]
    with pytest.raises(ValueError, match=message):
        compare(predicted, truth)


# Removal curves.


@pytest.fixture(scope="module")
def curves(training):
    rankings = {1: [3, 0, 7, 5], 3: [2, 1, 9, 4]}
    return evaluate.removal_curves(
        training, KEY, rankings, [1, 3], num_draws=3, options=evaluate.CurveOptions(num_random=2)
    )


def test_a_curve_is_retraining_without_the_first_of_a_ranking(training, curves):
    assert curves["perturbed"].dims == ("draw", "query", "order", "count")
    without = dtda.remove(training.program, [2, 1, 9])
    truth = evaluate.retrainings(training, KEY, without, num_retrainings=3)
    close(curves["perturbed"].sel(query=3, order="ranking", count=3), truth["perturbed"][:, 3, 0], 1e-4)
    close(curves["full"].sel(query=3), truth["full"][:, 3], rtol=1e-4)


def test_random_orders_are_the_same_for_predictions(training, curves):
    retrained = evaluate.removal_curves(
        dtda.retrain(training),
        KEY,
        {1: [3, 0, 7, 5]},
        [1, 3],
        num_draws=3,
        options=evaluate.CurveOptions(num_random=2, direction="push"),
    )
    close(retrained["perturbed"], curves["perturbed"].sel(query=[1]), rtol=1e-4)


def test_curves_have_effects(curves):
    found = evaluate.effects(curves, ["mean", "wasserstein"])
    assert found["value"].dims == ("divergence", "query", "order", "count")
    shift = (curves["perturbed"] - curves["full"]).mean("draw")
    close(found["value"].sel(divergence="mean"), shift, rtol=1e-4)


def margins(flips):
    """Return curves in which so many of 10 draws are flipped after each count."""
    draws = np.arange(10)[:, None, None, None] >= np.array(flips)[None, None]
    coords = {"query": ["q"], "order": ["ranking", "random 0"], "count": [5, 10, 20]}
    dims = ("draw", "query", "order", "count")
    perturbed = xr.DataArray(np.where(draws, 1.0, -1.0), coords, dims)
    return xr.Dataset({"perturbed": perturbed, "full": perturbed[:, :, 0, 0] * 0 + 1})


def test_brittleness_is_the_first_count_that_flips_enough_draws():
    found = evaluate.brittleness(margins([[2, 6, 10], [0, 0, 1]]))
    assert found["brittleness"].sel(order="ranking").item() == 10
    assert found["earliest"].sel(order="ranking").item() == 10
    assert found["latest"].sel(order="ranking").item() == 20
    assert np.isnan(found["brittleness"].sel(order="random 0").item())
    close(found["flipped"].sel(order="ranking")[0], [0, 0.2, 0.6, 1.0])
    close(found["flipped_upper"].sel(order="ranking", count=5), 0.457, atol=0.01)
    assert evaluate.brittleness(margins([[1, 2, 3]] * 2), lambda m: m > 0)["brittleness"][0, 0] == 0


# Mislabels.


def test_areas_are_shares_of_pairs_with_delong_s_errors():
    rng = np.random.default_rng(0)
    wrong = rng.random(60) < 0.3
    good = rng.normal(size=60) + 1.5 * wrong
    scores = {"good": good, "rounded": good.round(), "noise": rng.normal(size=60)}
    found = evaluate.mislabels(scores, wrong, [5, 60])
    pairs = np.sign(good[wrong][:, None] - good[~wrong])
    close(found["auc"].sel(score="good"), (pairs.mean() + 1) / 2)
    rows, columns = (pairs / 2).mean(1), (pairs / 2).mean(0)
    error = (rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns)) ** 0.5
    close(found["auc_error"].sel(score="good"), error)
    close(np.diag(found["difference_error"]), 0, atol=1e-8)
    apart = found["difference_error"].sel(score="good", other=["rounded", "noise"])
    assert apart[0] < apart[1]
    top = np.argsort(-good)[:5]
    close(found["precision"].sel(score="good"), [wrong[top].mean(), wrong.mean()])


def test_the_error_of_an_area_is_its_spread():
    rng = np.random.default_rng(0)
    wrong = np.arange(100) < 20
    made = [evaluate.mislabels({"s": rng.normal(size=100) + wrong}, wrong) for _ in range(200)]
    areas, errors = (np.array([m[name].item() for m in made]) for name in ("auc", "auc_error"))
    close(errors.mean(), areas.std(), rtol=0.15)


# Pruning.


def test_pruning_removes_the_highest_scores_and_pairs_draws(training):
    harm = np.arange(NUM_DATA, dtype=float)
    scores = {"last": harm, "either end": np.stack([harm, -harm])}
    arms = evaluate.pruning(training, KEY, scores, share=0.25, num_retrainings=4)
    assert arms["rule"].values.tolist() == ["last", *["either end"] * 2]
    assert (arms["weights"].sum("example") == 9).all()
    assert not arms["weights"][0, 9:].any()
    found = evaluate.compare_rules(arms)
    losses = arms["perturbed"].mean("query")
    paired = losses[:, 0] - arms["full"].mean("query")
    first = found.sel(rule="last", other="all data")
    close(first["difference"], paired.mean(), rtol=1e-4)
    close(first["difference_error"], paired.std(ddof=1) / 2, rtol=1e-4)
    close(first["upper"] - first["lower"], 2 * 2.353 * paired.std(ddof=1) / 2, rtol=1e-3)
    close(found["mean"].sel(rule="either end"), losses[:, 1:].mean(), rtol=1e-4)
    back = found.sel(rule="all data", other="last")
    close(back["difference"], -first["difference"])


def test_paired_pruning_retrains_each_choice_with_its_own_key_alone(training, tmp_path):
    """Both ways of pruning hold the same retrainings: all choices by all keys, and the diagonal."""
    harm = np.arange(NUM_DATA, dtype=float)
    scores = {"own": np.stack([np.roll(harm, k) for k in range(4)]), "one": -harm}
    every = evaluate.pruning(training, KEY, scores, share=0.25, num_retrainings=4)

    def pruned(number: int) -> xr.Dataset:
        few = scores | {"own": scores["own"][:number]}
        return evaluate.pruning(
            training, KEY, few, share=0.25, num_retrainings=number, paired=True, where=stored
        )

    stored = dtda.Where(tmp_path / "study.zarr", progress=False)
    pruned(2)
    files = (path for path in tmp_path.rglob("loss/c/**/*") if path.is_file())
    done = {path: path.stat().st_mtime_ns for path in files}
    arms = pruned(4)
    assert len(done) == 4  # Two runs, on all data and pruned.
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())
    assert arms["rule"].values.tolist() == ["own", "one"]
    each = np.arange(4)
    close(arms["perturbed"].sel(perturbation="own"), every["perturbed"].values[each, :, each])
    close(arms["perturbed"].sel(perturbation="one"), every["perturbed"].values[:, :, 4])
    for name in ("full", "key"):
        np.testing.assert_array_equal(arms[name], every[name])
    np.testing.assert_array_equal(arms["weights"].values[:, 0], every["weights"].values[:4])
    again = dtda.Where(stored.store, "retrained.run_0", progress=False)
    weights = arms["weights"][0].assign_attrs(removal="drop")
    with pytest.raises(dtda.StoreError, match="first"):
        evaluate.retrainings(training, KEY, weights, num_retrainings=1, first=1, where=again)
    difference = (arms["perturbed"][..., 0] - arms["perturbed"][..., 1]).mean("query")
    row = evaluate.compare_rules(arms).sel(rule="own", other="one")
    close(row["difference_error"], difference.std(ddof=1) / 2, rtol=1e-4)


def test_errors_of_rules_count_draws_and_choices():
    rng = np.random.default_rng(0)
    made = []
    for _ in range(100):
        draws = rng.normal(size=(8, 1, 1)) + rng.normal(size=(1, 1, 5)) + rng.normal(size=(8, 1, 5)) / 9
        full = (("draw", "query"), np.zeros((8, 1)))
        arms = xr.Dataset({"full": full, "perturbed": (("draw", "query", "perturbation"), draws)})
        made.append(evaluate.compare_rules(arms.assign(rule=("perturbation", ["r"] * 5))).sel(rule="r"))
    squares = [m["error"] ** 2 for m in made]
    close(np.mean(squares), 1 / 8 + 1 / 5 + 1 / 81 / 40, rtol=0.1)
    covered = [m["lower"][0] < 0 < m["upper"][0] for m in made]
    assert np.mean(covered) > 0.85


WRONG = np.arange(NUM_DATA) < 2
UNFIT = {
    "short score": (lambda t: evaluate.mislabels({"s": [1.0]}, WRONG), "one number per example"),
    "missing score": (lambda t: evaluate.mislabels({"s": WRONG * np.nan}, WRONG), "not finite for 12"),
    "nothing wrong": (lambda t: evaluate.mislabels({"s": WRONG}, WRONG * 0), "wrong marks 0 of 12"),
    "no such count": (lambda t: evaluate.mislabels({"s": WRONG}, WRONG, [13]), r"counts=\[13\]"),
    "rule of all": (lambda t: evaluate.pruning(t, KEY, {"all data": WRONG}), "may not be called"),
    "no such pairs": (
        lambda t: evaluate.pruning(t, KEY, {"s": [WRONG] * 3}, num_retrainings=4, paired=True),
        r"each of 4 runs; not so: \['s'\]",
    ),
    "rule of others": (lambda t: evaluate.pruning(t, KEY, {"s": [1.0]}), r"got \(1, 1\)"),
    "no share": (lambda t: evaluate.pruning(t, KEY, {"s": WRONG}, share=0.01), "removes 0 of 12"),
    "missing rule": (lambda t: evaluate.pruning(t, KEY, {"s": WRONG * np.nan}), "not finite"),
    "no query": (lambda t: evaluate.removal_curves(t, KEY, {9: [0]}, [1]), r"given for \[9\]"),
    "no data": (lambda t: evaluate.removal_curves(t, KEY, {0: [0]}, [2]), r"counts=\[2\]"),
    "share": (lambda t: evaluate.brittleness(margins([[1, 2, 3]] * 2), share=1.5), "share=1.5"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_refused(training, name):
    make, message = UNFIT[name]
    with pytest.raises(ValueError, match=message):
        make(training)


# Pictures.


def test_agreement_can_be_drawn(predicted, truth):
    result = agree(predicted, truth, ["mean", "energy"], num_splits=2)
    panels = dtda.plots.agreement(result, [0, 1], "energy")
    points = panels.get_viz("points", "effect", {"query": 1})
    offsets = np.asarray(points.get_offsets())
    close(offsets[:, 0], result["predicted"].sel(divergence="energy", query=1))
    assert dtda.plots.agreement(result, [0, 1], backend="none") is not None


def test_scores_by_draws_can_be_drawn(predicted, truth):
    result = evaluate.agreement_by_draws(predicted, truth, [3, 4], ["mean", "energy"], num_splits=2)
    other = result.sel(draws=[3])
    panels = dtda.plots.agreement_by_draws({"all": result, "fewer": other})
    line = panels.get_viz("lines", "effect", {"divergence": "energy", "method": "all"})
    close(line.get_ydata(), result["lds"].sel(divergence="energy"))
    assert dtda.plots.agreement_by_draws({"all": xr.DataTree(result)}, backend="none") is not None


def test_removal_curves_can_be_drawn(curves):
    panels = dtda.plots.removal_curves({"retrained": curves}, [1, 3])
    line = panels.get_viz("lines", "effect", {"query": 3, "kind": "retrained"})
    one = curves.sel(query=3, order="ranking")
    expected = [one["full"].median(), *one["perturbed"].median("draw")]
    close(line.get_ydata(), expected, rtol=1e-5)
    close(line.get_xdata(), [0, 1, 3])
    assert (
        dtda.plots.removal_curves({"retrained": xr.DataTree(curves)}, [1], backend="none") is not None
    )


def test_pruning_can_be_drawn():
    draws = np.random.default_rng(0).normal(size=(8, 2, 4))
    full = (("draw", "query"), draws[..., 0])
    arms = xr.Dataset({"full": full, "perturbed": (("draw", "query", "perturbation"), draws)})
    table = evaluate.compare_rules(arms.assign(rule=("perturbation", ["loss", *["random"] * 3])))
    panels = dtda.plots.pruning(table)
    points = panels.get_viz("points", "effect", {"panel": 0})
    chosen = table["difference"].sel(other="random", rule=["all data", "loss"])
    close(np.asarray(points.get_offsets())[:, 0], chosen)
    assert dtda.plots.pruning(xr.DataTree(table), "loss", backend="none") is not None
