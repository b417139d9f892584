"""Densities kept beside draws, ArviZ's functions on them, and sensitivity against closed forms."""

import json

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from scipy import stats
from tables import NOISE, NUM_DATA, PRIOR, ones, regression_data, train

import dtda_prob as dtda
from dtda_prob.diagnostics import sensitivity

KEY = jax.random.key(0)
KEPT = ["parameters", "log_likelihood", "log_prior"]
close = np.testing.assert_allclose


def posterior(weights: np.ndarray, power: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance, the prior raised to a power."""
    x, y = regression_data()
    covariance = np.linalg.inv((weights[:, None] * x).T @ x / NOISE**2 + power * np.eye(3) / PRIOR**2)
    return covariance @ x.T @ (weights * y) / NOISE**2, covariance


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    training = train("exact", measure=dtda.measures.parameters())
    return dtda.sample(training, KEY, 4000, keep=KEPT, options=dtda.Options(chunk_size=1000))


@pytest.fixture(scope="module")
def found(tree) -> xr.Dataset:
    with pytest.warns(RuntimeWarning, match=r"k-hat of \d of 12 examples is above 0.70"):
        return sensitivity(tree)


def test_densities_are_those_of_the_draws(tree):
    x, y = regression_data()
    slopes = tree["posterior/slopes"].values
    likelihood = stats.norm.logpdf(y, slopes @ x.T, NOISE)
    close(tree["log_likelihood/log_likelihood"], likelihood, rtol=1e-4, atol=1e-4)
    close(tree["log_prior/slopes"], stats.norm.logpdf(slopes, 0, PRIOR).sum(-1), rtol=1e-4)
    assert tree["log_likelihood/log_likelihood"].dims == ("chain", "draw", "example")


def test_a_prior_is_that_of_the_support_at_weight_one():
    def model(y):
        scale = numpyro.sample("scale", dist.HalfNormal())
        numpyro.sample("seen", dist.Normal(0.0, scale), obs=1.0)
        with numpyro.plate("data", len(y)):
            level = numpyro.sample("level", dist.Normal(0.0, 2.0))
            numpyro.sample("y", dist.Normal(level, scale), obs=y)

    program = dtda.Program(model, np.arange(3.0))
    params = {"scale": jnp.log(0.3), "level": jnp.arange(3.0)}
    density = jax.jit(program.log_prior)(params)
    assert set(density) == {"scale", "seen", "level"}
    close(density["scale"], stats.halfnorm.logpdf(0.3), rtol=1e-5)
    close(density["seen"], stats.norm.logpdf(1.0, 0, 0.3), rtol=1e-5)
    close(density["level"], stats.norm.logpdf(np.arange(3.0), 0, 2).sum(), rtol=1e-5)
    jacobian, likelihood = np.log(0.3), -program.losses(params).sum()
    total = -3 * jax.jit(program.objective)(params, jnp.ones(3))
    close(sum(density.values()) + jacobian + likelihood, total, rtol=1e-5)


def test_perturbations_have_densities_of_their_own():
    training = train("exact", measure=dtda.measures.parameters())
    weights = dtda.leave_one_out(training.program, [0, 1])
    several = dtda.sample(training, KEY, 4, weights, keep=KEPT)
    assert several["log_likelihood/log_likelihood"].dims == ("chain", "draw", "perturbation", "example")
    with pytest.raises(ValueError, match=r"weights of shape \(2, 12\)"):
        sensitivity(several)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_arviz_takes_the_tree_as_it_is(tree, found):
    loo = arviz_stats.loo(tree, pointwise=True)
    close(loo.elpd_i, found["elpd_loo"], atol=0.02)
    shift, k_hat = arviz_stats.loo_influence(tree, group="posterior", var_names=["slopes"])
    assert set(k_hat.sizes) == {"slopes_dim_0", "example"}
    own = np.abs(found["mean_shift"]) / tree["posterior_predictive/parameters"].std(("chain", "draw"))
    shift = shift["slopes"].transpose("slopes_dim_0", "example")
    close(shift, own.transpose("query", "example"), rtol=0.1, atol=0.01)
    for name in ("prior", "likelihood"):
        power = arviz_stats.psense(tree, group=name)["slopes"]
        close(power, found["power_scaling"].sel(component=name), rtol=1e-3)


def test_leave_one_out_densities_are_exact_within_their_errors(found):
    x, y = regression_data()
    parts = [posterior(np.asarray(ones().at[i].set(0.0))) for i in range(NUM_DATA)]
    spread = [np.sqrt(NOISE**2 + row @ part[1] @ row) for row, part in zip(x, parts, strict=True)]
    exact = stats.norm.logpdf(y, [row @ part[0] for row, part in zip(x, parts, strict=True)], spread)
    good = found["k_hat"].values < 0.5
    assert good.sum() >= 6
    z = ((found["elpd_loo"] - exact) / found["elpd_loo_error"]).values[good]
    assert (np.abs(z) < 4).all()
    assert (found["elpd_loo_error"].values[good] < 0.05).all()


def test_mean_shifts_are_exact_within_their_errors(found):
    full = posterior(np.ones(NUM_DATA))[0]
    shifts = [posterior(np.asarray(ones().at[i].set(0.0)))[0] - full for i in range(NUM_DATA)]
    good = found["k_hat"].values < 0.5
    z = (found["mean_shift"].transpose("example", "query") - shifts) / found["mean_shift_error"]
    assert (np.abs(z.values[good]) < 4).all()
    assert found["mean_shift_error"].max("query").values[good].max() < 0.02


def test_queries_keep_their_order(tree, found):
    renamed, names = tree.copy(), list("cab")
    values = tree["posterior_predictive"].to_dataset()
    renamed["posterior_predictive"] = values.assign_coords(query=names)
    with pytest.warns(RuntimeWarning, match="k-hat"):
        again = sensitivity(renamed)
    assert again["query"].values.tolist() == names
    close(again["mean_shift"], found["mean_shift"])
    close(again["power_scaling"], found["power_scaling"])


def test_data_of_heavy_weights_are_flagged(found):
    assert found.attrs["k_hat_limit"] == pytest.approx(0.7)
    grades = {"good": found["k_hat"] <= 0.5, "bad": found["k_hat"] > 0.7}
    for grade, expected in grades.items():
        assert ((found["grade"] == grade) == expected).all()
        assert 0 < expected.sum() < NUM_DATA


def test_power_scaling_is_that_of_the_exact_posterior(found):
    """The distance between normals, by ArviZ's formula on quantiles with exact weights."""
    (mean, covariance), wide = posterior(np.ones(NUM_DATA)), posterior(np.ones(NUM_DATA), 1.01)
    narrow, sd = posterior(np.ones(NUM_DATA), 0.99), np.sqrt(np.diag(covariance))
    for query in range(3):
        draws = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000, mean[query], sd[query])

        def weigh(other, draws=draws, query=query):
            spread = np.sqrt(other[1][query, query])
            ratio = stats.norm.pdf(draws, other[0][query], spread)
            ratio /= stats.norm.pdf(draws, mean[query], sd[query])
            return xr.DataArray(ratio.reshape(2, -1) / ratio.sum(), dims=("chain", "draw"))

        sample = xr.DataArray(draws.reshape(2, -1), dims=("chain", "draw"))
        arms = {"lower_w": weigh(narrow), "upper_w": weigh(wide), "lower_alpha": 0.99}
        exact = float(sample.azstats.power_scale_sense(**arms, upper_alpha=1.01))
        one = found.isel(query=query).sel(component="prior")
        assert abs(one["power_scaling"] - exact) < 0.2 * exact + 5 * one["power_scaling_error"]
    assert (found["power_scaling"].sel(component="likelihood") > 0.05).all()


@pytest.mark.parametrize(
    ("group", "replaced", "message"),
    [
        ("log_prior", None, r"no groups \['log_prior'\]"),
        ("constant_data", {"weights": np.zeros(NUM_DATA)}, "not all 1"),
        ("temperature", 0.5, "at temperature 0.5"),
        ("temperature", None, "at temperature None"),
    ],
)
def test_what_is_no_sample_of_a_posterior_on_all_data_is_refused(tree, group, replaced, message):
    changed = tree.copy()
    if group == "temperature":
        changed.attrs["dtda_prob"] = json.dumps({"temperature": replaced})
    elif replaced is None:
        del changed[group]
    else:
        changed[group] = xr.Dataset({name: ("example", value) for name, value in replaced.items()})
    with pytest.raises(ValueError, match=message):
        sensitivity(changed)


def test_a_tree_tells_the_temperature_of_its_kernel(tree):
    assert json.loads(tree.attrs["dtda_prob"])["temperature"] == 1.0


def test_a_program_without_a_prior_has_no_log_prior():
    program = dtda.Program(dtda.zoo.classifier([2], 2), np.ones((3, 2)), y=np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="no site with a prior"):
        program.log_prior(program.init(KEY))


def exact_left_out() -> tuple[np.ndarray, np.ndarray]:
    """Return log densities of each example given the others, and the means without each."""
    x, y = regression_data()
    parts = [posterior(np.asarray(ones().at[i].set(0.0))) for i in range(NUM_DATA)]
    spread = [np.sqrt(NOISE**2 + row @ part[1] @ row) for row, part in zip(x, parts, strict=True)]
    means = np.stack([mean for mean, _ in parts])
    return stats.norm.logpdf(y, (x * means).sum(1), spread), means


@pytest.mark.filterwarnings("ignore:Using mixture=True assumes", "ignore:Estimated shape parameter")
def test_a_mixture_of_all_removals_serves_those_of_heavy_weights():
    """Against closed forms and ArviZ, where plain weights have no variance."""
    kernel = dtda.kernels.nuts(num_warmup=200, num_samples=250)
    training, (density, means) = train(kernel, measure=dtda.measures.parameters()), exact_left_out()
    without = dtda.leave_one_out(training.program)
    made = dtda.importance(training, KEY, num_draws=4000, proposal=without)
    assert (dtda.diagnostics.posterior.k_hats(made, without) < 0.5).all()
    draws = made.population.params["slopes"]
    weights = np.exp([made.weigh(jnp.asarray(row, jnp.float32)).log_weights for row in without.values])
    spread = np.sqrt([np.diag(posterior(row)[1]) for row in without.values])
    assert np.abs((weights @ draws - means) / spread).max() < 0.15
    x, y = regression_data()
    likelihood = stats.norm.logpdf(y, draws @ x.T, NOISE).reshape(4, -1, NUM_DATA)
    tree = xr.DataTree.from_dict(
        {"log_likelihood": xr.Dataset({"y": (("chain", "draw", "example"), likelihood)})}
    )
    loo = arviz_stats.loo(tree, pointwise=True, mixture=True, reff=1.0)
    close(loo.elpd_i, density, atol=0.1)
    close(np.log((weights * np.exp(likelihood.reshape(-1, NUM_DATA).T)).sum(1)), loo.elpd_i, atol=0.05)
    with pytest.raises(ValueError, match="proposal: the population of a mixture"):
        dtda.importance(train("exact"), KEY, proposal=without)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_matched_moments_carry_weights_that_rest_on_few_draws_as_arviz_s_do():
    """The example of the heaviest weights, against its closed form."""
    training, (density, means) = train("exact", measure=dtda.measures.parameters()), exact_left_out()
    plain, matched = (
        dtda.importance(training, KEY, num_draws=4000, match_moments=match) for match in (False, True)
    )
    k_hats = dtda.diagnostics.k_hats(plain, dtda.leave_one_out(training.program))
    worst, (x, y) = int(np.argmax(k_hats.values)), regression_data()
    assert k_hats[worst] > 0.7
    found = matched.weigh(ones().at[worst].set(0.0))
    assert found.pareto_k < 0.7
    draws, weights = np.asarray(found.params["slopes"], float), np.exp(found.log_weights)
    assert np.abs(weights @ draws - means[worst]).max() < 0.05
    ours = np.log(weights @ stats.norm.pdf(y[worst], draws @ x[worst], NOISE))
    before = plain.population.params["slopes"].reshape(4, 1000, 3)
    likelihood = stats.norm.logpdf(y, before @ x.T, NOISE)
    tree = xr.DataTree.from_dict(
        {"log_likelihood": by_draw(likelihood, "example").to_dataset(name="y")}
    )

    def posterior_density(slopes):
        prior = stats.norm.logpdf(slopes.values, 0, PRIOR).sum(-1)
        return by_draw(stats.norm.logpdf(y, slopes.values @ x.T, NOISE).sum(-1) + prior)

    theirs = arviz_stats.loo_moment_match(
        tree,
        arviz_stats.loo(tree, pointwise=True, reff=1.0),
        posterior_density,
        lambda slopes, i: by_draw(stats.norm.logpdf(y[i], slopes.values @ x[i], NOISE)),
        by_draw(before, "slope"),
        reff=1.0,
        pointwise=True,
    )
    assert abs(theirs.elpd_i.values[worst] - density[worst]) < 0.1
    assert abs(ours - density[worst]) < 0.06


def by_draw(values, *more: str) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, float), dims=("chain", "draw", *more))
