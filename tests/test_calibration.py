"""Predicted against retrained distributions, and the verdict on a page."""

import sys
from pathlib import Path

import arviz_stats  # noqa: F401  registers the accessor
import jax
import numpy as np
import optax
import pytest
import xarray as xr
from tables import regression, train

import dtda_prob as dtda
from dtda_prob import curvature, diagnostics, plots
from dtda_prob.diagnostics.across_seeds import compare_shifts
from dtda_prob.diagnostics.checks import CHECKS
from dtda_prob.diagnostics.pit import differences, spread_of_null

KEY = jax.random.key(0)
FEW_STEPS = dtda.kernels.sgd(optax.sgd(0.1), num_steps=5)
close = np.testing.assert_allclose


def normals(num_draws: int, num_queries: int = 6, seed: int = 0) -> xr.DataArray:
    """Draws that queries share to a large part, as those of one seed do."""
    rng = np.random.default_rng(seed)
    own, shared = rng.normal(size=(num_draws, num_queries)), rng.normal(size=(num_draws, 1))
    return xr.DataArray(0.6 * own + 0.8 * shared, dims=("draw", "query"))


def calibrate(predicted: xr.DataArray, retrained: xr.DataArray, **options) -> xr.Dataset:
    return diagnostics.calibration(
        predicted, retrained, **{"num_permutations": 99, "num_resamples": 50} | options
    )


def test_coverage_is_nominal_however_few_the_predicted_draws():
    """4 draws know no 95 % interval, and yet the PIT is exactly uniform."""
    rng = np.random.default_rng(0)
    arms = (xr.DataArray(rng.normal(size=(n, 20000)), dims=("draw", "query")) for n in (4, 5))
    found = calibrate(*arms, num_permutations=1, num_resamples=2)
    close(found["pooled_coverage"], found["level"], atol=0.008)
    ecdf = [(found["pit"] < at).mean() for at in (0.05, 0.3, 0.5, 0.9)]
    close(ecdf, [0.05, 0.3, 0.5, 0.9], atol=0.008)


def test_tied_draws_are_covered_as_often():
    rng = np.random.default_rng(0)
    arms = (xr.DataArray(rng.integers(0, 3, (n, 20000)), dims=("draw", "query")) for n in (6, 5))
    found = calibrate(*arms, num_permutations=1, num_resamples=2)
    close(found["pooled_coverage"], found["level"], atol=0.01)


def test_a_normal_prediction_half_as_wide_covers_as_the_normal_says():
    found = calibrate(0.5 * normals(4000, 1), normals(4000, 1, seed=1), num_resamples=2)
    close(found["coverage"].sel(level=[0.5, 0.9])[:, 0], [0.264, 0.589], atol=0.03)


def test_pit_values_are_arviz_s_up_to_the_random_rank():
    """Its Pareto smoothing replaces the rank in the tails: at most some ranks of a thousand apart."""
    predicted, retrained = normals(1000, 1), normals(200, 1, seed=1)
    found = calibrate(predicted, retrained, num_permutations=1, num_resamples=2)["pit"][:, 0]
    alike = np.zeros((200, 1, 1000))
    rows = xr.DataArray(alike + predicted.values.T, dims=("example", "chain", "draw"))
    observed = xr.DataArray(retrained.values[:, 0], dims="example")
    even = rows.copy(data=alike - np.log(1000))
    for pareto_pit in (False, True):
        theirs, _ = rows.azstats.loo_pit(observed, log_weights=even, pareto_pit=pareto_pit)
        close(found, theirs, atol=0.015)


@pytest.fixture(scope="module")
def repeated():
    """Calibrations of arms that are alike, on shared seeds."""
    return [calibrate(normals(24, seed=k), normals(40, seed=1000 + k), seed=k) for k in range(250)]


def test_the_test_has_its_level_though_queries_share_seeds(repeated):
    for name in ("p_value", "pooled_p_value"):
        rejected = np.mean([(found[name] <= 0.05).mean() for found in repeated])
        assert 0.02 < rejected < 0.085
    beyond = [(np.abs(found["pooled_difference"]) > found["pooled_band"]).any() for found in repeated]
    assert 0.02 < np.mean(beyond) < 0.11


def test_the_error_of_coverage_is_its_spread_over_repetitions(repeated):
    for name in ("coverage", "pooled_coverage"):
        spread = np.std([found[name].values for found in repeated], axis=0)
        error = np.mean([found[f"{name}_error"].values for found in repeated], axis=0)
        close(error, spread, rtol=0.35)


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 1.0), (0.5, 0.0), (2.0, 0.0)])
def test_predictions_that_are_shifted_narrow_or_wide_are_told(factor, shift):
    found = calibrate(factor * normals(64) + shift, normals(64, seed=1))
    assert found["pooled_p_value"] < 0.03
    outside = np.abs(found["pooled_difference"]) > found["pooled_band"]
    assert outside.any()


def test_the_exact_law_of_ranks_is_that_of_their_permutations():
    rng = np.random.default_rng(0)
    found, nulls = differences(rng.normal(size=(7, 1)), rng.normal(size=(5, 1)), rng)
    assert found.shape == (7, 1)
    spread = np.std([next(nulls)[:, 0] for _ in range(4000)], axis=0)
    close(spread, spread_of_null(7, 5), rtol=0.06)


def test_a_query_with_nan_spoils_itself_and_what_is_pooled():
    retrained = normals(10, 3, seed=1)
    retrained[0, 1] = np.nan
    found = calibrate(normals(10, 3), retrained)
    assert found["p_value"].isnull().values.tolist() == [False, True, False]
    assert found["pooled_p_value"].isnull()
    assert found["pooled_coverage"].isnull().all()


@pytest.fixture(scope="module")
def trees():
    """Exact posteriors: all data, four removed, and four removed with another key."""
    training = train("exact")
    without = dtda.remove(training.program, range(4))
    return {
        "full": dtda.sample(training, KEY, 64),
        "predicted": dtda.sample(dtda.retrain(training), KEY, 64, without),
        "retrained": dtda.sample(training, jax.random.key(1), 128, without),
    }


def test_exact_retraining_is_calibrated_and_no_prediction_is_not(trees):
    found = diagnostics.calibration(trees["predicted"], trees["retrained"])
    assert found["pooled_p_value"] > 0.1
    off = np.abs(found["pooled_coverage"] - found["level"])
    assert (off < 3 * found["pooled_coverage_error"]).all()
    assert diagnostics.calibration(trees["full"], trees["retrained"])["pooled_p_value"] < 0.05


def test_calibration_refuses_shared_keys_and_other_queries(trees):
    with pytest.raises(ValueError, match="share a key"):
        diagnostics.calibration(trees["full"], trees["predicted"])
    with pytest.raises(ValueError, match="same queries"):
        calibrate(normals(8, 3), normals(8, 4))
    with pytest.raises(ValueError, match="at least 3"):
        calibrate(normals(2), normals(8))


def test_a_picture_has_a_panel_a_query_with_its_band(trees):
    found = diagnostics.calibration(trees["predicted"], trees["retrained"])
    panels = plots.calibration(found, queries=[0, 2])
    assert panels.viz["band"]["PIT"].sizes == {"query": 2}
    edge = panels.viz["band"]["PIT"].sel(query=2).item().get_paths()[0].vertices[:, 1].max()
    close(edge, found["band"].sel(query=2).max())
    together = plots.calibration(found)
    edge = together.viz["band"]["all queries"].item().get_paths()[0].vertices[:, 1].max()
    close(edge, found["pooled_band"].max())


def failed(verdict: diagnostics.Verdict) -> list[str]:
    return verdict.table.index[~verdict.table["passed"]].tolist()


def test_a_verdict_on_exact_retraining_finds_nothing_wrong(trees, tmp_path):
    training, where = train("exact"), dtda.Where(tmp_path / "study")
    without, truth = dtda.remove(training.program, range(4)), trees["retrained"]
    found = diagnostics.verdict(training, KEY, without, num_draws=64, retrained=truth, where=where)
    kept = {f"verdict.draws.{arm}" for arm in ("all_data", "perturbed")}
    assert {*dtda.contents(where.store).index} == kept
    assert failed(found) == []
    assert set(found.results) == {"draws", "coupling", "shifts", "calibration", "unmoved"}
    assert found.text.startswith("11 of 11 checks are passed.")
    assert "What cannot" not in found.text
    with pytest.raises(ValueError, match="share a key"):
        diagnostics.verdict(training, KEY, without, num_draws=16, retrained=trees["full"])
    with pytest.raises(ValueError, match="multiple of 4"):
        diagnostics.verdict(training, KEY, without, num_draws=18)
    with pytest.raises(ValueError, match="pass weights"):
        diagnostics.verdict(training, KEY, None)


def test_a_verdict_names_what_is_wrong_and_what_to_do(monkeypatch):
    """Of steps ten times too long that point the other way, by a curvature that has a null space."""
    training = train(FEW_STEPS)
    other = {"unroll()": dtda.unroll(training)}, {}
    module = sys.modules["dtda_prob.diagnostics.verdict"]
    monkeypatch.setattr(module, "candidates", lambda training: other)
    weights = dtda.leave_one_out(training.program, range(5))
    rough = curvature.diagonal(damping=curvature.relative(0.1))
    wrong = dtda.influence(training, rough, factor=-10.0)
    options = diagnostics.VerdictOptions(direction="push", num_checked=2)
    found = diagnostics.verdict(wrong, KEY, weights, num_draws=16, options=options)
    length = "length of predicted steps over retrained"
    assert {length, "cosine of predicted and retrained steps"} <= {*failed(found)}
    assert found.table["value"][length] > 3
    assert "remove less at a time" in found.text
    assert "Take another method" in found.text
    assert found.results["across_seeds"]["correlation"].max() > 0.9
    assert found.results["linear_range"].sizes["perturbation"] == 2
    assert {"null_space", "along_training", "linear_range"} < set(found.results)
    assert "residuals" not in found.results
    assert "residuals: diagonal" in found.text
    assert str(found).endswith(found.text)


def test_a_verdict_on_importance_weights_looks_at_their_tail():
    training = train("exact")
    weights = np.ones((1, training.program.num_data))
    weights[0, :8] = 0.0
    push_forward = dtda.importance(training, KEY, num_draws=500)
    found = diagnostics.verdict(push_forward, KEY, weights, num_draws=16)
    assert "Pareto k-hat, largest" in failed(found)
    assert "linear_range" not in found.results


def test_a_verdict_can_be_passed_on_results_at_hand(trees):
    results = {"calibration": diagnostics.calibration(trees["full"], trees["retrained"])}
    found = diagnostics.judge(results)
    assert "chance of PIT values as uneven" in failed(found)
    with pytest.raises(ValueError, match="calibrations"):
        diagnostics.judge({"calibrations": results["calibration"]})
    with pytest.raises(ValueError, match="levels"):
        diagnostics.judge({"calibration": results["calibration"].sel(level=[0.5])})
    with pytest.raises(ValueError, match="empty"):
        diagnostics.judge({})


def test_a_verdict_sees_blown_up_runs_and_several_modes():
    draws = normals(64, 3)
    draws[:, 1] = draws[:, 1] + 6 * (np.arange(64) % 2)
    draws[0, 2] = np.inf
    values = draws.values.reshape(16, 4, 3).swapaxes(0, 1)
    chained = xr.DataArray(values, dims=("chain", "draw", "query"))
    found = diagnostics.judge({"draws": diagnostics.draws(chained)})
    assert {"draws that are not finite", "values with several modes"} <= {*failed(found)}


def test_the_page_shows_every_check_with_its_threshold_and_reason():
    page = (Path(__file__).parents[1] / "docs/diagnostics.md").read_text()
    checks = [f"{one.name} | {one.threshold()}" for each in CHECKS.values() for one in each]
    table = page.split("| --- | --- | --- |\n")[1].split("\n\n")[0]
    assert [row.strip("| ").rpartition(" | ")[0] for row in table.splitlines()] == checks


def test_exact_derivatives_of_unstable_draws_are_seen_and_a_damped_one_is_named():
    """Each draw is right for its own seed; a few are far longer, and decide the mean."""
    rng = np.random.default_rng(0)
    signal, seeds = rng.normal(size=(6, 5)), rng.normal(size=(40, 6, 5))
    true = signal + 0.3 * seeds
    exploding = true + np.where(np.arange(40) % 20 == 7, 300.0, 0.0)[:, None, None] * seeds
    own = exploding[:16]
    compared = compare_shifts({"unroll()": own, "influence(damped)": 0.2 * true[:16]}, true[16:])
    lengths = xr.DataArray(np.linalg.norm(own.reshape(16, -1), axis=1), dims="draw")
    shifts = xr.Dataset(
        {
            "mean": (("query", "perturbation"), own.mean(0)),
            "error": (("query", "perturbation"), own.std(0, ddof=1) / 4),
            "not_finite": (("query", "perturbation"), np.zeros((6, 5))),
            "length": lengths,
        }
    )
    found = diagnostics.judge({"shifts": shifts, "across_seeds": compared})
    assert {
        "longest draw's steps over the median draw's",
        "correlation with retraining under other seeds",
    } <= {*failed(found)}
    assert "Take another method, since more draws of this one would not help:" in found.text
    assert "influence(damped): its mean shifts correlate" in found.text
    assert "times as many draws" not in found.text
    calm = diagnostics.judge({"shifts": shifts.drop_vars("length")})
    assert "Take another method" not in calm.text
    assert "times as many draws" in calm.text


class narrow(dtda.kernels.exact):
    """A posterior of less than half its spread, and off to one side by some of it."""

    shift: float = 0.0

    def step(self, key, state, program, weights):
        cold = dtda.kernels.exact(temperature=0.2).step(key, state, program, weights)
        return jax.tree.map(lambda leaf: leaf + self.shift, cold[0]), cold[1]


def test_true_values_have_any_rank_among_draws_of_the_posterior_on_their_data():
    """A spread too small shows in the ranks, and an error to one side in the bias too."""
    found = {
        name: dtda.diagnostics.simulated(
            train(kernel, measure=dtda.measures.parameters()), jax.random.key(0), 120
        )
        for name, kernel in {
            "exact": dtda.kernels.exact(),
            "narrow": narrow(),
            "shifted": narrow(shift=0.3),
        }.items()
    }
    assert found["exact"]["pit"].sizes == {"simulation": 120, "query": 3}
    assert (found["exact"]["p_value"] > 0.01).all()
    assert (found["narrow"]["p_value"] < 0.01).all()
    assert (found["narrow"]["bias_p_value"] > 0.01).all()
    assert (found["shifted"]["bias_p_value"] < 0.01).all()
    assert (found["shifted"]["bias"] < -0.1).all()


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (lambda: train(dtda.kernels.exact(temperature=0.5)), "temperature 1"),
        (lambda: train("sgd by epoch"), "posterior of known temperature"),
        (
            lambda: dtda.Training(regression(), dtda.kernels.exact(), dtda.measures.function(outer)),
            "numbers",
        ),
    ],
)
def test_what_cannot_be_simulated_is_refused(training, message):
    with pytest.raises(ValueError, match=message):
        dtda.diagnostics.simulated(training(), jax.random.key(0))


def outer(values):
    return values["slopes"][:, None] * values["slopes"]
