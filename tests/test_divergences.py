"""Divergences against exact values, other libraries and their own errors."""

import sys

import arviz_base
import arviz_stats
import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad
from scipy.special import entr, softmax

from dtda_prob.divergences import (
    Divergence,
    Functional,
    available,
    estimate,
    jensen_shannon,
    kullback_leibler,
    laplacian,
    mmd,
    quantile,
    sinkhorn,
    tail_probability,
    trade_off_curve,
    wasserstein,
)
from dtda_prob.divergences.divergence import expand, jackknife
from dtda_prob.divergences.entropic_transport import _ott

OF_NUMBERS = {k: d for k, d in available.items() if d.numbers and k != "sinkhorn"} | {
    "quantile(0.9)": quantile(0.9),
    "tail_probability(0.5)": tail_probability(0.5),
    "mmd, laplacian": mmd(laplacian, 1.0),
    "kullback_leibler, neighbours": kullback_leibler("neighbours"),
    "jensen_shannon, neighbours": jensen_shannon("neighbours"),
    "kullback_leibler, reverse": kullback_leibler(reverse=True),
}
OF_VECTORS = {k: d for k, d in available.items() if d.vectors and k != "sinkhorn"} | {
    k: OF_NUMBERS[k] for k in ("kullback_leibler, neighbours", "jensen_shannon, neighbours")
}
OF_PROBABILITIES = ("predictive_entropy", "expected_entropy", "mutual_information")
names = pytest.mark.parametrize("name", OF_NUMBERS)
vector_names = pytest.mark.parametrize("name", OF_VECTORS)
INFORMATION = [name for name in OF_NUMBERS if name.startswith(("kullback_leibler", "jensen_shannon"))]
UNBIASED = ("energy", "mmd", "mmd, laplacian", "total_variation", "kolmogorov_smirnov", *INFORMATION)
"""Without bias, so that they can fall below 0, even for a sample and itself."""
BY_FOLDS = ("wasserstein", "wasserstein1", "sliced_wasserstein", "trade_off")
"""By parts of the draws, so that their order matters a little."""
NOT_SMOOTH = ("wasserstein1", "total_variation", "kolmogorov_smirnov", "trade_off", "neighbours")
"""With jumps where draws change places, which the jackknife takes for noise."""
RNG = np.random.default_rng


def both_arms(seed: int, num_draws: int = 64, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    return rng.normal(size=num_draws), shift + rng.normal(size=num_draws)


def vectors(name: str, draws: np.ndarray) -> np.ndarray:
    return softmax(draws, axis=-1) if name in OF_PROBABILITIES else draws


@names
def test_a_sample_is_at_no_distance_from_itself(name):
    draws, _ = both_arms(0)
    found = estimate(OF_NUMBERS[name], draws, draws, coupled=True)
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert found.lower <= 1e-12
    assert found.upper >= -1e-12
    apart = estimate(OF_NUMBERS[name], draws, draws, coupled=False).value
    assert apart < -1e-3 if name in UNBIASED else apart == pytest.approx(0.0, abs=1e-12)


@names
def test_the_order_of_pairs_does_not_matter(name):
    rng = RNG(1)
    old, new = rng.normal(size=(2, 24, 3))
    order = rng.permutation(24)
    one, other = (estimate(OF_NUMBERS[name], a, b) for a, b in ((old, new), (old[order], new[order])))
    tolerance = {"atol": 0.5} if name in BY_FOLDS else {"rtol": 1e-10}
    np.testing.assert_allclose(one.value, other.value, **tolerance)
    np.testing.assert_allclose(one.error, other.error, **tolerance)


@vector_names
def test_the_order_of_pairs_of_vectors_does_not_matter(name):
    rng = RNG(1)
    old, new = vectors(name, rng.normal(size=(2, 24, 3)))
    order = rng.permutation(24)
    one, other = (
        estimate(OF_VECTORS[name], a, b, vector=True) for a, b in ((old, new), (old[order], new[order]))
    )
    tolerance = {"atol": 0.5} if name in BY_FOLDS else {"rtol": 1e-10}
    np.testing.assert_allclose(one.value, other.value, **tolerance)


@names
@pytest.mark.parametrize("coupled", [True, False])
def test_many_pairs_at_once_are_each_pair(name, coupled, monkeypatch):
    monkeypatch.setattr("dtda_prob.divergences.pairwise.BLOCK", 1000)
    old, new = RNG(2).normal(size=(2, 16, 3, 5))
    together = estimate(OF_NUMBERS[name], old, new, coupled=coupled, seed=3)
    alone = estimate(OF_NUMBERS[name], old[:, 1, 0], new[:, 1, 0], coupled=coupled, seed=3)
    for field in ("value", "error", "lower", "upper", "null"):
        whole, one = getattr(together, field), getattr(alone, field)
        np.testing.assert_allclose(whole[1, 0], one, rtol=1e-10, err_msg=field)


@names
@pytest.mark.parametrize("coupled", [True, False])
def test_arms_broadcast(name, coupled):
    rng = RNG(2)
    old, new = rng.normal(size=(16, 3, 1)), rng.normal(size=(16, 3, 4))
    shared = estimate(OF_NUMBERS[name], old, new, coupled=coupled)
    repeated = estimate(OF_NUMBERS[name], old.repeat(4, -1), new, coupled=coupled)
    for one, other in zip(shared, repeated, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("name", sorted({*OF_VECTORS} & {*OF_NUMBERS}))
def test_vectors_of_one_coordinate_are_numbers(name):
    old, new = both_arms(3, shift=0.5)
    number = estimate(OF_NUMBERS[name], old, new, coupled=False)
    vector = estimate(OF_VECTORS[name], old[:, None], new[:, None], coupled=False, vector=True)
    if name == "mean":
        noise = (old.var(ddof=1) + new.var(ddof=1)) / 64
        assert vector.value**2 == pytest.approx(number.value**2 - noise)
    else:
        assert vector.value == pytest.approx(number.value)
        assert vector.error == pytest.approx(number.error, rel=0.2)


def test_slices_of_numbers_are_wasserstein():
    old, new = RNG(3).normal(size=(2, 40, 1))
    for coupled in (True, False):
        sliced = estimate("sliced_wasserstein", old, new, coupled=coupled, vector=True)
        direct = estimate("wasserstein", old[:, 0], new[:, 0], coupled=coupled)
        assert sliced.value == pytest.approx(direct.value)
        assert sliced.error == pytest.approx(direct.error)


ANALYTIC = {k: d.numbers for k, d in OF_NUMBERS.items() if d.numbers.influences}
ANALYTIC |= {f"{k} of vectors": d.vectors for k, d in OF_VECTORS.items() if d.vectors.influences}
ANALYTIC = {k: f for k, f in ANALYTIC.items() if not any(word in k for word in NOT_SMOOTH)}


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("name", ANALYTIC)
def test_influences_are_those_of_the_jackknife(name, coupled):
    rng, functional = RNG(4), ANALYTIC[name]
    shape = (32, 80, 3) if "vectors" in name else (32, 200)
    old = rng.normal(size=shape)
    new = 0.8 + (1.3 * old + 0.4 * rng.normal(size=shape) if coupled else 1.4 * rng.normal(size=shape))
    old, new = (vectors(name.removesuffix(" of vectors"), arm) for arm in (old, new))
    new = new if coupled else new[:24]
    exact = expand(functional, old, new, coupled)
    leaving = expand(functional._replace(influences=jackknife(functional.statistic)), old, new, coupled)
    for one, other in zip(exact.influences, leaving.influences, strict=True):
        assert np.abs(one.mean(0)).max() < 1e-9
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.8
        assert np.sqrt((one**2).mean() / (other**2).mean()) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("sizes", [(64, 64), (64, 48), (10, 7)])
def test_distances_are_those_of_scipy(sizes):
    rng = RNG(4)
    old, new = rng.normal(size=sizes[0]), 0.3 + rng.normal(size=sizes[1])
    twice = [np.tile(arm, 2) for arm in (old, new)]  # so that each half of it is the whole
    found = estimate("wasserstein1", *twice, coupled=False).value
    assert found == pytest.approx(scipy.stats.wasserstein_distance(old, new))
    biased = scipy.stats.energy_distance(old, new) ** 2
    n, m = sizes
    within = [np.abs(x[:, None] - x).mean() for x in (old, new)]
    unbiased = biased - within[0] / (n - 1) - within[1] / (m - 1)
    assert estimate("energy", old, new, coupled=False).value == pytest.approx(unbiased)


def test_closed_forms_of_a_normal():
    rng = RNG(5)
    old, new = rng.normal(size=20_000), 1.0 + 2.0 * rng.normal(size=20_000)
    exact = {
        "mean": 1.0,
        "variance": 3.0,
        "wasserstein": np.sqrt(2.0),
        "log_sd_ratio": np.log(2.0),
        "median": 1.0,
        "quantile(0.9)": 1.0 + scipy.stats.norm.ppf(0.9),
        "tail_probability(0.5)": scipy.stats.norm.sf(-0.25) - scipy.stats.norm.sf(0.5),
        "kullback_leibler": np.log(2.0) + 2 / 8 - 1 / 2,
        "kullback_leibler, reverse": -np.log(2.0) + 5 / 2 - 1 / 2,
        "jensen_shannon": _jensen_shannon(1.0, 2.0),
        "total_variation": quad(lambda x: np.maximum(_old(x) - _new(x), 0), -9, 9, limit=200)[0],
        "kolmogorov_smirnov": max(np.abs(_gap(np.linspace(-9, 9, 2001)))),
    }
    for name, value in exact.items():
        found = estimate(OF_NUMBERS[name], old, new, coupled=False, num_permutations=0)
        assert abs(found.value - value) < 4 * found.error


_old, _new = scipy.stats.norm.pdf, scipy.stats.norm(1.0, 2.0).pdf


def _gap(x):
    return scipy.stats.norm.cdf(x) - scipy.stats.norm.cdf(x, 1.0, 2.0)


def _jensen_shannon(mean, sd):
    normal = scipy.stats.norm(mean, sd)

    def told(x):
        p, q = _old(x), normal.pdf(x)
        return (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))) / 2

    return quad(told, mean - 8 * sd, mean + 8 * sd, limit=200)[0]


@pytest.mark.parametrize("coupled", [True, False])
def test_information_of_few_draws_is_that_of_normals(coupled):
    rng = RNG(20)
    old, noise = rng.normal(size=(2, 40, 600))
    new = 0.4 + 1.2 * (0.95 * old + np.sqrt(1 - 0.95**2) * noise if coupled else noise)
    exact = {
        "kullback_leibler": np.log(1.2) + 1.16 / 2 / 1.44 - 0.5,
        "kullback_leibler, reverse": -np.log(1.2) + 1.6 / 2 - 0.5,
        "jensen_shannon": _jensen_shannon(0.4, 1.2),
    }
    for name, value in exact.items():
        found = OF_NUMBERS[name].numbers.statistic(old, new, coupled)
        assert abs(found.mean() - value) < 4 * found.std() / np.sqrt(600)
        near = OF_NUMBERS.get(f"{name}, neighbours")
        if near:
            found = near.numbers.statistic(old, new, coupled)
            assert found.mean() == pytest.approx(value, abs=0.3 * found.std())


def test_information_of_vectors_is_that_of_normals():
    rng, shift, scale = RNG(21), np.array([0.5, 0.0, -0.5]), np.array([1.0, 1.5, 0.8])
    mix = rng.normal(size=(3, 3))
    old, new = rng.normal(size=(2, 40, 400, 3))
    old, new = old @ mix, (shift + scale * new) @ mix
    exact = np.log(scale).sum() + ((1 + shift**2) / scale**2).sum() / 2 - 1.5
    found = available["kullback_leibler"].vectors.statistic(old, new, False)
    assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(400)
    found = available["jensen_shannon"].vectors.statistic(old, old + shift @ mix, True)
    assert found.mean() == pytest.approx(_jensen_shannon(np.linalg.norm(shift), 1.0), rel=0.02)


def test_mmd_of_normals_is_its_closed_form():
    rng = RNG(5)
    old, new = rng.normal(size=(300, 40)), 1.0 + rng.normal(size=(300, 40))
    found = estimate(mmd(bandwidth=1.0), old, new, coupled=False, num_permutations=0).value
    exact = 2 / np.sqrt(3) * (1 - np.exp(-1 / 6))
    assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(40)


@pytest.mark.parametrize("name", ["wasserstein", "wasserstein1"])
def test_coupled_distances_see_a_shift_far_below_the_spread(name):
    rng = RNG(6)
    old = rng.normal(size=64)
    shifted, still = (estimate(name, old, old + d + 1e-3 * rng.normal(size=64)) for d in (3e-3, 0.0))
    assert shifted.value == pytest.approx(3e-3, rel=0.2)
    assert shifted.value > shifted.null
    assert still.value < still.null


CENTRED = [
    name
    for name, divergence in OF_NUMBERS.items()
    if not divergence.numbers.signed and "neighbours" not in name
]


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("name", CENTRED)
def test_estimates_are_centred_on_zero_when_nothing_moves(name, coupled):
    old, noise = RNG(7).normal(size=(2, 32, 2000))
    new = noise
    if coupled:
        new = old + 0.1 * noise * RNG(9).choice([-1, 1], size=(32, 1))
        old, new = _swapped(old, new)
    value = OF_NUMBERS[name].numbers.statistic(old, new, coupled)
    assert abs(value.mean()) < 0.2 * value.std()


def _swapped(old, new):
    swap = RNG(10).random(old.shape) < 0.5
    return np.where(swap, new, old), np.where(swap, old, new)


@pytest.fixture(scope="module")
def sinkhorn_of_normals():
    """Give values and influences for 100 pairs that moved and 100 that did not, in both modes."""
    rng, found = RNG(22), {}
    old, noise = rng.normal(size=(2, 32, 100, 3)).astype(np.float32)
    for coupled in (True, False):
        still = 0.98 * old + 0.2 * noise if coupled else noise
        for shift in (0.0, 1.0):
            arms = old, still + np.array([shift, 0, 0], np.float32)
            functional = available["sinkhorn"].vectors
            value = functional.statistic(*arms, coupled)
            found[coupled, shift] = value, functional.influences(*arms, coupled)
    return found


@pytest.mark.parametrize("coupled", [True, False])
def test_the_sinkhorn_divergence_of_a_shift_is_its_square(coupled, sinkhorn_of_normals):
    for shift in (0.0, 1.0):
        value, _ = sinkhorn_of_normals[coupled, shift]
        assert value.mean() == pytest.approx(shift**2, abs=0.35 * value.std())


@pytest.mark.parametrize("coupled", [True, False])
def test_potentials_give_the_error_of_the_sinkhorn_divergence(coupled, sinkhorn_of_normals):
    value, (by_old, by_new) = sinkhorn_of_normals[coupled, 1.0]
    arms = [by_old + by_new] if coupled else [by_old, by_new]
    error = np.sqrt(sum((arm**2).sum(0) for arm in arms) / (32 * 31))
    assert np.sqrt((error**2).mean()) == pytest.approx(value.std(), rel=0.2)


def test_the_sinkhorn_divergence_lies_between_its_limits():
    rng = RNG(23)
    old, new = rng.normal(size=(2, 40, 2)).astype(np.float32)
    new = new + np.array([1.0, 0.0], np.float32)
    free, bound = (sinkhorn(epsilon).vectors.statistic(old, new, False) for epsilon in (0.02, 100.0))
    transport = available["wasserstein"].vectors.statistic(old, new, False)
    means = available["mean"].vectors.statistic(old, new, False)
    assert free == pytest.approx(transport, abs=0.1)
    assert bound == pytest.approx(means, abs=0.1)
    with pytest.warns(RuntimeWarning, match="has not converged for 1 pairs"):
        sinkhorn(1e-3).vectors.statistic(old, new, False)


def test_without_its_library_sinkhorn_says_what_to_install(monkeypatch):
    monkeypatch.setattr("dtda_prob.divergences.entropic_transport._solver", _ott)
    monkeypatch.setitem(sys.modules, "ott.solvers", None)
    with pytest.raises(ImportError, match=r"dtda_prob\[transport\]"):
        estimate("sinkhorn", np.arange(8.0), np.arange(8.0))


@names
def test_the_null_level_is_exceeded_one_time_in_twenty(name):
    if OF_NUMBERS[name].numbers.signed:
        assert np.isnan(estimate(OF_NUMBERS[name], *both_arms(0)).null).all()
        return
    old, new = RNG(11).normal(size=(2, 24, 600))
    found = estimate(OF_NUMBERS[name], old, new, coupled=False, num_permutations=60)
    assert (found.value > found.null).mean() == pytest.approx(0.05, abs=0.03)


@names
@pytest.mark.parametrize("coupled", [True, False])
def test_p_values_are_uniform_when_nothing_moves(name, coupled):
    rng, found = RNG(12), []
    for seed in range(5):
        old, new = rng.normal(size=(2, 32, 300))
        if coupled:
            old, new = old + 0.5 * new, old - 0.5 * new
        chosen = OF_NUMBERS[name]
        found += [estimate(chosen, old, new, coupled=coupled, num_permutations=20, seed=seed).p_value]
    for level in (0.05, 0.2):
        # Student's tests of few draws are on the safe side
        assert 0.5 * level < (np.array(found) <= level).mean() < 1.4 * level


@names
def test_p_values_of_what_moves_are_small(name):
    rng = RNG(13)
    old = rng.normal(size=(64, 50))
    new = 0.5 + 1.5 * old + 0.01 * rng.normal(size=(64, 50))
    new[:, 25:] = old[:, 25:]
    found = estimate(OF_NUMBERS[name], old, new, num_permutations=40).p_value
    assert np.median(found[:25]) < (0.1 if "neighbours" in name else 0.01)
    assert (found[25:] > 0.3).all()


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("name", OF_NUMBERS)
def test_standard_errors_are_the_spread_over_repetitions(name, coupled):
    rng = RNG(12)
    old = rng.normal(size=(48, 800))
    noise = rng.normal(size=(48, 800))
    new = 1.5 + (1.4 * old + 0.3 * noise if coupled else 1.4 * noise)
    found = estimate(OF_NUMBERS[name], old, new, coupled=coupled, num_permutations=0)
    assert np.sqrt((found.error**2).mean()) == pytest.approx(found.value.std(), rel=0.2)


def test_entropies_are_those_of_scipy():
    old, new = softmax(RNG(15).normal(size=(2, 4000, 5)), axis=-1)
    of_mean = [scipy.stats.entropy(arm.mean(0)) for arm in (old, new)]
    mean_of = [scipy.stats.entropy(arm, axis=-1).mean() for arm in (old, new)]
    exact = {
        "predictive_entropy": of_mean[1] - of_mean[0],
        "expected_entropy": mean_of[1] - mean_of[0],
        "mutual_information": of_mean[1] - mean_of[1] - (of_mean[0] - mean_of[0]),
    }
    for name, value in exact.items():
        found = estimate(name, old, new, vector=True, num_permutations=0)
        assert found.value == pytest.approx(value, abs=1e-4)


def test_the_entropy_of_a_mean_of_few_draws_is_not_low():
    rng = RNG(16)
    spread = rng.dirichlet([0.5, 0.5, 1.0], size=(8, 4000))
    truth = entr(np.array([0.25, 0.25, 0.5])).sum()
    still = np.broadcast_to([1.0, 0.0, 0.0], spread.shape)
    found = available["predictive_entropy"].vectors.statistic(still, spread, False)
    assert entr(spread.mean(0)).sum(-1).mean() < truth - 0.02
    assert found.mean() == pytest.approx(truth, abs=0.008)


@pytest.mark.parametrize("coupled", [True, False])
def test_the_trade_off_of_normals_is_gaussian(coupled):
    rng = RNG(17)
    old, noise = rng.normal(size=(2, 64, 300))
    new = 1.0 + (0.9 * old + np.sqrt(1 - 0.81) * noise if coupled else noise)
    curve = trade_off_curve(old, new, coupled=coupled)
    best = scipy.stats.norm.cdf(scipy.stats.norm.ppf(1 - curve.level) - 1.0)
    np.testing.assert_allclose(curve.type_two.mean(1), best, atol=0.03)
    spread = curve.type_two.std(1)
    np.testing.assert_allclose(np.sqrt((curve.error**2).mean(1)), spread, rtol=0.3)
    found = available["trade_off"].numbers.statistic(old, new, coupled)
    area = scipy.stats.norm.cdf(1 / np.sqrt(2)) - 0.5
    assert found.mean() == pytest.approx(area, abs=0.01)


def test_arms_that_lie_apart_are_told_apart():
    old, new = both_arms(18, shift=50.0)
    assert estimate("trade_off", old, new).value == np.inf
    assert estimate("total_variation", old, new).value == 1.0
    assert estimate("kolmogorov_smirnov", old, new).value == 1.0
    assert estimate("jensen_shannon", old, new).value == pytest.approx(np.log(2.0))


@pytest.mark.parametrize("coupled", [True, False])
def test_intervals_of_squares_cover_where_the_effect_is_about_its_error(coupled):
    rng = RNG(24)
    old, noise = rng.normal(size=(2, 48, 600))
    new = 0.3 + (0.98 * old + np.sqrt(1 - 0.98**2) * noise if coupled else noise)
    within, across = 2 / np.sqrt(np.pi), scipy.stats.foldnorm.mean(0.3 / np.sqrt(2)) * np.sqrt(2)
    exact = {
        "wasserstein": 0.3,
        "energy": 2 * (across - within),
        "kullback_leibler": 0.045,
        "jensen_shannon": _jensen_shannon(0.3, 1.0),
    }
    for name, value in exact.items():
        found = estimate(name, old, new, coupled=coupled, num_permutations=0)
        assert 0.86 < ((found.lower <= value) & (value <= found.upper)).mean() < 0.96


def test_errors_that_hang_on_few_draws_have_few_degrees_of_freedom():
    draws = RNG(25).normal(size=(64, 400))
    many = expand(available["mean"].numbers, draws, draws[::-1], False).freedom()
    assert np.median(many) == pytest.approx(126, rel=0.1)
    few = np.zeros(64)
    few[0] = 1.0
    assert expand(available["mean"].numbers, few, np.zeros(64), True).freedom() == pytest.approx(
        2, rel=0.1
    )


def test_the_error_of_a_mean_is_the_textbook_s():
    rng = RNG(13)
    old, new, longer = rng.normal(size=20), rng.normal(size=20), rng.normal(size=30)
    paired = (old - new).std(ddof=1) / np.sqrt(20)
    apart = np.hypot(old.std(ddof=1) / np.sqrt(20), longer.std(ddof=1) / np.sqrt(30))
    assert estimate("mean", old, new).error == pytest.approx(paired)
    assert estimate("mean", old, longer, coupled=False).error == pytest.approx(apart)


def test_any_function_is_a_divergence():
    def median_gap(old, new):
        return np.abs(np.median(old, axis=0) - np.median(new, axis=0))

    old, new = both_arms(14, shift=2.0)
    found = estimate(median_gap, old, new, coupled=False)
    assert found.value == pytest.approx(abs(np.median(old) - np.median(new)))
    assert found.value > found.null
    signed = Functional(lambda old, new, coupled: median_gap(old, new), signed=True)
    named = Divergence("gap", signed)
    assert np.isnan(estimate(named, old, new, coupled=False).null)


@pytest.mark.parametrize(
    ("name", "old", "new", "options", "message"),
    [
        ("wasserstien", np.ones(4), np.ones(4), {}, "wasserstien"),
        ("mean", np.ones(2), np.ones(2), {}, "at least 3 draws"),
        ("mean", np.ones(4), np.ones(5), {}, "coupled=False"),
        (
            "wasserstein",
            np.ones((4, 2)),
            np.ones((5, 2)),
            {"coupled": False, "vector": True},
            "as many draws",
        ),
        ("median", np.ones((4, 2)), np.ones((4, 2)), {"vector": True}, "not defined for vectors"),
        ("wasserstein1", np.ones((4, 2)), np.ones((4, 2)), {"vector": True}, "not defined for vectors"),
        ("sliced_wasserstein", np.ones(4), np.ones(4), {}, "not defined for numbers"),
        ("mean", np.ones(4), np.ones(4), {"level": 1.0}, "level=1.0"),
        ("mutual_information", np.ones((4, 2)), np.ones((4, 2)), {"vector": True}, "sums are up to 1"),
        ("jensen_shannon", np.ones((4, 2)), np.ones((4, 2)), {"vector": True}, "do not settle"),
        ("kullback_leibler", np.ones((8, 2)), np.ones((8, 2)), {"vector": True}, "lie in a plane"),
        ("trade_off", np.arange(7), np.arange(7), {}, "at least 8 draws"),
        (kullback_leibler("neighbours", 8), np.arange(8), np.arange(8), {}, "num_neighbours=8"),
    ],
)
def test_bad_requests_are_refused(name, old, new, options, message):
    with pytest.raises(ValueError, match=message):
        estimate(name, old, new, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("kernel",), "kernel"), (("gaussian", 3), "goes with"), (("neighbours", 0), "1")],
)
def test_bad_methods_are_refused(arguments, message):
    for constructor in (kullback_leibler, jensen_shannon):
        with pytest.raises(ValueError, match=message):
            constructor(*arguments)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (arviz_stats.wasserstein, wasserstein(order=1)),
        (arviz_stats.kl_divergence, kullback_leibler("neighbours")),
    ],
)
def test_distances_are_those_of_arviz(theirs, ours):
    rng = RNG(30)
    old, new = rng.normal(size=(4, 250)), 1.0 + 1.3 * rng.normal(size=(4, 250))
    trees = [arviz_base.from_dict({"posterior": {"m": draws}}) for draws in (old, new)]
    found = estimate(ours, old.ravel(), new.ravel(), coupled=False, num_permutations=0)
    assert found.value == pytest.approx(theirs(*trees, round_to="none"), abs=3 * found.error)
