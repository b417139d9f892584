"""Finished chains and ensembles as kernels: carried without sampling, with errors of batch means."""

import itertools
from types import SimpleNamespace

import arviz_base
import arviz_stats
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import NUTS
from numpyro.infer.autoguide import AutoNormal
from tables import NOISE, NUM_DATA, regression, regression_data
from test_samplers import mode, precision

import dtda_prob as dtda
from dtda_prob import kernels

KEY = jax.random.key(0)
ONES, EACH = np.ones(NUM_DATA), np.eye(NUM_DATA)
STEP = 0.1
"""Examples lose so much weight: little enough for weights without heavy tails, and for first order."""
close = np.testing.assert_allclose


def chains(num_chains: int = 4, num_draws: int = 2000, memory: float = 0.95) -> np.ndarray:
    """Draw autoregressive chains from the exact posterior of the regression."""
    rng, root = np.random.default_rng(0), np.linalg.cholesky(np.linalg.inv(precision(ONES)))
    noise = rng.normal(size=(num_draws, num_chains, 3))
    for last, each in itertools.pairwise(noise):
        each *= np.sqrt(1 - memory**2)
        each += memory * last
    return mode(ONES) + noise.swapaxes(0, 1) @ root.T


@pytest.fixture(scope="module")
def training() -> dtda.Training:
    return dtda.Training(regression(), kernels.pretrained({"slopes": chains()}))


def test_a_finished_chain_is_measured_by_its_parameters_in_blocks(training):
    tree, kernel = dtda.sample(training, KEY), training.kernel
    values = tree["posterior_predictive/parameters"]
    assert values["query"].values.tolist() == ["slopes[0]", "slopes[1]", "slopes[2]"]
    close(values.values.reshape(4, 2000, 3), chains(), rtol=1e-5)
    assert kernel.num_runs * kernel.num_states == 8000
    assert 3 <= kernel.num_runs <= 20
    draws_per_effective = 39  # (1 + 0.95) / (1 - 0.95)
    assert kernel.num_states > 10 * draws_per_effective
    assert 0.5 < dtda.importance(training).population.effective * draws_per_effective / 8000 < 2
    short = kernels.pretrained({"slopes": chains()[:, :500]}).bind(training.program)
    assert short.num_states > 8 * draws_per_effective


@pytest.mark.parametrize("name", ["importance", "covariance", "influence"])
def test_finished_chains_are_carried_within_their_errors(name, training):
    """Errors that took the draws for independent would be four to six times too small."""
    weights = ONES - STEP * EACH
    truth = np.stack([mode(row) for row in weights]) - mode(ONES)
    transform = getattr(dtda, name)(training)
    scores = dtda.attribute(transform, KEY, None, ["mean"], weights)
    found = scores.sel(divergence="mean").transpose("query", "perturbation")
    if name == "influence":
        close(found["score"], truth.T, atol=0.1 * np.abs(truth).max())
        return
    z = (found["score"].values - truth.T) / found["error"].values
    assert 0.3 < np.sqrt((z**2).mean()) < 2
    assert found["error"].max() < 0.5 * np.abs(truth).max()


def test_the_squares_of_effects_add_up_to_the_sampling_variance():
    """Of least squares with a prior, against the sandwich H^-1 (sum of g g') H^-1 of all gradients."""
    training = dtda.Training(regression(), kernels.pretrained({"slopes": chains(memory=0.0)}))
    scores = dtda.attribute(dtda.covariance(training), KEY, divergences=["mean"])
    x, y = regression_data()
    steps = x * (y - x @ mode(ONES))[:, None] / NOISE**2 @ np.linalg.inv(precision(ONES))
    found = dtda.scores.sampling_variance(scores)
    close(found, NUM_DATA * steps.var(0), rtol=0.15)
    with pytest.raises(ValueError, match="the mean without each example"):
        dtda.scores.sampling_variance(scores.rename(example="perturbation"))


def test_leave_one_out_needs_no_sampling():
    independent = chains(memory=0.0)
    training = dtda.Training(regression(), kernels.pretrained({"slopes": independent}))
    tree = dtda.sample(training, KEY, keep=["log_likelihood", "log_prior"])
    with pytest.warns(RuntimeWarning, match="k-hat"):
        found = dtda.diagnostics.sensitivity(tree)
    truth = np.stack([mode(ONES - row) for row in EACH]) - mode(ONES)
    z = (found["mean_shift"].transpose("example", "query") - truth) / found["mean_shift_error"]
    assert (np.abs(z.values[found["k_hat"].values < 0.5]) < 4).all()


def scaled(x, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("ratio", slope / scale)
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(slope * x[i, 0], scale), obs=y[i])


RNG = np.random.default_rng(0)
SLOPE, SCALE = RNG.normal(size=(2, 40)), RNG.uniform(1, 2, size=(2, 40))
CHAINS = {"slope": SLOPE, "scale": SCALE}
WITH_RATIO = CHAINS | {"ratio": SLOPE / SCALE}
FLAT = {name: value.reshape(-1) for name, value in WITH_RATIO.items()}
MODELS = [{"slope": a, "scale": b} for a, b in zip(SLOPE.ravel(), SCALE.ravel(), strict=True)]
POSITIONS = SimpleNamespace(position={"slope": SLOPE, "scale": np.log(SCALE)})
MCMC = SimpleNamespace(get_samples=lambda group_by_chain: WITH_RATIO if group_by_chain else FLAT)
TREE = arviz_base.from_dict({"posterior": WITH_RATIO})
FORMS = {
    "chains of NumPyro": MCMC,
    "samples by chain": WITH_RATIO,
    "samples": FLAT,
    "tree of ArviZ": TREE,
    "group of a tree": TREE["posterior"].to_dataset(),
    "states of BlackJAX": POSITIONS,
    "list of models": MODELS,
}


@pytest.fixture(scope="module")
def program() -> dtda.Program:
    return dtda.Program(scaled, *regression_data())


@pytest.mark.parametrize("form", FORMS)
def test_draws_are_read_in_every_form(form, program):
    is_list = form == "list of models"
    kernel = dtda.Training(program, kernels.pretrained(FORMS[form])).kernel
    assert kernel.temperature == (None if is_list else 1.0)
    assert kernel.num_states == 1 if is_list else kernel.num_states > 1
    assert sorted(kernel.params) == ["scale", "slope"]
    close(kernel.params["slope"].ravel(), SLOPE.ravel(), rtol=1e-6)
    close(kernel.params["scale"].ravel(), np.log(SCALE.ravel()), rtol=1e-5, atol=1e-6)


def test_deterministic_sites_are_in_the_tree_and_in_summaries(program):
    training = dtda.Training(program, kernels.pretrained(MCMC))
    tree = dtda.sample(training, KEY, keep=["parameters"])
    close(tree["posterior/ratio"].values.ravel(), (SLOPE / SCALE).ravel(), rtol=1e-5)
    assert set(arviz_stats.summary(tree).index) == {"slope", "scale", "ratio"}


def test_sites_whose_names_have_slashes_are_kept_with_dots():
    """As the sites of `random_flax_module` are; a tree cannot hold such names."""

    def model(x, y=None):
        slopes = numpyro.sample("net/slopes", dist.Normal().expand([3]).to_event(1))
        with numpyro.plate("data", len(x)) as i:
            numpyro.sample("y", dist.Normal(x[i] @ slopes, 1.0), obs=None if y is None else y[i])

    x, y = regression_data()
    training = dtda.Training(dtda.Program(model, x, y=y), kernels.exact())
    tree = dtda.sample(training, KEY, 4, keep=["parameters", "log_prior"])
    assert "net.slopes" in tree["posterior"].data_vars
    assert [*tree["log_prior"].data_vars] == ["net.slopes"]


def test_a_word_says_what_several_models_are(program):
    bound = kernels.pretrained(MODELS, posterior=True).bind(program)
    assert bound.temperature == 1.0
    assert bound.num_states > 1
    assert kernels.pretrained(WITH_RATIO, posterior=False).bind(program).num_states == 1


def replaced(**values) -> dict:
    return {name: np.broadcast_to(values.get(name, each), (2, 40)) for name, each in CHAINS.items()}


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"slope": SLOPE}, r"passed \(2, 40\): draws need values of every site, and \['scale'\]"),
        (replaced(scale=-1.0), "'scale' is not inside the site's support, for 80 of 80"),
        (WITH_RATIO | {"other": SLOPE}, r"no sites \['other'\]"),
        ({"slope": SLOPE[0, :37], "scale": SCALE[0, :37]}, "37 draws of 1 chains"),
        (3.0, "got float"),
        ([], "got list without elements"),
        (arviz_base.from_dict({"prior": CHAINS}), r"no group 'posterior', it has \['prior'\]"),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples, message, program):
    with pytest.raises((ValueError, TypeError), match=message):
        dtda.Training(program, kernels.pretrained(samples))


def test_axes_in_the_other_order_are_warned_of(program):
    swapped = {name: value.T for name, value in CHAINS.items()}
    with pytest.warns(RuntimeWarning, match="40 chains of 2 draws"):
        dtda.Training(program, kernels.pretrained(swapped))


ADAM = numpyro.optim.Adam(0.1)


def other_weights(training):
    return dtda.sample(training, KEY, None, dtda.remove(training.program, [0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (other_weights, "belong to all data"),
        (lambda training: dtda.attribute(training, KEY), "belong to all data"),
        (lambda training: training.drop(1), "of which none can be dropped"),
        (lambda training: dtda.unroll(training), "do not follow the weights"),
        (lambda training: dtda.sample(training, KEY, 16_000), "8000 draws exist"),
        (
            lambda training: kernels.keep(training.kernel, 3).run(KEY, training.program, ONES),
            "no phase",
        ),
    ],
)
def test_what_draws_that_exist_cannot_do_is_refused(call, message, training):
    with pytest.raises(ValueError, match=message):
        call(training)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda training: dtda.Program(None, SLOPE), "model must be .* got a value of type NoneType"),
        (
            lambda training: dtda.Program(scaled, SLOPE, SCALE[:, :3]),
            r"ran the model on 0: f64\[2,40\], 1",
        ),
        (lambda training: dtda.Training(scaled, training.kernel), "program must be a program"),
        (lambda training: dtda.Training(training.program, NUTS(scaled)), "kernel must .*numpyro.*NUTS"),
        (lambda training: dtda.Training(training.program, kernels.nuts), "the class .*nuts itself"),
        (lambda training: dtda.Training(training.program, training.kernel, "slopes"), "measure must"),
        (lambda training: dtda.Training(training.program, training.kernel, dict), "measure must"),
        (
            lambda training: dtda.Training(training.program, training.kernel, lambda sites: sites["s"]),
            "measure must be a measure",
        ),
        (
            lambda training: dtda.measures.function(lambda sites: sites["s"])(training.program),
            "'slopes'",
        ),
        (lambda training: dtda.influence(training.program), r"influence\(dtda.Training"),
        (lambda training: dtda.attribute(dtda.importance, KEY), "source must .*importance itself"),
        (lambda training: dtda.attribute(dtda.covariance(training), KEY, "mean"), "num_draws must"),
        (lambda training: dtda.leave_one_out(training), "of a training pass training.program"),
        (lambda training: kernels.svi(AutoNormal(scaled), ADAM, num_steps=1), "the class AutoNormal"),
        (
            lambda training: dtda.Training(training.program, kernels.sgd(ADAM, num_steps=1)),
            "optimizer must be an optax optimizer",
        ),
    ],
)
def test_an_argument_of_another_kind_is_named(call, message, training):
    with pytest.raises((TypeError, ValueError, KeyError), match=message):
        call(training)


def test_a_gaussian_is_moved_to_the_exact_posterior_of_a_quadratic_objective():
    training = dtda.Training(regression(), kernels.pretrained({"slopes": chains(memory=0.0)}))
    weights = np.ones(NUM_DATA) - EACH[0] - EACH[3]
    moved = dtda.sample(dtda.gaussian(training), KEY, None, weights)
    draws = moved["posterior_predictive/parameters"].values.reshape(-1, 3)
    covariance = np.linalg.inv(precision(weights))
    spread = np.sqrt(np.diag(covariance))
    assert (np.abs(draws.mean(0) - mode(weights)) < 4 * spread / np.sqrt(8000)).all()
    close(np.cov(draws.T), covariance, atol=0.06 * spread.max() ** 2)


def odds(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Bernoulli(logits=x[i] @ slopes), obs=y[i])


def test_curvatures_that_are_means_reach_far_where_those_of_draws_do_not():
    """The odd one out of a logistic regression; the posterior without it is known by quadrature."""
    rng, line = np.random.default_rng(2), np.linspace(-14, 30, 221)
    x = rng.normal(size=(40, 2))
    y = x @ [3.0, -2.0] + 0.3 * rng.normal(size=40) > 0
    odd = np.argmin((2 * y - 1) * (x @ [3.0, -2.0]))
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    density = -np.logaddexp(0, -(grid @ x.T) * (2 * y - 1))
    prior = -0.5 * (grid**2).sum(1) / 9
    with_it, without = (prior + density @ weights for weights in (np.ones(40), np.arange(40) != odd))
    with_it, without = (np.exp(each - each.max()) for each in (with_it, without))
    with_it, without = with_it / with_it.sum(), without / without.sum()
    draws = grid[rng.choice(len(grid), 4000, p=with_it)].reshape(4, 1000, 2)
    program = dtda.Program(odds, x, y.astype(float))
    training = dtda.Training(program, kernels.pretrained({"slopes": draws}))
    truth, reach = without @ grid - with_it @ grid, {}
    for name in ("gaussian", "influence"):
        transform = getattr(dtda, name)(training)
        tree = dtda.sample(transform, KEY, None, dtda.remove(program, [odd]))
        moved = tree["posterior_predictive/parameters"].mean(("chain", "draw")).values
        reach[name] = np.linalg.norm(moved - draws.mean((0, 1))) / np.linalg.norm(truth)
    assert 0.75 < reach["gaussian"] < 1.15
    assert reach["influence"] < 0.65
    with pytest.raises(ValueError, match="num_states=1"):
        dtda.gaussian(dtda.Training(program, kernels.laplace()))


def clusters(y):
    level = numpyro.sample("level", dist.Normal(0.0, 3.0))
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.StudentT(2.0, level, 0.5), obs=y[i])


def test_draws_that_move_far_from_where_the_curvature_vanishes_are_warned_of():
    """Draws between two clusters, where the log density bends the other way; few decide the spread."""
    y, line = np.array([-1.1, -1.0, -0.9, 0.9, 1.0, 1.2]), np.linspace(-3, 3, 4001)
    density = dist.Normal(0.0, 3.0).log_prob(line)
    density += dist.StudentT(2.0, line[:, None], 0.5).log_prob(y).sum(1)
    share = np.exp(density) / np.exp(density).sum()
    draws = np.random.default_rng(0).choice(line, 2000, p=np.asarray(share)).reshape(4, 500)
    training = dtda.Training(dtda.Program(clusters, y), kernels.pretrained({"level": draws}))
    without, alone = dtda.leave_one_out(training.program, [0, 5]), dtda.newton(training)
    with pytest.warns(RuntimeWarning, match="1% of the draws move so far that they multiply"):
        dtda.sample(alone, KEY, None, without)
    with pytest.warns(RuntimeWarning, match="Take importance, gaussian or covariance"):
        dtda.attribute(alone, KEY, None, ["mean"], without)
    moved = dtda.sample(dtda.influence(training), KEY, None, without)
    spread = moved["posterior_predictive/parameters"].std(("chain", "draw"))
    close(spread, draws.std(), rtol=0.5)  # the mean curvature vanishes nowhere
