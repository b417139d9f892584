"""Divergences against exact values, other libraries and their own errors."""

import numpy as np
import pytest
import scipy.stats

from dtda_prob.divergences import Divergence, available, estimate

names = pytest.mark.parametrize("name", available)
RNG = np.random.default_rng


def both_arms(seed: int, num_draws: int = 64, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    return rng.normal(size=num_draws), shift + rng.normal(size=num_draws)


@names
@pytest.mark.parametrize("coupled", [True, False])
def test_a_sample_is_at_no_distance_from_itself(name, coupled):
    draws, _ = both_arms(0)
    value = estimate(name, draws, draws, coupled=coupled).value
    expected = -2 * np.abs(draws[:, None] - draws).sum() / (64**2 * 63) if name == "energy" else 0.0
    assert value == pytest.approx(0.0 if coupled else expected, abs=1e-12)


@names
@pytest.mark.parametrize("vector", [True, False])
def test_the_order_of_pairs_does_not_matter(name, vector):
    rng = RNG(1)
    old, new = rng.normal(size=(2, 24, 3))
    order = rng.permutation(24)
    if name.startswith("wasserstein") and not vector:
        one, other = (
            estimate(name, a, b, coupled=False) for a, b in ((old, new), (old[order], new[order]))
        )
    else:
        one, other = (
            estimate(name, a, b, vector=vector) for a, b in ((old, new), (old[order], new[order]))
        )
    np.testing.assert_allclose(one.value, other.value, rtol=1e-10)


@names
def test_many_pairs_at_once_are_each_pair(name):
    old, new = RNG(2).normal(size=(2, 16, 3, 2))
    together = estimate(name, old, new, seed=3)
    alone = estimate(name, old[:, 1, 0], new[:, 1, 0], seed=3)
    for whole, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(whole[1, 0], one, rtol=1e-10)


@names
def test_vectors_of_one_coordinate_are_numbers(name):
    old, new = both_arms(3, shift=0.5)
    number = estimate(name, old, new, coupled=False).value
    vector = estimate(name, old[:, None], new[:, None], coupled=False, vector=True).value
    assert vector == pytest.approx(abs(number) if name == "mean" else number)


@pytest.mark.parametrize("sizes", [(64, 64), (64, 48), (10, 7)])
def test_distances_are_those_of_scipy(sizes):
    rng = RNG(4)
    old, new = rng.normal(size=sizes[0]), 0.3 + rng.normal(size=sizes[1])
    found = estimate("wasserstein1", old, new, coupled=False).value
    assert found == pytest.approx(scipy.stats.wasserstein_distance(old, new))
    biased = scipy.stats.energy_distance(old, new) ** 2
    n, m = sizes
    within = [np.abs(x[:, None] - x).mean() for x in (old, new)]
    unbiased = biased - within[0] / (n - 1) - within[1] / (m - 1)
    assert estimate("energy", old, new, coupled=False).value == pytest.approx(unbiased)


def test_closed_forms_of_a_normal():
    rng = RNG(5)
    old, new = rng.normal(size=20_000), 1.0 + 2.0 * rng.normal(size=20_000)
    found = {name: estimate(name, old, new, coupled=False, num_permutations=0) for name in available}
    exact = {"mean": -1.0, "variance": 3.0, "wasserstein": np.sqrt(2.0)}
    for name, value in exact.items():
        assert abs(found[name].value - value) < 4 * found[name].error


@pytest.mark.parametrize("name", ["wasserstein", "wasserstein1"])
def test_coupled_distances_see_a_shift_far_below_the_spread(name):
    rng = RNG(6)
    old = rng.normal(size=64)
    shifted, still = (estimate(name, old, old + d + 1e-3 * rng.normal(size=64)) for d in (3e-3, 0.0))
    assert shifted.value == pytest.approx(3e-3, rel=0.2)
    assert shifted.value > shifted.null
    assert still.value < still.null


@pytest.mark.parametrize("name", ["energy", "wasserstein", "wasserstein1"])
def test_coupled_estimates_are_centred_on_zero_when_nothing_moves(name):
    old = RNG(7).normal(size=(32, 4000))
    new = old + 0.1 * RNG(8).normal(size=(32, 4000)) * RNG(9).choice([-1, 1], size=(32, 1))
    value = available[name].statistic(*_swapped(old, new), True, False)
    signed = np.sign(value) * value**2 if name == "wasserstein" else value
    assert abs(signed.mean()) < 4 * signed.std() / np.sqrt(4000)


def _swapped(old, new):
    swap = RNG(10).random(old.shape) < 0.5
    return np.where(swap, new, old), np.where(swap, old, new)


@names
def test_the_null_level_is_exceeded_one_time_in_twenty(name):
    if available[name].signed:
        assert np.isnan(estimate(name, *both_arms(0)).null).all()
        return
    old, new = RNG(11).normal(size=(2, 24, 600))
    found = estimate(name, old, new, coupled=False, num_permutations=60)
    assert (found.value > found.null).mean() == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("name", ["mean", "variance", "wasserstein", "wasserstein1", "energy"])
def test_standard_errors_are_the_spread_over_repetitions(name, coupled):
    rng = RNG(12)
    old = rng.normal(size=(48, 800))
    noise = rng.normal(size=(48, 800))
    new = 1.5 + (1.4 * old + 0.3 * noise if coupled else 1.4 * noise)
    found = estimate(name, old, new, coupled=coupled, num_permutations=0)
    assert np.sqrt((found.error**2).mean()) == pytest.approx(found.value.std(), rel=0.15)


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
    named = Divergence("gap", lambda old, new, coupled, vector: median_gap(old, new), signed=True)
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
    ],
)
def test_bad_requests_are_refused(name, old, new, options, message):
    with pytest.raises(ValueError, match=message):
        estimate(name, old, new, **options)
