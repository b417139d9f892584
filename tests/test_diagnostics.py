"""What says whether a prediction can be trusted, and what it will cost."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import xarray as xr
from jax.flatten_util import ravel_pytree
from scipy.optimize import linprog
from tables import (
    KERNELS,
    NUM_DATA,
    blown_up,
    last,
    ones,
    regression,
    regression_data,
    train,
    train_network,
)

import dtda_prob as dtda
from dtda_prob import curvature, diagnostics, kernels, zoo
from dtda_prob.diagnostics import numbers
from dtda_prob.diagnostics.sampling import r_hat_limit

KEY = jax.random.key(0)
close = np.testing.assert_allclose


def sampled(push_forward, weights):
    dtda.sample(push_forward, KEY, 4, weights)


def pushed(push_forward, weights):
    dtda.attribute(push_forward, KEY, 4, ["mean"], weights, direction="push")


@pytest.mark.parametrize("call", [sampled, pushed])
def test_steps_out_of_range_are_warned_of(call):
    training = train("sgd by epoch")
    weights = dtda.leave_one_out(training.program, range(3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(blown_up(training, 2.0), weights)
        assert not caught
        call(blown_up(training, -1.0), weights)
    assert "BlownUp(factor=-1.0): 3 of the 3 longest steps" in str(caught.pop().message)
    assert not caught


def test_the_length_of_a_group_must_be_right_more_narrowly():
    """Twice the length does for the ranking of single examples, and is wrong of a group's effect."""
    training = train("sgd by epoch")
    pairs = dtda.groups(training.program, {"a": [0, 1], "b": [2, 3]})
    groups = dtda.groups(training.program, {"a": [0, 1, 2], "b": [3, 4, 5]})
    dtda.sample(blown_up(training, 2.0), KEY, 4, pairs)
    with pytest.warns(RuntimeWarning, match="2 of the 2 longest steps.* remove less at a time"):
        dtda.sample(blown_up(training, 2.0), KEY, 4, groups)
    found = diagnostics.linear_range(blown_up(training, 2.0), KEY, groups, num_draws=2)
    assert numbers.lengths(found, group=False) is None
    assert numbers.out_of_range(found)[0] == 1.0


def test_a_removed_class_is_not_a_small_step():
    """Where a class goes, its log-odds fall without bound; first-order steps stop halfway."""
    x, y = np.linspace(-1, 1, 12), np.repeat([0, 1], [9, 3])
    program = dtda.Program(zoo.classifier([], 2), x[:, None], y=y)
    kernel = dtda.kernels.sgd(optax.sgd(0.5), num_steps=50)
    training = dtda.Training(program, kernel, dtda.measures.loss(x[:, None], y=y))
    spread = dtda.remove(program, [1, 5, 9])
    dtda.sample(dtda.unroll(training), KEY, 4, spread)
    with pytest.warns(RuntimeWarning, match="Remove less at a time, or retrain"):
        dtda.sample(dtda.unroll(training), KEY, 4, dtda.remove(program, [9, 10, 11]))


def test_the_check_can_be_left_out_and_retraining_needs_none():
    training = train("sgd by epoch")
    weights = dtda.leave_one_out(training.program, range(3))
    dtda.sample(blown_up(training, 10.0), KEY, 4, weights, options=dtda.Options(check=False))
    dtda.sample(dtda.retrain(training), KEY, 4, weights)
    dtda.sample(training, KEY, 4, weights)


def test_dropped_rows_are_checked_against_the_training_that_drops_them():
    training = train(dtda.kernels.sgd(optax.sgd(0.05), num_epochs=20, batch_size=4), regression(40))
    weights = dtda.random_subsets(training.program, KEY, 2, 36, removal="drop")
    dtda.attribute(dtda.unroll(training), KEY, 4, ["mean"], weights)


def test_the_linear_range_of_a_linear_training_is_everything(x64):
    """Parameters that move by one gradient step are linear in the weights."""
    kernel = dtda.kernels.sgd(optax.sgd(0.05), num_steps=1)
    training = train(kernel, measure=dtda.measures.parameters())
    weights = dtda.leave_one_out(training.program, range(2))
    found = diagnostics.linear_range(dtda.unroll(training), KEY, weights, num_draws=2, num_segments=1)
    close(found["norm_ratio"], 1.0, rtol=1e-8)
    close(found["cosine"], 1.0, rtol=1e-8)
    close(found["halves"], 0.0, atol=1e-8)
    assert found.sizes == {"draw": 2, "perturbation": 2, "share": 1}


def test_an_unstable_training_shows_in_the_growth_of_its_response(x64):
    """A rate beyond the stable one: the response grows from step to step."""
    program = regression()
    weights = dtda.leave_one_out(program, range(2))
    reports = [
        diagnostics.linear_range(
            dtda.unroll(
                train(dtda.kernels.sgd(optax.sgd(1.0), learning_rate=rate, num_steps=40), program)
            ),
            KEY,
            weights,
        )
        for rate in (0.02, 1.0)
    ]
    growth = [report["growth"].isel(share=-1) / report["growth"].isel(share=0) for report in reports]
    assert growth[1].min() > 100 * growth[0].max()


def test_transforms_without_a_response_have_no_halves():
    training = train("sgd by epoch")
    weights = dtda.leave_one_out(training.program, range(2))
    push_forward = dtda.newton(training, curvature.dense("gauss_newton", damping=0.1))
    found = diagnostics.linear_range(push_forward, KEY, weights, num_draws=2)
    assert np.isnan(found["halves"]).all()
    assert np.isfinite(found["norm_ratio"]).all()


def test_residuals_tell_exact_solves_from_approximate_ones(x64):
    training = train("sgd by epoch")
    exact = diagnostics.residuals(training, curvature.gram(damping=0.1), KEY)
    close(exact, 0.0, atol=1e-9)
    assert exact.dims == ("query",)
    assert (diagnostics.residuals(training, curvature.diagonal(damping=0.1), KEY) > 1e-3).all()
    for unmeasured, message in (
        (curvature.identity(damping=1.0), "no matrix"),
        (curvature.gram(damping=curvature.relative(1.0)), "relative"),
    ):
        with pytest.raises(ValueError, match=message):
            diagnostics.residuals(training, unmeasured, KEY)


def test_pareto_k_grows_with_what_is_removed():
    training = train(dtda.kernels.exact())
    program = training.program
    weights = np.stack([ones(), ones().at[0].set(0.9), ones().at[jnp.arange(6)].set(0.0)])
    found = diagnostics.pareto_k(training, KEY, weights, num_draws=1000)
    assert found.shape == (3,)
    assert found[1] < 0.5
    assert found[2] > 0.7
    assert found["grade"].values[1:].tolist() == ["good", "bad"]
    close(found["error"], (1 + found) / (3 * 1000**0.5) ** 0.5)
    single = diagnostics.pareto_k(training, KEY, dtda.remove(program, [0]), num_draws=1000)
    assert single.shape == ()


def test_diagnostics_refuse_several_numbers_of_dropped_rows():
    training = train_network()
    weights = dtda.groups(training.program, {"a": [0], "b": [1, 2]}, removal="drop")
    with pytest.raises(ValueError, match="separately"):
        diagnostics.linear_range(dtda.unroll(training), KEY, weights)


def normals(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def in_chains(draws: np.ndarray, num_chains: int = 4) -> xr.DataArray:
    values = draws.reshape(-1, num_chains, *draws.shape[1:]).swapaxes(0, 1)
    return xr.DataArray(values, dims=("chain", "draw", "query"))


def test_draws_of_independent_seeds_count_in_full():
    found = diagnostics.draws(in_chains(normals(400, 100)))
    assert found["num_draws"] == 400
    close(found["effective_draws"].mean(), 400, rtol=0.1)
    close(found["mcse_mean"].mean(), 1 / 400**0.5, rtol=0.1)
    close(found["mcse_sd"].mean(), 1 / (2 * 400) ** 0.5, rtol=0.1)


@pytest.mark.parametrize(("num_chains", "num_draws"), [(2, 6), (4, 16), (8, 100)])
def test_r_hat_of_independent_draws_stays_below_its_limit(num_chains, num_draws):
    draws = in_chains(normals(num_chains * num_draws, 500), num_chains)
    beyond = diagnostics.draws(draws, num_null=1)["r_hat"] > r_hat_limit(num_chains, num_draws)
    assert 0.015 < beyond.mean() < 0.08


def test_seed_blocks_that_differ_and_draws_that_depend_are_told():
    draws = normals(64, 20)
    apart = in_chains(draws) + xr.DataArray([0.0, 0.0, 0.0, 3.0], dims="chain")
    found = diagnostics.draws(apart)
    assert (found["r_hat"] > found["r_hat_limit"]).all()
    repeated = diagnostics.draws(in_chains(draws.repeat(16, axis=0)[:256]))
    assert repeated["effective_draws"].mean() < 80


def test_draws_that_are_not_finite_are_counted_and_spoil_their_query_alone():
    draws = normals(32, 3)
    draws[:2, 1] = np.nan, np.inf
    found = diagnostics.draws(in_chains(draws))
    assert found["not_finite"].values.tolist() == [0, 2, 0]
    assert found["mcse_mean"].isnull().values.tolist() == [False, True, False]
    assert found["dip_p_value"].isnull().values.tolist() == [False, True, False]
    with pytest.raises(ValueError, match="fewer chains"):
        diagnostics.draws(in_chains(draws[:12]))


def test_draws_of_a_sample_are_those_of_its_tree():
    training = train("exact")
    weights = dtda.leave_one_out(training.program, range(2))
    tree = dtda.sample(training, KEY, 32, weights)
    found = diagnostics.draws(tree)
    assert dict(found.sizes) == {"perturbation": 2, "query": 4}
    values = tree["posterior_predictive"]["loss"].sel(query=1, perturbation=0).values
    close(found["mcse_mean"].sel(query=1, perturbation=0), values.std() / 32**0.5, rtol=0.5)


def nearest_of_one_mode(draws: np.ndarray) -> float:
    """The dip by its definition: a linear program for every place of the mode."""
    points, counts = np.unique(draws, return_counts=True)
    above = np.cumsum(counts) / len(draws)
    below = above - counts / len(draws)
    return min(_distance(points, below, above, mode) for mode in range(len(points)))


def _distance(points, below, above, mode):
    """Unknowns are the function up to the mode, from there on (it may jump), and the distance."""
    left, right = np.arange(mode + 1), np.arange(mode, len(points))
    low = np.r_[above[left[:-1]], below[mode], above[right]]
    high = np.r_[below[left], above[mode], below[right[1:]]]
    rise = np.diff(np.eye(len(low)), axis=0)
    slopes = rise / np.r_[np.diff(points[left]), 1.0, np.diff(points[right])][:, None]
    convex, concave = np.diff(slopes[:mode], axis=0), np.diff(slopes[mode + 1 :], axis=0)
    rows = np.concatenate([-rise, -convex, concave, -np.eye(len(low)), np.eye(len(low))])
    slack = np.r_[np.zeros(len(rows) - 2 * len(low)), -np.ones(2 * len(low))]
    bounds = np.r_[np.zeros(len(rows) - 2 * len(low)), -low, high]
    cost = np.r_[np.zeros(len(low)), 1.0]
    return linprog(cost, np.c_[rows, slack], bounds, bounds=(None, None)).fun


@pytest.mark.parametrize("kind", ["normal", "two clusters", "skewed", "tied"])
def test_the_dip_is_the_distance_to_the_nearest_distribution_of_one_mode(kind):
    for seed, size in enumerate((2, 3, 5, 8, 11, 11)):
        draws = normals(size, seed=seed)
        draws = {
            "normal": draws,
            "two clusters": draws + 3 * np.sign(normals(size, seed=100 + seed)),
            "skewed": np.exp(2 * draws),
            "tied": np.round(draws),
        }[kind]
        found = diagnostics.modes(draws, num_null=1)
        close(found.dip, nearest_of_one_mode(draws), atol=1e-8)


def test_the_dip_has_its_level_where_it_should_and_finds_two_clusters():
    uniform, normal = np.random.default_rng(1).random((64, 1000)), normals(64, 1000)
    level = [(diagnostics.modes(draws).p_value < 0.05).mean() for draws in (uniform, normal, normal**2)]
    assert 0.03 < level[0] < 0.07
    assert max(level[1:]) < 0.05
    clusters = normal + 3 * np.sign(normals(64, 1000, seed=2))
    assert (diagnostics.modes(clusters).p_value < 0.05).mean() > 0.95
    assert diagnostics.modes(np.ones((8, 2))).p_value.tolist() == [1.0, 1.0]


def test_coupling_has_its_exact_value_between_conjugate_posteriors(x64):
    """Both arms are mode + L^-T z, L L' the Hessian, with one z."""
    training = train(kernels.exact(), measure=dtda.measures.parameters())
    weights = dtda.remove(training.program, range(4))
    at_once = dtda.Options(chunk_size=400)
    arms = [dtda.sample(training, KEY, 400, w, options=at_once) for w in (None, weights)]
    x = regression_data()[0]
    old, new = (
        np.linalg.inv(np.linalg.cholesky(x.T @ (w[:, None] * x) / 0.25 + np.eye(3) / 4)).T
        for w in (np.ones(NUM_DATA), weights.values)
    )
    variances = [(a**2).sum(1) for a in (old, new, old - new)]
    found = diagnostics.coupling(*arms)
    expected = (old * new).sum(1) / np.sqrt(variances[0] * variances[1])
    within(found["correlation"], expected, found["correlation_error"])
    ratio = (variances[0] + variances[1]) / variances[2]
    within(found["variance_ratio"], ratio, found["variance_ratio_error"])


def within(found, expected, error):
    assert (np.abs(found - expected) < 4 * error).all()
    assert (error < 0.2 * np.abs(expected)).all()


def test_errors_of_coupling_cover():
    """1.96 errors of independent normal arms: correlation 0 and ratio 1; of nearly equal ones: many."""
    shared, own = normals(48, 500), normals(48, 500, seed=1)
    for share, ratio in ((0.0, 1.0), (0.99, 100.0)):
        new = share * shared + np.sqrt(1 - share**2) * own
        arms = (xr.DataArray(arm, dims=("draw", "query")) for arm in (shared, new))
        found = diagnostics.coupling(*arms)
        for name, expected in (("correlation", share), ("variance_ratio", ratio)):
            off = np.abs(found[name] - expected) / found[f"{name}_error"]
            assert 0.9 < (off < 1.96).mean() < 0.98


def test_coupling_refuses_arms_of_other_keys():
    training = train("exact")
    arms = [dtda.sample(training, key, 8) for key in jax.random.split(KEY)]
    with pytest.raises(ValueError, match="other keys"):
        diagnostics.coupling(*arms)
    values = (tree["posterior_predictive"]["loss"] for tree in arms)
    diagnostics.coupling(*values)
    with pytest.raises(ValueError, match="as many draws"):
        diagnostics.coupling(*(normal_arm(number) for number in (5, 6)))


def normal_arm(num_draws):
    return xr.DataArray(normals(num_draws), dims="draw")


def redundant() -> dtda.Training:
    """y = x (first + second): the difference of the two never matters."""

    def model(x, y):
        first, second = (numpyro.param(name, jnp.zeros(2)) for name in ("first", "second"))
        with numpyro.plate("data", len(x)) as i:
            numpyro.sample("y", dist.Normal(x[i] @ (first + second), 1.0), obs=y[i])

    def asked(params):
        first, second = params["first"], params["second"]
        return jnp.stack([(first + second)[0], (first - second)[1], first[0], first[1] ** 2])

    x, y = regression_data()
    kernel = kernels.sgd(optax.sgd(0.05), num_steps=5)
    measure = dtda.measures.function(asked, queries=["seen", "unseen", "half", "curved"])
    return dtda.Training(dtda.Program(model, x[:, :2], y=y), kernel, measure)


def test_the_null_space_of_redundant_parameters_is_their_difference(x64):
    method = curvature.nystroem(rank=2, rtol=1e-6)
    found = diagnostics.null_space(redundant(), method, KEY, num_draws=2)
    close(found["share"], np.tile([0.0, 1.0, 0.5, 0.5], (2, 1)), atol=1e-7)
    assert found["share"].dims == ("draw", "query")
    assert (found["random_share"] > 0.01).all()


def test_the_cutoff_decides_what_is_flat():
    everything = diagnostics.null_space(
        redundant(), curvature.dense("gauss_newton"), KEY, num_draws=1, rtol=2.0
    )
    close(everything["share"], 1.0, rtol=1e-5)
    close(everything["random_share"], 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (curvature.conjugate_gradient(damping=1.0), "inverses alone"),
        (curvature.gram(damping=1.0, factorization="cholesky"), "inverses alone"),
        (curvature.projection(dimension=2), "random directions"),
    ],
)
def test_curvatures_without_eigenvalues_have_no_null_space(method, message):
    with pytest.raises(ValueError, match=message):
        diagnostics.null_space(redundant(), method, KEY)


def test_training_that_is_cut_is_the_same_up_to_there():
    program, kernel = regression(), KERNELS["phases"]
    whole = last(kernel.run(KEY, program, ones()))[1]
    for share, steps in ((1 / 9, 1), (2 / 3, 6), (1.0, 9)):
        shorter = kernels.truncate(kernel, share)
        losses = last(shorter.run(KEY, program, ones()))[1]
        np.testing.assert_array_equal(losses, whole[:steps])
        sizes = np.concatenate([phase.step_sizes(program) for phase in kernel.phases])
        close(shorter.segment_sizes(program, 1).sum(), sizes[:steps].sum(), rtol=1e-6)
    with pytest.raises(ValueError, match="share=0"):
        kernels.truncate(kernel, 0)


def test_training_that_is_cut_stops_where_the_whole_one_passes():
    program, kernel = regression(), KERNELS["sgd by epoch"]
    ends = kernel.path(KEY, program, ones(), 3).ends
    half = last(kernels.truncate(kernel, 2 / 3).run(KEY, program, ones()))[0]
    close(ravel_pytree(half)[0], ravel_pytree(jax.tree.map(lambda leaf: leaf[1], ends))[0], rtol=1e-6)


def sides(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Bernoulli(logits=x[i] @ slopes), obs=y[i])


def logistic() -> dtda.Training:
    """Logistic regression with a prior, by gradient descent that comes to rest."""
    x, y = regression_data()
    program = dtda.Program(sides, x, y=(y > 0).astype(int))
    return dtda.Training(
        program, kernels.sgd(optax.sgd(1.0), num_steps=100), dtda.measures.parameters()
    )


def test_unrolled_and_influence_responses_meet_as_training_comes_to_rest(x64):
    found = diagnostics.along_training(dtda.influence(logistic()), KEY, shares=(0.02, 1.0), num_draws=3)
    apart = 1 - found["pearson"].mean("query").values
    assert apart[0] > 100 * apart[1]
    close(found["norm_ratio"].sel(share=1.0), 1.0, rtol=1e-3)
    close(found["spearman"].sel(share=1.0), 1.0, rtol=1e-6)
    assert (found["pearson_error"][0] > 1e-4).all()
    exact = diagnostics.along_training(dtda.unroll(logistic()), KEY, shares=(0.02,), num_draws=2)
    close(exact[["pearson", "spearman", "norm_ratio"]].to_array(), 1.0, rtol=1e-9)
    close(exact[["pearson_error", "norm_ratio_error"]].to_array(), 0.0, atol=1e-9)
    with pytest.raises(ValueError, match="at least 2"):
        diagnostics.along_training(dtda.unroll(logistic()), KEY, num_draws=1)


def standardising(inside: bool) -> dtda.Program:
    def model(x, y):
        slope = numpyro.sample("slope", dist.Normal())
        z = (x - x.mean()) / x.std() if inside else x
        with numpyro.plate("data", len(x)) as i:
            numpyro.sample("y", dist.Normal(slope * z[i], 1.0), obs=y[i])

    x, y = regression_data()
    return dtda.Program(model, x[:, 0], y=y)


def test_a_row_that_enters_the_losses_of_others_is_seen():
    alone, entangled = (
        diagnostics.independence(standardising(inside), KEY) for inside in (False, True)
    )
    assert alone.dims == ("row", "example")
    assert alone.max() < 1e-5
    assert (entangled.max("example") > 1e-3).all()
    assert (entangled.isnull().sum("example") == 1).all()
    with pytest.raises(ValueError, match="num_rows=12"):
        diagnostics.independence(standardising(False), KEY, num_rows=NUM_DATA)
