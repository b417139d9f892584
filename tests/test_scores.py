"""What is read off scores, from draws whose effects are known."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import dtda_prob as dtda
from dtda_prob import plots
from dtda_prob import scores as read
from dtda_prob.attribution.arms import Arms
from dtda_prob.attribution.power import power_of
from dtda_prob.attribution.scores import q_values, score_arms
from dtda_prob.attribution.until import precision, settled, until
from dtda_prob.divergences import resolve
from dtda_prob.studies.options import Options

RNG = np.random.default_rng
NUM_DATA, NUM_QUERIES = 40, 3
SHIFTED, SPREAD = slice(0, 5), slice(5, 8)
QUERIES, LABELS = ["a", "b", "c"], np.array([f"example {i}" for i in range(NUM_DATA)])


def arms_of(num_draws: int, seed: int = 0, noise: float = 0.05) -> Arms:
    """Five data shift the mean of every query, three change its spread alone, the others do nothing."""
    rng = RNG(seed)
    old = rng.normal(size=(num_draws, NUM_QUERIES, 1))
    new = old + noise * rng.normal(size=(num_draws, NUM_QUERIES, NUM_DATA))
    new[..., SHIFTED] -= np.arange(5, 0, -1) / 5
    new[..., SPREAD] *= 1.5
    return Arms(old, new)


def score(arms: Arms, names=("mean", "variance", "wasserstein"), coupled=True, **options) -> xr.Dataset:
    options = Options(**options)
    scores = score_arms(arms, tuple(map(resolve, names)), "example", coupled, options)
    attrs = {"level": options.level, "top": options.top}
    return scores.assign_coords(divergence=list(names), query=QUERIES, example=LABELS).assign_attrs(
        attrs
    )


@pytest.fixture(scope="module")
def scores():
    return score(arms_of(64), keep_contributions=True)


def test_what_moves_is_influential_and_what_does_not_is_not(scores):
    found = read.influential(scores, rate=0.05)
    assert found.index.names == ["divergence", "query", "example"]
    assert list(found.loc["mean"].loc["a"].index[:5]) == [f"example {i}" for i in range(5)]
    expected = {"mean": SHIFTED, "variance": SPREAD}
    for name, moved in expected.items():
        listed = set(found.loc[name].loc["b"].index)
        assert set(scores["example"].values[moved]) <= listed
        assert len(listed) <= moved.stop - moved.start + 2


def test_nothing_is_influential_where_arms_are_the_same():
    arms = arms_of(16)
    same = arms._replace(new=np.repeat(arms.old, NUM_DATA, 2))
    assert read.influential(score(same)).empty


@pytest.mark.parametrize("coupled", [True, False])
def test_false_discoveries_stay_below_their_rate(coupled):
    """Under the null, a family with any discovery is a false one."""
    found = []
    for seed in range(40):
        rng = RNG(seed)
        old, new = rng.normal(size=(16, NUM_QUERIES, 1)), rng.normal(size=(16, NUM_QUERIES, NUM_DATA))
        if coupled:
            new = 0.9 * old + np.sqrt(1 - 0.9**2) * new
        arms = Arms(old, new)
        found.append((score(arms, coupled=coupled, num_resamples=0)["q_value"] <= 0.1).any("example"))
    rate = xr.concat(found, "family").mean(("family", "query"))
    assert (rate <= 0.1 + 2 * np.sqrt(0.09 / 120)).all()


def test_few_scores_stand_out_where_many_are_significant():
    scores = score(arms_of(64))
    mean = scores.sel(divergence="mean")
    mean["q_value"][:] = 0.0
    mean["q_value"].loc[{"example": LABELS[0]}] = 1.0
    size = abs(mean["score"])
    expected = size >= 4 * size.mean("example")
    assert 0 < expected.sum() < 15
    expected.loc[{"example": LABELS[0]}] = False
    np.testing.assert_array_equal(read.outstanding(mean), expected)


def test_q_values_are_those_of_benjamini_and_hochberg():
    p = np.array([[0.001, 0.02, 0.5, np.nan], [0.9, 0.04, 0.03, 0.01]])
    found = q_values(p)
    assert np.isnan(found[0, 3])
    np.testing.assert_allclose(found[0, :3], [0.004, 0.04, 2 / 3])
    np.testing.assert_allclose(found[1], scipy.stats.false_discovery_control(p[1]))


def test_ranks_of_large_effects_are_sure_and_those_of_none_are_not(scores):
    mean = scores.sel(divergence="mean", query="a")
    assert list(mean["rank"][SHIFTED]) == [1, 2, 3, 4, 5]
    assert (mean["rank_probability"][SHIFTED] > 0.85).all()
    assert (mean["rank_upper"] - mean["rank_lower"])[8:].median() > 10
    assert scores["top_probability"].sel(divergence="mean").sum("example").values == pytest.approx(10)


def test_ranks_vary_over_repetitions_as_over_resamples():
    repeated = [score(arms_of(64, seed, noise=1.0), ["mean"]) for seed in range(30)]
    first = xr.concat([(one["rank"] == 1)[0, :, :2] for one in repeated], "other").mean("other")
    sure = xr.concat(
        [one["rank_probability"].where(one["rank"] == 1)[0, :, :2] for one in repeated], "other"
    )
    assert float(sure.mean()) == pytest.approx(float((first**2).sum("example").mean()), abs=0.12)


def test_spread_without_shift_finds_what_changes_the_spread_alone(scores):
    found = read.spread_without_shift(scores, rate=0.05, ratio=0.8)
    listed = set(found.index.get_level_values("example"))
    assert listed <= set(scores["example"].values[SPREAD])
    assert len(listed) >= 2
    assert (found["largest_shift"] <= 0.8 * found["spread"]).all()
    assert np.allclose(found["spread"].mean(), (1.5**2 - 1) / 2, rtol=0.3)


def test_rankings_agree_with_themselves(scores):
    found = read.rank_correlation(scores)
    assert found.dims == ("divergence", "other", "query")
    assert np.allclose(found.sel(divergence="mean", other="mean"), 1.0)
    assert np.allclose(found, found.transpose("other", "divergence", "query"))
    assert (found.sel(divergence="mean", other="variance") < 0.5).all()


def test_the_ranking_over_all_queries_does_not_cancel_signs(scores):
    """An example that raises one query and lowers the others is the first of all."""
    flipped = scores.assign(score=scores["score"] * xr.DataArray([1, -1, 0], dims="query"))
    best = read.overall(flipped, 3).loc["mean"]
    assert best.index[0] == scores["example"].values[0]
    assert abs(best["mean"].iloc[0]) < 0.1 * best["size"].iloc[0]
    assert best["size"].is_monotonic_decreasing
    assert read.overall(xr.DataTree(scores), 3).equals(read.overall(scores, 3))


def test_groups_average_scores_and_know_that_draws_are_shared(scores):
    by = np.arange(NUM_DATA) % 4
    found = read.aggregate(scores, by)
    members = scores["score"].sel(divergence="mean", query="b").values[by == 2]
    assert float(found["score"].sel(divergence="mean", query="b", group=2)) == pytest.approx(
        members.mean()
    )
    assert list(found["size"].values) == [10] * 4
    repeated = [
        read.aggregate(score(arms_of(64, seed), ["mean"], keep_contributions=True), by)["score"]
        for seed in range(30)
    ]
    spread = xr.concat(repeated, "other").std("other", ddof=1).mean()
    assert float(found["error"].sel(divergence="mean").mean()) == pytest.approx(float(spread), rel=0.25)


def test_a_group_of_one_is_its_example_and_queries_can_be_grouped_too(scores):
    single = read.aggregate(scores, scores["example"].values)
    for name in ("score", "error", "lower", "upper"):
        one, other = (found[name].sel(divergence="mean") for found in (single, scores))
        one = one.sel(group=other["example"].values).transpose("query", "group")
        np.testing.assert_allclose(one.values, other.values, rtol=1e-6)
    by_query = read.aggregate(single, ["x", "x", "y"], over="query")
    assert by_query["score"].sizes == {"divergence": 3, "query_group": 2, "group": NUM_DATA}


def test_rules_stop_when_scores_are_sure():
    few, many = (score(arms_of(n, noise=0.5), ["mean"], top=5) for n in (8, 512))
    for rule in (precision(0.25, top=5), settled(0.9)):
        assert not rule(few).all()
        assert rule(many).all()


# Matrices of another library.


def matrices(num_models: int = 8) -> np.ndarray:
    arms = arms_of(num_models)
    return arms.new - arms.old


def read_matrices(**options) -> xr.Dataset:
    return dtda.read_scores(matrices(), queries=QUERIES, examples=LABELS, **options)


def test_matrices_have_the_scores_of_draws_that_move_by_them():
    found = read_matrices(options=Options(keep_contributions=True, level=0.8))
    own = score(arms_of(8), ["mean"], keep_contributions=True, level=0.8)
    assert {*found} == {*own, "num_not_finite"}
    for name in set(own) - {"sd"}:
        np.testing.assert_allclose(found[name], own[name], rtol=1e-6, err_msg=name)
    assert found["sd"].isnull().all()
    assert (found.attrs["coupled"], found.attrs["level"]) == (1, 0.8)
    assert read.aggregate(found, np.arange(NUM_DATA) % 4)["error"].notnull().all()


def test_one_matrix_has_ranks_and_no_errors():
    found = dtda.read_scores(matrices()[0])
    np.testing.assert_allclose(found["score"][0], matrices()[0])
    assert found["rank"].notnull().all()
    for name in ("error", "lower", "upper", "p_value", "top_probability"):
        assert found[name].isnull().all(), name
    assert found.attrs["num_draws"] == 1


def test_matrices_of_some_models_may_have_gaps():
    gaps = matrices()
    gaps[:2, 1, 3] = np.nan
    assert dtda.read_scores(gaps)["num_not_finite"].values.tolist() == [0, 2, 0]


def test_a_report_shows_matrices_that_were_read(tmp_path):
    dtda.save(read_matrices(), tmp_path / "study", "theirs", kind="scores")
    page = dtda.report.write(tmp_path / "study", tmp_path / "page.html").read_text()
    assert all(label in page for label in ["theirs", *QUERIES, *LABELS[:3]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: dtda.read_scores(matrices()[:2]), r"matrices .* at least 3; got \(2, 3, 40\)"),
        (lambda s: dtda.read_scores(matrices()[0, 0]), r"matrices .* got \(40,\)"),
        (lambda s: dtda.read_scores(matrices(), queries=["a"]), "queries must label 3"),
        (lambda s: read_matrices(options=Options(num_permutations=3)), "read_scores has no"),
        (lambda s: read.influential(s, rate=1.5), "rate=1.5"),
        (lambda s: read.influential(score(arms_of(8), num_permutations=0)), "wasserstein.*p-values"),
        (lambda s: read.spread_without_shift(s.sel(divergence=["mean"])), "variance"),
        (lambda s: read.overall(s, 0), "num=0"),
        (lambda s: plots.shift_against_spread(s.sel(divergence=["mean"]), ["a"]), "takes 'mean' and"),
        (lambda s: read.aggregate(s, [1, 2]), "by must name"),
        (lambda s: read.aggregate(s, [1, 2], over="output"), "over='output'"),
        (lambda s: read.aggregate(s.drop_vars("contribution"), LABELS), "keep_contributions"),
        (lambda s: precision(0.0), "relative=0.0"),
        (lambda s: settled(1.0), "probability=1.0"),
        (lambda s: until(settled(), start=2), "start=2"),
    ],
)
def test_bad_requests_are_refused(scores, call, message):
    with pytest.raises(ValueError, match=message):
        call(scores)


def test_power_tells_how_many_draws_a_study_needs():
    """Predicted correlations are those that so many draws have, coupled and independent."""
    chosen = [resolve(name) for name in ("mean", "variance")]
    found = power_of(small_effects(64, 0), chosen, np.array(QUERIES), 0.9)
    for name in ("coupled", "independent"):
        expected = found.correlation.sel(divergence="mean", arms=name)
        for draws in (16, 256):
            measured = correlation_of(draws, coupled=name == "coupled")
            assert float(expected.sel(draws=draws).mean()) == pytest.approx(measured, abs=0.12)
    row = found.table.loc["mean"]
    assert row["independent_draws"] / row["coupled_draws"] == pytest.approx(1 / 0.1**2, rel=0.4)
    assert row["gain"] == pytest.approx(2 / 0.1**2, rel=0.4)
    assert "mean: to correlate 0.9" in str(found)


TRUE = 0.05 * RNG(99).normal(size=400)


def small_effects(num_draws: int, seed: int, coupled: bool = True) -> Arms:
    rng = RNG(seed)
    old = rng.normal(size=(num_draws, NUM_QUERIES, 1))
    noise = rng.normal(size=(num_draws, NUM_QUERIES, len(TRUE)))
    new = (old + 0.1 * noise if coupled else noise) - TRUE
    return Arms(old, new)


def correlation_of(num_draws: int, coupled: bool) -> float:
    arms = small_effects(num_draws, 1, coupled)
    shifts = (arms.old - arms.new).mean(0)
    return np.mean([np.corrcoef(shift, TRUE)[0, 1] for shift in shifts])


@pytest.mark.parametrize("backend", ["matplotlib", "plotly", "bokeh"])
def test_scores_can_be_drawn(scores, backend):
    spread = plots.shift_against_spread(scores, ["a", "b"], backend=backend)
    ranks = plots.ranks(xr.DataTree(scores), ["a", "b", "c"], top=6, backend=backend)
    assert spread.viz["significant"]["effect"].sizes == {"query": 2}
    assert ranks.viz["points"]["effect"].sizes == {"query": 3}


def test_what_is_not_finite_spoils_its_own_scores_and_group_alone():
    arms = arms_of(32)
    spoiled = arms._replace(new=arms.new.copy())
    spoiled.new[3, :, 9] = np.nan
    whole, one = (score(a, keep_contributions=True) for a in (arms, spoiled))
    spoiled_fields = ("score", "error", "lower", "upper", "p_value", "q_value")
    ranks = ("rank", "rank_lower", "rank_upper", "rank_probability", "top_probability")
    for name in (*spoiled_fields, *ranks):
        assert np.isnan(one[name][..., 9]).all(), name
    others = np.arange(NUM_DATA) != 9
    for name in ("score", "error"):
        np.testing.assert_allclose(one[name][..., others], whole[name][..., others])
    np.testing.assert_allclose(one["p_value"][..., others], whole["p_value"][..., others], atol=0.02)
    grouped = read.aggregate(one, np.arange(NUM_DATA) % 4)
    for name in ("score", "error", "lower", "upper"):
        assert np.isnan(grouped[name].sel(group=1)).all()
        assert np.isfinite(grouped[name].sel(group=[0, 2, 3])).all()


@pytest.mark.parametrize("num", [3, 100])
def test_the_strongest_are_those_of_the_highest_ranks(scores, num):
    table = read.strongest(scores, num)
    assert table.index.names == ["divergence", "query", "example"]
    each = min(num, NUM_DATA)
    assert len(table) == 3 * NUM_QUERIES * each
    for name in ("mean", "wasserstein"):
        one = scores.sel(divergence=name, query="b")
        listed = table.loc[name].loc["b"]
        assert listed["rank"].is_monotonic_increasing
        assert list(listed.index) == list(one.sortby("rank")["example"].values[:each])
        np.testing.assert_array_equal(listed["score"], one["score"].sel(example=listed.index))
    with pytest.raises(ValueError, match="num=0 must be at least 1"):
        read.strongest(scores, 0)
