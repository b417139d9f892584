"""Divergences against exact values, other libraries and their own errors."""

import pickle
import sys

import arviz_base
import arviz_stats
import numpy as np
import pytest
import scipy.stats
from cases.divergences import CASES, jensen_shannon, where
from scipy.special import entr, softmax

from dtda_prob import divergences
from dtda_prob.divergences import (
    Divergence,
    available,
    estimate,
    mmd,
    register,
    sinkhorn,
    wasserstein,
)
from dtda_prob.divergences.estimates import expand

SCALAR = where(lambda case: "scalars" in case.outcomes and not case.slow)
VECTOR = where(lambda case: case.outcomes != ("scalars",) and not case.slow)
KINDS = [(name, False) for name in SCALAR] + [(name, True) for name in VECTOR]
names = pytest.mark.parametrize("name", SCALAR)
every_kind = pytest.mark.parametrize(("name", "vector"), KINDS)
both_couplings = pytest.mark.parametrize("coupled", [True, False])
RNG = np.random.default_rng


def of(name: str, vector: bool = False) -> Divergence:
    return CASES[name].divergence.of(vector)


def both_arms(seed: int, num_draws: int = 64, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    return rng.normal(size=num_draws), shift + rng.normal(size=num_draws)


def fit(name: str, draws: np.ndarray) -> np.ndarray:
    """Turn vectors into what the divergence is defined for."""
    if "probabilities" in CASES[name].outcomes:
        return softmax(draws + np.arange(draws.shape[-1]), axis=-1)
    return draws


def grown(how: str, draws: np.ndarray) -> np.ndarray:
    """Move draws so that a signed divergence must be positive."""
    return {
        "shift": lambda x: x + 0.7,
        "spread": lambda x: x.mean(0) + 1.5 * (x - x.mean(0)),
        "soften": lambda p: (p + p.mean(-1, keepdims=True)) / 2,
        "sharpen": lambda p: p**4 / (p**4).sum(-1, keepdims=True),
    }[how](draws)


# What each is.


def test_each_is_known_by_its_name_and_has_a_case():
    assert {case.divergence.name for case in CASES.values()} >= set(available)
    assert all(available[name].name == name for name in available)


@pytest.mark.parametrize("name", CASES)
def test_each_is_a_value_that_its_code_makes_again(name):
    divergence = CASES[name].divergence
    assert eval(repr(divergence), vars(divergences)) == divergence
    assert pickle.loads(pickle.dumps(divergence)) == divergence
    assert len({divergence, pickle.loads(pickle.dumps(divergence))}) == 1
    others = [case.divergence for other, case in CASES.items() if other != name]
    assert divergence not in others


@pytest.mark.parametrize("name", CASES)
def test_each_is_defined_for_its_outcomes_alone(name):
    for vector, kinds in ((False, {"scalars"}), (True, {"vectors", "probabilities"})):
        if kinds & set(CASES[name].outcomes):
            assert of(name, vector).name == CASES[name].divergence.name
        else:
            with pytest.raises(ValueError, match="is not defined for"):
                of(name, vector)


@pytest.mark.parametrize("name", CASES)
def test_what_is_signed_says_what_moves(name):
    case = CASES[name]
    vector = "scalars" not in case.outcomes
    meaning = case.divergence.of(vector).meaning("squared_error", "ppm")
    assert meaning.signed == case.divergence.of(vector).signed == bool(case.grows)
    assert ("squared error" in meaning.quantity or "models" in meaning.quantity) == meaning.signed
    assert not mean_of_vectors().meaning("prediction").signed


def mean_of_vectors() -> Divergence:
    return divergences.mean().of(vector=True)


@every_kind
def test_every_sign_is_of_what_the_change_does(name, vector):
    case, rng = CASES[name], RNG(40)
    divergence = of(name, vector)
    old, other = (fit(name, draws) for draws in rng.normal(size=(2, 32, 6, 3)))
    one, turned = (divergence.statistic(*arms, True) for arms in ((old, other), (other, old)))
    if not divergence.signed:
        assert (np.abs(one + turned) > 1e-9).any()
        return
    np.testing.assert_allclose(one, -turned, atol=1e-12)
    assert (divergence.statistic(old, grown(case.grows, old), True) > 0).all()


# Laws.


@names
def test_a_sample_is_at_no_distance_from_itself(name):
    draws, _ = both_arms(0)
    found = estimate(CASES[name].divergence, draws, draws, coupled=True)
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert found.lower <= 1e-12
    assert found.upper >= -1e-12
    apart = estimate(CASES[name].divergence, draws, draws, coupled=False).value
    assert apart < -1e-3 if CASES[name].unbiased else apart == pytest.approx(0.0, abs=1e-12)


@every_kind
def test_the_order_of_pairs_does_not_matter(name, vector):
    rng = RNG(1)
    old, new = fit(name, rng.normal(size=(2, 24, 3))) if vector else rng.normal(size=(2, 24, 3))
    order, divergence = rng.permutation(24), CASES[name].divergence
    one, other = (
        estimate(divergence, a, b, vector=vector) for a, b in ((old, new), (old[order], new[order]))
    )
    tolerance = {"atol": 0.5} if CASES[name].by_parts else {"rtol": 1e-10}
    np.testing.assert_allclose(one.value, other.value, **tolerance)
    if not vector:
        np.testing.assert_allclose(one.error, other.error, **tolerance)


@names
@both_couplings
def test_many_pairs_at_once_are_each_pair(name, coupled, monkeypatch):
    monkeypatch.setattr("dtda_prob.divergences.pairwise.BLOCK", 1000)
    old, new = RNG(2).normal(size=(2, 16, 3, 5))
    together = estimate(CASES[name].divergence, old, new, coupled=coupled, seed=3)
    alone = estimate(CASES[name].divergence, old[:, 1, 0], new[:, 1, 0], coupled=coupled, seed=3)
    for field in ("value", "error", "lower", "upper", "null"):
        whole, one = getattr(together, field), getattr(alone, field)
        np.testing.assert_allclose(whole[1, 0], one, rtol=1e-10, err_msg=field)


@names
@both_couplings
def test_arms_broadcast(name, coupled):
    rng = RNG(2)
    old, new = rng.normal(size=(16, 3, 1)), rng.normal(size=(16, 3, 4))
    shared = estimate(CASES[name].divergence, old, new, coupled=coupled)
    repeated = estimate(CASES[name].divergence, old.repeat(4, -1), new, coupled=coupled)
    for one, other in zip(shared, repeated, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("name", [name for name in SCALAR if name in VECTOR])
def test_vectors_of_one_coordinate_are_scalars(name):
    old, new = both_arms(3, shift=0.5)
    scalar = estimate(CASES[name].divergence, old, new, coupled=False)
    vector = estimate(CASES[name].divergence, old[:, None], new[:, None], coupled=False, vector=True)
    if name == "mean":
        noise = (old.var(ddof=1) + new.var(ddof=1)) / 64
        assert vector.value**2 == pytest.approx(scalar.value**2 - noise)
    else:
        assert vector.value == pytest.approx(scalar.value)
        assert vector.error == pytest.approx(scalar.error, rel=0.2)


def test_slices_of_scalars_are_wasserstein():
    old, new = RNG(3).normal(size=(2, 40, 1))
    for coupled in (True, False):
        sliced = estimate("sliced_wasserstein", old, new, coupled=coupled, vector=True)
        direct = estimate("wasserstein", old[:, 0], new[:, 0], coupled=coupled)
        assert sliced.value == pytest.approx(direct.value)
        assert sliced.error == pytest.approx(direct.error)


SMOOTH = [
    (name, vector)
    for name, vector in KINDS
    if CASES[name].smooth and of(name, vector).has_contributions
]


@both_couplings
@pytest.mark.parametrize(("name", "vector"), SMOOTH)
def test_contributions_are_those_of_the_jackknife(name, vector, coupled):
    rng, divergence = RNG(4), of(name, vector)
    shape = (32, 30, 3) if vector else (32, 80)
    old = rng.normal(size=shape)
    new = 0.8 + (1.3 * old + 0.4 * rng.normal(size=shape) if coupled else 1.4 * rng.normal(size=shape))
    old, new = fit(name, old), fit(name, new)[: 32 if coupled else 24]
    exact = expand(divergence, old, new, coupled).contributions
    by_old, by_new = Divergence.contributions(divergence, old, new, coupled)
    for one, other in zip(exact, [by_old + by_new] if coupled else [by_old, by_new], strict=True):
        assert np.abs(one.mean(0)).max() < 1e-9
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.8
        assert np.sqrt((one**2).mean() / (other**2).mean()) == pytest.approx(1.0, abs=0.25)


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


def normal(name: str, mean: float, sd: float) -> float:
    """Return the exact value for N(0, 1) and N(mean, sd^2)."""
    return CASES[name].normal(mean, sd)


@pytest.mark.parametrize("name", where(lambda case: case.normal is not None))
def test_closed_forms_of_a_normal(name):
    rng = RNG(5)
    old, new = rng.normal(size=20_000), 1.0 + 2.0 * rng.normal(size=20_000)
    found = estimate(CASES[name].divergence, old, new, coupled=False, num_permutations=0)
    assert abs(found.value - normal(name, 1.0, 2.0)) < 4 * found.error


@both_couplings
@pytest.mark.parametrize("name", ["kullback_leibler", "kullback_leibler_reverse", "jensen_shannon"])
def test_information_of_few_draws_is_that_of_normals(name, coupled):
    rng = RNG(20)
    old, noise = rng.normal(size=(2, 40, 600))
    new = 0.4 + 1.2 * (0.95 * old + np.sqrt(1 - 0.95**2) * noise if coupled else noise)
    found = of(name).statistic(old, new, coupled)
    assert abs(found.mean() - normal(name, 0.4, 1.2)) < 4 * found.std() / np.sqrt(600)


def test_information_of_vectors_is_that_of_normals():
    rng, shift, scale = RNG(21), np.array([0.5, 0.0, -0.5]), np.array([1.0, 1.5, 0.8])
    mix = rng.normal(size=(3, 3))
    old, new = rng.normal(size=(2, 40, 400, 3))
    old, new = old @ mix, (shift + scale * new) @ mix
    exact = np.log(scale).sum() + ((1 + shift**2) / scale**2).sum() / 2 - 1.5
    found = of("kullback_leibler", True).statistic(old, new, False)
    assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(400)
    found = of("jensen_shannon", True).statistic(old, old + shift @ mix, True)
    assert found.mean() == pytest.approx(jensen_shannon(np.linalg.norm(shift), 1.0), rel=0.02)


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


@both_couplings
@pytest.mark.parametrize("name", [name for name in SCALAR if not CASES[name].grows])
def test_estimates_are_centred_on_zero_when_nothing_moves(name, coupled):
    old, noise = RNG(7).normal(size=(2, 32, 2000))
    new = noise
    if coupled:
        new = old + 0.1 * noise * RNG(9).choice([-1, 1], size=(32, 1))
        old, new = _swapped(old, new)
    value = of(name).statistic(old, new, coupled)
    assert abs(value.mean()) < 0.2 * value.std()


def _swapped(old, new):
    swap = RNG(10).random(old.shape) < 0.5
    return np.where(swap, new, old), np.where(swap, old, new)


@pytest.fixture(scope="module")
def sinkhorn_of_normals():
    """Return values and contributions for 100 pairs that moved and 100 that did not, in both modes."""
    rng, found = RNG(22), {}
    old, noise = rng.normal(size=(2, 32, 100, 3)).astype(np.float32)
    for coupled in (True, False):
        still = 0.98 * old + 0.2 * noise if coupled else noise
        for shift in (0.0, 1.0):
            arms = old, still + np.array([shift, 0, 0], np.float32)
            value = sinkhorn().statistic(*arms, coupled)
            found[coupled, shift] = value, sinkhorn().contributions(*arms, coupled)
    return found


@both_couplings
def test_the_sinkhorn_divergence_of_a_shift_is_its_square(coupled, sinkhorn_of_normals):
    for shift in (0.0, 1.0):
        value, _ = sinkhorn_of_normals[coupled, shift]
        assert value.mean() == pytest.approx(shift**2, abs=0.35 * value.std())


@both_couplings
def test_potentials_give_the_error_of_the_sinkhorn_divergence(coupled, sinkhorn_of_normals):
    value, (by_old, by_new) = sinkhorn_of_normals[coupled, 1.0]
    arms = [by_old + by_new] if coupled else [by_old, by_new]
    error = np.sqrt(sum((arm**2).sum(0) for arm in arms) / (32 * 31))
    assert np.sqrt((error**2).mean()) == pytest.approx(value.std(), rel=0.2)


def test_the_sinkhorn_divergence_lies_between_its_limits():
    rng = RNG(23)
    old, new = rng.normal(size=(2, 40, 2)).astype(np.float32)
    new = new + np.array([1.0, 0.0], np.float32)
    free, bound = (sinkhorn(epsilon).statistic(old, new, False) for epsilon in (0.02, 100.0))
    transport = of("wasserstein", True).statistic(old, new, False)
    means = of("mean", True).statistic(old, new, False)
    assert free == pytest.approx(transport, abs=0.1)
    assert bound == pytest.approx(means, abs=0.1)
    with pytest.warns(RuntimeWarning, match="has not converged for 1 pairs"):
        sinkhorn(1e-3).statistic(old, new, False)


def test_without_its_library_sinkhorn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ott.solvers", None)
    with pytest.raises(ImportError, match=r"dtda_prob\[transport\]"):
        estimate("sinkhorn", np.arange(11.0), np.arange(11.0))  # of a shape not compiled yet


@names
@both_couplings
def test_an_interval_contains_its_estimate(name, coupled):
    old, new = RNG(14).normal(size=(2, 24, 600))
    for level in (0.3, 0.9):
        found = estimate(
            CASES[name].divergence, old, new, coupled=coupled, level=level, num_permutations=0
        )
        assert ((found.lower <= found.value) & (found.value <= found.upper)).all()


@names
def test_the_null_level_is_exceeded_one_time_in_twenty(name):
    if of(name).signed:
        assert np.isnan(estimate(CASES[name].divergence, *both_arms(0)).null).all()
        return
    old, new = RNG(11).normal(size=(2, 24, 600))
    found = estimate(CASES[name].divergence, old, new, coupled=False, num_permutations=60)
    assert (found.value > found.null).mean() == pytest.approx(0.05, abs=0.03)


@names
@both_couplings
def test_p_values_are_uniform_when_nothing_moves(name, coupled):
    rng, found = RNG(12), []
    for seed in range(5):
        old, new = rng.normal(size=(2, 32, 300))
        if coupled:
            old, new = old + 0.5 * new, old - 0.5 * new
        chosen = CASES[name].divergence
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
    found = estimate(CASES[name].divergence, old, new, num_permutations=40).p_value
    assert np.median(found[:25]) < 0.01
    assert (found[25:] > 0.3).all()


@both_couplings
@names
def test_standard_errors_are_the_spread_over_repetitions(name, coupled):
    rng = RNG(12)
    old = rng.normal(size=(48, 800))
    noise = rng.normal(size=(48, 800))
    new = 1.5 + (1.4 * old + 0.3 * noise if coupled else 1.4 * noise)
    found = estimate(CASES[name].divergence, old, new, coupled=coupled, num_permutations=0)
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
    found = of("predictive_entropy", True).statistic(still, spread, False)
    assert entr(spread.mean(0)).sum(-1).mean() < truth - 0.02
    assert found.mean() == pytest.approx(truth, abs=0.008)


def test_arms_that_lie_apart_are_told_apart():
    old, new = both_arms(18, shift=50.0)
    assert estimate("total_variation", old, new).value == 1.0
    assert estimate("kolmogorov_smirnov", old, new).value == 1.0
    assert estimate("jensen_shannon", old, new).value == pytest.approx(np.log(2.0))


@both_couplings
def test_intervals_of_squares_cover_where_the_effect_is_about_its_error(coupled):
    rng = RNG(24)
    old, noise = rng.normal(size=(2, 48, 600))
    new = 0.3 + (0.98 * old + np.sqrt(1 - 0.98**2) * noise if coupled else noise)
    within, across = 2 / np.sqrt(np.pi), scipy.stats.foldnorm.mean(0.3 / np.sqrt(2)) * np.sqrt(2)
    exact = {"energy": 2 * (across - within)} | {
        name: normal(name, 0.3, 1.0) for name in ("wasserstein", "kullback_leibler", "jensen_shannon")
    }
    for name, value in exact.items():
        found = estimate(name, old, new, coupled=coupled, num_permutations=0)
        assert 0.86 < ((found.lower <= value) & (value <= found.upper)).mean() < 0.96


def test_errors_that_hang_on_few_draws_have_few_degrees_of_freedom():
    draws = RNG(25).normal(size=(64, 400))
    many = expand(of("mean"), draws, draws[::-1], False).freedom()
    assert np.median(many) == pytest.approx(126, rel=0.1)
    few = np.zeros(64)
    few[0] = 1.0
    assert expand(of("mean"), few, np.zeros(64), True).freedom() == pytest.approx(2, rel=0.1)


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


class third_moment(Divergence):
    """A signed divergence of a user's own, with the jackknife's errors."""

    signed = True
    quantity = "the third moment of the {measure}"

    def statistic(self, old, new, coupled):
        return (new**3).mean(0) - (old**3).mean(0)


def test_a_divergence_of_ones_own_has_a_direction_and_can_have_a_name(monkeypatch):
    monkeypatch.setattr("dtda_prob.divergences.registry.available", dict(available))
    register(third_moment())
    old, new = both_arms(14, shift=2.0)
    found = estimate("third_moment", old, new, coupled=False)
    assert found.value == (new**3).mean() - (old**3).mean()
    assert np.isnan(found.null)
    meaning = third_moment().meaning("loss", "nats")
    assert meaning == ("the third moment of the loss", "raises", "lowers", "nats")
    with pytest.raises(ValueError, match="is the name of mean"):
        register(type("mean", (third_moment,), {})())
    with pytest.raises(ValueError, match="not defined for vectors"):
        estimate(third_moment(), old, new, vector=True)


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
        ("sliced_wasserstein", np.ones(4), np.ones(4), {}, "not defined for scalars"),
        ("mean", np.ones(4), np.ones(4), {"level": 1.0}, "level=1.0"),
        ("mutual_information", np.ones((4, 2)), np.ones((4, 2)), {"vector": True}, "sums are up to 1"),
        ("jensen_shannon", np.ones((4, 2)), np.ones((4, 2)), {"vector": True}, "do not settle"),
        ("kullback_leibler", np.ones((8, 2)), np.ones((8, 2)), {"vector": True}, "lie in a plane"),
    ],
)
def test_bad_requests_are_refused(name, old, new, options, message):
    with pytest.raises(ValueError, match=message):
        estimate(name, old, new, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: wasserstein(3), "order=3"),
        (lambda: divergences.sliced_wasserstein(0), "order=0"),
        (lambda: divergences.quantile(1.0), "level=1.0"),
        (lambda: sinkhorn(0.0), "epsilon=0.0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_class_in_place_of_a_divergence_is_refused():
    with pytest.raises(TypeError, match=r"write wasserstein\(\)"):
        estimate(wasserstein, np.arange(8.0), np.arange(8.0))


def test_the_kullback_leibler_divergence_is_that_of_arviz():
    rng = RNG(30)
    old, new = rng.normal(size=(4, 125)), 1.0 + 1.3 * rng.normal(size=(4, 125))
    trees = [arviz_base.from_dict({"posterior": {"m": draws}}) for draws in (old, new)]
    found = estimate("kullback_leibler", old.ravel(), new.ravel(), coupled=False, num_permutations=0)
    theirs = arviz_stats.kl_divergence(*trees, round_to="none")
    assert found.value == pytest.approx(theirs, abs=3 * found.error)
