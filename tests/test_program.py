"""The objective against closed formulas, the laws of weights, and the models that are refused."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from flax import linen, nnx
from numpyro import handlers
from numpyro.contrib.module import eqx_module, flax_module, nnx_module
from numpyro.distributions import constraints
from numpyro.infer import init_to_feasible, init_to_median, init_to_uniform, init_to_value
from numpyro.infer.util import potential_energy

from dtda_prob import measures, zoo
from dtda_prob.compiling import compiled
from dtda_prob.program import Program

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
NUM_DATA = 6
X = RNG.normal(size=(NUM_DATA, 2)).astype(np.float32)
Y = RNG.normal(size=NUM_DATA).astype(np.float32)
TABLE = RNG.normal(size=(NUM_DATA, 3)).astype(np.float32)
COUNTS = RNG.poisson(2.0, size=NUM_DATA)
CLASSES = np.array([0, 1, 2, 2, 1, 0])
GROUP = np.array([0, 1, 0, 1, 1, 0])
WEIGHTS = jnp.array([0.5, 1.0, 2.0, 0.0, 1.5, 3.0])
ONES = jnp.ones(NUM_DATA)
CENTRE, SPREAD = jnp.array([0.1, 0.2, 0.3]), jnp.array([0.5, 1.0, 2.0])


def close(actual: Any, desired: Any, rtol: float = 2e-5) -> None:
    """Assert equal trees up to single precision."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, 1e-5), actual, desired)


# Models whose objective is known in closed form.


def unknown_scale(y):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(0.5, scale), obs=y[i])


def unknown_share(y):
    share = numpyro.sample("share", dist.Uniform(0.0, 1.0))
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Bernoulli(probs=share), obs=y[i])


def positive_param(y):
    scale = numpyro.param("scale", jnp.array(1.0), constraint=constraints.positive)
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(0.5, scale), obs=y[i])


def two_sites(y, counts):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(level), obs=y[i])
        numpyro.sample("counts", dist.Poisson(jnp.exp(level)), obs=counts[i])


def dict_of_data(data):
    zoo.linear_regression(data["x"], data["y"])


def rows_of_a_table(table):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(table), dim=-2) as i, numpyro.plate("column", 3, dim=-1):
        numpyro.sample("y", dist.Normal(level), obs=table[i])


def vectors(table):
    centre = numpyro.sample("centre", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("data", len(table)) as i:
        numpyro.sample("y", dist.Normal(centre, SPREAD).to_event(1), obs=table[i])


def grouped(y, group):
    with numpyro.plate("group", 2):
        level = numpyro.sample("level", dist.Normal())
    numpyro.sample("aside", dist.Normal(level[0]), obs=jnp.array(0.7))
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(level[group[i]]), obs=y[i])


def by_factor(y):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        numpyro.factor("y", dist.Normal(level).log_prob(y[i]))


class Case(NamedTuple):
    """A model with data along the first axis, parameters, and the log densities by hand."""

    model: Callable
    args: tuple
    params: dict[str, Any]
    log_likelihood: np.ndarray
    log_prior: float


norm, U = scipy.stats.norm, 0.4
SLOPES = jnp.array([0.3, -1.2])
SIGMOID = 1 / (1 + np.exp(-U))
NOISE = norm.logpdf(Y, 0.5, np.exp(U))
LINE, SLOPES_PRIOR = norm.logpdf(Y, X @ SLOPES), norm.logpdf(SLOPES).sum()
CASES = {
    "linear": Case(zoo.linear_regression, (X, Y), {"slopes": SLOPES}, LINE, SLOPES_PRIOR),
    "positive latent": Case(
        unknown_scale,
        (Y,),
        {"scale": jnp.array(U)},
        NOISE,
        scipy.stats.halfnorm.logpdf(np.exp(U), scale=2.0) + U,
    ),
    "latent share": Case(
        unknown_share,
        (GROUP,),
        {"share": jnp.array(U)},
        scipy.stats.bernoulli.logpmf(GROUP, SIGMOID),
        np.log(SIGMOID * (1 - SIGMOID)),
    ),
    "positive param": Case(positive_param, (Y,), {"scale": jnp.array(U)}, NOISE, 0.0),
    "two sites": Case(
        two_sites,
        (Y, COUNTS),
        {"level": jnp.array(U)},
        norm.logpdf(Y, U) + scipy.stats.poisson.logpmf(COUNTS, np.exp(U)),
        norm.logpdf(U),
    ),
    "dict": Case(dict_of_data, ({"x": X, "y": Y},), {"slopes": SLOPES}, LINE, SLOPES_PRIOR),
    "plate dim -2": Case(
        rows_of_a_table,
        (TABLE,),
        {"level": jnp.array(U)},
        norm.logpdf(TABLE, U).sum(1),
        norm.logpdf(U),
    ),
    "event": Case(
        vectors,
        (TABLE,),
        {"centre": CENTRE},
        norm.logpdf(TABLE, CENTRE, SPREAD).sum(1),
        norm.logpdf(CENTRE).sum(),
    ),
    "observed aside": Case(
        grouped,
        (Y, GROUP),
        {"level": SLOPES},
        norm.logpdf(Y, SLOPES[GROUP]),
        SLOPES_PRIOR + norm.logpdf(0.7, SLOPES[0]),
    ),
    "factor": Case(by_factor, (Y,), {"level": jnp.array(U)}, norm.logpdf(Y, U), norm.logpdf(U)),
}
each_case = pytest.mark.parametrize("name", CASES)


ALL_ROWS = tuple(range(NUM_DATA))


@cache
def bind(name: str, rows: tuple[int, ...] = ALL_ROWS, num_removed: int = 0) -> Program:
    """Bind a case to some of its rows."""
    case = CASES[name]
    args = jax.tree.map(lambda leaf: leaf[np.array(rows)], case.args)
    return Program(case.model, *args).drop(num_removed)


_objective = compiled(lambda program, *args: program.objective(*args))
_slope = compiled(lambda program, *args: jax.value_and_grad(program.objective)(*args))


def objective(name: str, rows: tuple[int, ...] = ALL_ROWS, num_removed: int = 0) -> Callable:
    """Return the objective of a case at its parameters, compiled once for all data of a shape."""
    return partial(_objective, bind(name, rows, num_removed), CASES[name].params)


# The objective.


@each_case
def test_objective_is_the_closed_formula(name):
    case = CASES[name]
    expected = -(WEIGHTS @ case.log_likelihood + case.log_prior) / NUM_DATA
    close(objective(name)(WEIGHTS), expected)


@each_case
def test_batches_of_an_epoch_average_to_the_objective(name):
    bind(name).check_batches(2)
    batches = jax.random.permutation(KEY, NUM_DATA).reshape(3, 2)
    values = [objective(name)(WEIGHTS, batch) for batch in batches]
    close(np.mean(values), objective(name)(WEIGHTS))


DROPPED = ["linear", "plate dim -2"]
"""Cases of which rows are dropped: the number of rows is no business of the model's kind."""


@pytest.mark.parametrize("name", DROPPED)
def test_batches_of_the_rows_left_average_to_the_dropped_objective(name):
    weights, batches = WEIGHTS.at[1].set(0.0), jnp.array([[5, 0], [2, 4]])
    left = objective(name, num_removed=2)
    close(np.mean([left(weights, batch) for batch in batches]), left(weights))


@pytest.mark.parametrize("name", DROPPED)
def test_weight_zero_is_the_deleted_row(name):
    """Of every case the closed formula has a row of weight 0; here the row is not there at all."""
    weights = ONES.at[jnp.array([1, 4])].set(0.0)
    deleted = objective(name, rows=(0, 2, 3, 5))(jnp.ones(4))
    close(objective(name)(weights) * NUM_DATA, deleted * 4)
    close(objective(name, num_removed=2)(weights), deleted)


@pytest.mark.parametrize("name", DROPPED)
def test_weight_two_is_the_duplicated_row(name):
    """The sixth row makes room for a second copy of the fourth, so that both have six rows."""
    duplicated = objective(name, rows=(0, 1, 2, 3, 4, 3))(ONES)
    close(objective(name)(jnp.array([1.0, 1.0, 1.0, 2.0, 1.0, 0.0])), duplicated)


@each_case
def test_losses_are_minus_the_log_likelihoods(name):
    params = CASES[name].params
    for program in (bind(name), bind(name).drop(2)) if name in DROPPED else (bind(name),):
        close(program.losses(params), -CASES[name].log_likelihood)


@pytest.mark.parametrize("name", DROPPED)
def test_gradients_are_the_jacobian_of_the_losses(name):
    program, params = bind(name), CASES[name].params
    both = jax.jit(lambda params: (program.gradients(params), jax.jacrev(program.losses)(params)))
    close(*both(params))


@pytest.mark.parametrize("batch_size", [1, 4, NUM_DATA])
def test_gradients_do_not_depend_on_how_many_are_taken_at_a_time(batch_size):
    gradients = jax.jit(partial(bind("linear").gradients, batch_size=batch_size))
    expected = X * (X @ SLOPES - Y)[:, None]
    close(gradients({"slopes": SLOPES})["slopes"], expected)


@pytest.mark.parametrize("name", DROPPED)
def test_weighed_model_has_the_objective_as_potential(name):
    program = bind(name)
    model = handlers.seed(program.reweighted(WEIGHTS), KEY)
    potential = jax.jit(partial(potential_energy, model, program.args, program.kwargs))
    close(potential(CASES[name].params), NUM_DATA * objective(name)(WEIGHTS))


def test_weights_are_carried_in_the_order_of_the_indices():
    batch = jnp.array([5, 2])
    losses = -CASES["linear"].log_likelihood
    expected = (WEIGHTS[batch] @ losses[batch]) / 2 - SLOPES_PRIOR / NUM_DATA
    close(objective("linear")(WEIGHTS, batch), expected)


def test_key_reaches_the_model_and_is_fixed_where_none_is_given():
    def noisy(y):
        level = numpyro.sample("level", dist.Normal())
        noise = jax.random.normal(numpyro.prng_key())
        with numpyro.plate("data", len(y)) as i:
            numpyro.sample("y", dist.Normal(level + noise), obs=y[i])

    program, params = Program(noisy, Y), {"level": jnp.array(0.0)}
    fixed, again = (program.objective(params, ONES) for _ in range(2))
    assert fixed == again
    assert program.objective(params, ONES, key=jax.random.key(1)) != fixed


# Weight 0 and observations outside the support.


OUTSIDE = {
    "missing": (lambda a: dist.Normal(a), jnp.array([0.1, 0.2, 0.3]), jnp.nan),
    "infinite": (lambda a: dist.Normal(a), jnp.array([0.1, 0.2, 0.3]), jnp.inf),
    "negative": (lambda a: dist.LogNormal(a), jnp.array([0.1, 0.2, 0.3]), -1.0),
    "no such class": (
        lambda a: dist.Categorical(logits=a * jnp.arange(3.0)),
        jnp.array([0, 1, 2]),
        10,
    ),
    "vector": (
        lambda a: dist.Normal(a).expand([2]).to_event(1),
        jnp.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]),
        jnp.array([jnp.nan, 1.0]),
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_observation_of_weight_zero_does_not_matter(name):
    likelihood, y, outside = OUTSIDE[name]

    def model(y):
        level = numpyro.sample("level", dist.Normal())
        with numpyro.plate("data", len(y)) as i:
            numpyro.sample("y", likelihood(level), obs=y[i])

    program, params, weights = Program(model, y), {"level": 0.3}, jnp.array([1.0, 0.0, 2.0])
    clean = _slope(program, params, weights)
    close(_slope(program.with_data((y.at[1].set(outside),), {}), params, weights), clean)


def test_observation_that_leaves_the_support_in_training_does_not_matter():
    def model(y):
        high = numpyro.sample("high", dist.HalfNormal(10.0))
        with numpyro.plate("data", len(y)) as i:
            numpyro.sample("y", dist.Uniform(0.0, high), obs=y[i])

    start = init_to_value(values={"high": 10.0})
    program = Program(model, jnp.array([1.0, 4.0]), init_strategy=start)
    params, weights = {"high": jnp.log(2.0)}, jnp.array([1.0, 0.0])
    loss, gradient = jax.value_and_grad(jax.jit(program.objective))(params, weights)
    log_prior = scipy.stats.halfnorm.logpdf(2.0, scale=10.0) + np.log(2.0)
    close(loss, (np.log(2.0) - log_prior) / 2)
    close(gradient["high"], (1 + 4 / 100 - 1) / 2)


# Initial and constrained parameters.


def scale_and_slope(x, y):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    slope = numpyro.sample("slope", dist.Normal())
    offset = numpyro.param("offset", lambda key: jax.random.normal(key))
    rate = numpyro.param("rate", jnp.array(3.0), constraint=constraints.positive)
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(slope * x[i] + offset + rate, scale), obs=y[i])


def two_starts(init_strategy):
    program = Program(scale_and_slope, X[:, 0], Y, init_strategy=init_strategy)
    return [program.constrain(program.init(jax.random.key(seed))) for seed in (0, 1)]


def test_init_is_a_function_of_the_key():
    program = Program(scale_and_slope, X[:, 0], Y)
    first, again, other = (program.init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert first == again
    assert {k for k in first if first[k] != other[k]} == {"scale", "slope", "offset"}
    close(first["rate"], np.log(3.0))
    assert jax.jit(program.init)(jax.random.key(0)) == first


@pytest.mark.parametrize("init_strategy", [init_to_feasible, init_to_uniform(radius=0.0)])
def test_init_strategy_that_starts_at_zero(init_strategy):
    for params in two_starts(init_strategy):
        close((params["scale"], params["slope"]), (1.0, 0.0))


def test_init_to_some_values_leaves_the_others_random():
    first, other = two_starts(init_to_value(values={"scale": jnp.array(0.7)}))
    close((first["scale"], other["scale"]), (0.7, 0.7))
    assert first["slope"] != other["slope"]


def test_init_to_median_is_near_the_median_of_the_prior():
    for params in two_starts(init_to_median(num_samples=4000)):
        close(params["scale"], scipy.stats.halfnorm.median(scale=2.0), rtol=0.1)
        assert abs(params["slope"]) < 0.1


def test_init_strategy_may_be_given_bare():
    program = Program(scale_and_slope, X[:, 0], Y, init_strategy=init_to_median)
    called = Program(scale_and_slope, X[:, 0], Y, init_strategy=init_to_median())
    assert program.init(KEY) == called.init(KEY)


@each_case
def test_constrain_puts_parameters_on_their_supports(name):
    maps = {"scale": jnp.exp, "share": jax.nn.sigmoid}
    params = CASES[name].params
    expected = {site: maps.get(site, jnp.asarray)(value) for site, value in params.items()}
    close(bind(name).constrain(params), expected)


def test_init_and_constrain_are_inverse():
    start = init_to_value(values={"share": 0.2})
    program = Program(unknown_share, GROUP, init_strategy=start)
    close(program.constrain(program.init(KEY))["share"], 0.2)


# Networks.


def classify(network, x, y):
    with numpyro.plate("data", len(x)) as i:
        logits = network(x[i])
        numpyro.sample("y", dist.Categorical(logits=logits), obs=None if y is None else y[i])


def by_nnx(x, y=None):
    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(numpyro.prng_key()))
    classify(nnx_module("net", layer), x, y)


def by_equinox(x, y=None):
    layer = eqx.nn.Linear(2, 3, key=numpyro.prng_key())
    classify(jax.vmap(eqx_module("net", layer)), x, y)


def by_linen(x, y=None):
    classify(flax_module("net", linen.Dense(3), input_shape=(2,)), x, y)


def by_hand(x, y=None):
    """Softmax regression, from the parameters of any of the networks above."""
    weight = numpyro.param("weight", jnp.zeros((2, 3)))
    bias = numpyro.param("bias", jnp.zeros(3))
    classify(lambda x: x @ weight + bias, x, y)


def tie(params):
    """Read weight and bias off the parameters of a network."""
    bias, weight = sorted(jax.tree.leaves(params), key=jnp.ndim)
    return {"weight": weight.reshape(2, 3) if weight.shape == (2, 3) else weight.T, "bias": bias}


@cache
def network(model):
    return Program(model, X, CLASSES)


each_network = pytest.mark.parametrize("model", [by_nnx, by_equinox, by_linen])


@each_network
def test_network_starts_at_random(model):
    init = jax.jit(network(model).init)
    first, again, other = (tie(init(jax.random.key(seed)))["weight"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


@each_network
def test_gradient_of_a_network(model):
    params, batch = network(model).init(KEY), jnp.array([0, 4])
    _, gradient = _slope(network(model), params, WEIGHTS, batch)
    _, expected = _slope(network(by_hand), tie(params), WEIGHTS, batch)
    close(tie(gradient), expected)


@each_network
def test_network_is_measured_at_other_inputs(model):
    params = network(model).init(KEY)
    measure = measures.loss(X[:2] + 1.0, jnp.array([0, 2]))(network(model))
    weight, bias = tie(params).values()
    log_probs = jax.nn.log_softmax((X[:2] + 1.0) @ weight + bias)
    assert measure.outputs(params)["y.logits"].shape == (2, 3)
    close(measure.readout(measure.outputs(params)), -log_probs[jnp.arange(2), jnp.array([0, 2])])


# What is refused.


def switch(counts):
    late = numpyro.sample("late", dist.Bernoulli(0.5))
    numpyro.sample("counts", dist.Poisson(1.0 + late), obs=counts)


def impossible_prior(y):
    level = numpyro.sample("level", dist.Normal())
    numpyro.factor("never", -jnp.inf)
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(level), obs=y[i])


NAMES = list("abcdef")
MISSING = np.where(np.arange(NUM_DATA) == 2, np.nan, Y)
BAD_PROGRAMS = {
    "no such plate": ((unknown_scale, Y), {"data": "rows"}, ValueError, "no such plate"),
    "no observation": ((zoo.linear_regression, X), {}, ValueError, "the model observes nothing"),
    "no names": ((unknown_scale,), {"data": Y}, ValueError, "is a ndarray; pass .* by position"),
    "shared without a plate": ((switch, COUNTS), {}, NotImplementedError, "around it"),
    "plate without": ((grouped, Y, GROUP), {"data": "group"}, ValueError, "holds no observed site"),
    "too few labels": ((unknown_scale, Y), {"labels": NAMES[:5]}, ValueError, "one per example, 6"),
    "same labels": ((unknown_scale, Y), {"labels": [*"abcdea"]}, ValueError, "labels must differ"),
    "missing": ((unknown_scale, MISSING), {"labels": NAMES}, ValueError, r"\['c'\] \(1 in all\)"),
    "impossible": ((impossible_prior, Y), {}, ValueError, "not finite.* for the prior"),
}


@pytest.mark.filterwarnings("ignore:Out-of-support")
@pytest.mark.parametrize("name", BAD_PROGRAMS)
def test_program_is_refused(name):
    args, kwargs, error, message = BAD_PROGRAMS[name]
    with pytest.raises(error, match=message):
        Program(*args, **kwargs)


def test_initialisation_is_tried_again_where_the_density_is_not_finite():
    """One of these two variances is negative at the first initialisation."""

    def model(sign, y):
        level = numpyro.sample("level", dist.Normal())
        numpyro.sample("y", dist.Normal(0.0, jnp.sqrt(sign * level)), obs=y)

    assert all(Program(model, sign, Y).num_data == NUM_DATA for sign in (1.0, -1.0))


@pytest.mark.parametrize(("batch_size", "num_removed"), [(0, 0), (7, 0), (5, 2)])
def test_batch_that_does_not_fit_is_refused(batch_size, num_removed):
    program = bind("linear").drop(num_removed)
    with pytest.raises(ValueError, match=f"between 1 and {NUM_DATA - num_removed} rows"):
        program.check_batches(batch_size)


@pytest.mark.parametrize("num_removed", [-1, NUM_DATA])
def test_rows_that_cannot_be_dropped(num_removed):
    with pytest.raises(ValueError, match="must lie between 0 and 5"):
        bind("linear").drop(num_removed)


def test_drop_leaves_the_program_as_it_was():
    program = Program(zoo.linear_regression, X, Y, labels=NAMES)
    dropped = program.drop(2)
    assert (dropped.num_rows, dropped.num_data, list(dropped.labels)) == (4, 6, NAMES)
    assert (program.num_rows, program.num_data, program.observed) == (6, 6, ("y",))
