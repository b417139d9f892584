"""What is found when a model is bound: what stays concrete, what is refused, what is compiled."""

import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from jax import monitoring
from numpyro import handlers
from numpyro.infer.util import log_density
from tables import pull

import dtda_prob as dtda
from dtda_prob import measures, zoo
from dtda_prob.compiling import compiled
from dtda_prob.program import binding
from dtda_prob.program import whole as objective_of_all
from dtda_prob.program.labels import check_labels

RNG = np.random.default_rng(0)
NUM = 6
X, Y = RNG.normal(size=(NUM, 2)).astype(np.float32), RNG.normal(size=NUM).astype(np.float32)
LINE, GROUP = X[:, 0], np.array([0, 1, 0, 2, 1, 0])
KEY = jax.random.key(0)
KERNEL = dtda.kernels.sgd(optax.sgd(0.1), num_epochs=1, batch_size=2)


def given(y, i):
    return None if y is None else y[i]


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(slope * x[i]), obs=given(y, i))


# Compilations.


def draw(training, key, weights):
    return training.draw(key, weights).value


def compilations(function):
    """Count what XLA compiles while a function runs."""
    names = []

    def listen(name, duration, **kwargs):
        names.append(name)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        function()
    finally:
        monitoring.unregister_event_duration_listener(listen)
    return sum(name.endswith("backend_compile_duration") for name in names)


def train(shift, labels, seed):
    """Bind, train and measure, on other data, labels, weights and keys."""
    program = dtda.Program(line, LINE + shift, Y - shift, labels=labels)
    training = dtda.Training(
        program, KERNEL, measures.loss(LINE[:2] + shift, Y[:2], queries=["a", "b"])
    )
    weights = np.linspace(0.0, 1.0, NUM) + shift
    return compiled(draw)(training, jax.random.key(seed), weights.astype(np.float32))


def test_a_second_data_set_of_the_same_shapes_compiles_nothing():
    first = train(0.0, None, 0)
    assert compilations(lambda: train(0.5, list("abcdef"), 1)) == 0
    assert not np.allclose(first, train(0.5, None, 1))


def test_arrays_that_a_model_needs_as_values_stay_concrete_and_the_others_do_not():
    def model(group, x, y):
        num_groups = int(group.max()) + 1
        assert (group >= 0).all()
        level = numpyro.sample("level", dist.Normal().expand([num_groups]).to_event(1))
        with numpyro.plate("data", len(y)) as i:
            numpyro.sample("y", dist.Normal(level[group[i]] + x[i]), obs=y[i])

    program = dtda.Program(model, GROUP, LINE, Y)
    assert [isinstance(leaf, np.ndarray) for leaf in program.args] == [True, False, False]
    losses = jax.jit(program.losses)({"level": jnp.arange(3.0)})
    np.testing.assert_allclose(losses, -dist.Normal(GROUP + LINE).log_prob(Y), rtol=1e-5)
    program.check_batches(2)


# Kinds of arguments.


ARGUMENTS = {
    "lists": (LINE.tolist(), Y.tolist()),
    "pandas": (pd.Series(LINE, index=range(5, 5 + NUM)), pd.DataFrame({"y": Y})["y"]),
    "integers": (LINE, np.sign(Y).astype(np.int8)),
    "unsigned": (LINE, (Y > 0).astype(np.uint8)),
    "booleans": (LINE, Y > 0),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_of_any_kind_count_as_their_numbers(name):
    x, y = ARGUMENTS[name]
    losses = dtda.Program(line, x, y).losses({"slope": 0.5})
    np.testing.assert_allclose(
        losses, -dist.Normal(0.5 * LINE).log_prob(np.asarray(y, float)), rtol=1e-4
    )


def test_tables_of_which_a_model_takes_columns_stay_tables():
    def model(table):
        slope = numpyro.sample("slope", dist.Normal())
        with numpyro.plate("data", len(table)):
            numpyro.sample("y", dist.Normal(slope * table["x"].values), obs=table["y"].values)

    program = dtda.Program(model, pd.DataFrame({"x": LINE, "y": Y}))
    expected = -dist.Normal(0.5 * LINE).log_prob(Y)
    np.testing.assert_allclose(jax.jit(program.losses)({"slope": 0.5}), expected, rtol=1e-4)


# What is refused.


def as_event(x, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(slope * x).to_event(1), obs=y)


def column(x, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(slope * x[i][:, None]), obs=given(y, i))


def one_factor(x, y):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)):
        numpyro.factor("y", -((y - slope * x) ** 2).sum())


def classes(x, y=None):
    slopes = numpyro.param("slopes", jnp.zeros((2, 3)))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Categorical(logits=x[i] @ slopes), obs=given(y, i))


def whole(x, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(slope * x), obs=y)


def holding(x):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(slope * x[i]), obs=jnp.asarray(Y[:4])[i])


def two_sites(x, y):
    level = numpyro.sample("level", dist.Normal())
    numpyro.sample("x", dist.Normal(level), obs=x)
    numpyro.sample("y", dist.Normal(level), obs=y)


def two_plates(table):
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("row", 6, dim=-2), numpyro.plate("column", 2):
        numpyro.sample("y", dist.Normal(level), obs=table)


def student_vector(y):
    level = numpyro.sample("level", dist.Normal())
    numpyro.sample("y", dist.MultivariateStudentT(3.0, level, jnp.eye(len(y))), obs=y)


HOLES = np.where(np.arange(NUM) == 3, np.nan, LINE)
ONE_HOT = np.eye(3)[GROUP]
TEXT = np.array(list("abcabc"))
REFUSED = {
    "event instead of plate": (as_event, (LINE, Y), r"site 'y': .* no axis of 6 .*\.to_event"),
    "column of observations": (
        line,
        (LINE, Y[:, None]),
        r"shape \(6, 6\).*no plate explains.*y\[:, 0\]",
    ),
    "column of inputs": (column, (LINE, Y), r"shape \(6, 6\).*no plate explains"),
    "columns of both": (column, (LINE, Y[:, None]), r"\(6, 1\) and no axis of 6"),
    "one factor for all": (one_factor, (LINE, Y), "'y' is a numpyro.factor with one number for all 6"),
    "short observations": (line, (LINE, Y[:4]), "argument '1' has 4 rows .* has 6: JAX would repeat"),
    "long observations": (
        line,
        (LINE[:4], Y),
        "argument '1' has 6 rows .* has 4: rows would be left out",
    ),
    "one observation for all": (whole, (LINE, Y[:1]), r"\(1,\) and no axis of 6"),
    "short observations in the model": (holding, (LINE,), "an array in the model has 4 rows .* has 6"),
    "table of one column": (line, (LINE, pd.DataFrame({"y": Y})), r"no plate explains.*y\[:, 0\]"),
    "missing input": (
        line,
        (HOLES, Y),
        r"not finite .*data \[3\] \(1 in all\); look for missing or infinite",
    ),
    "one-hot classes": (classes, (X, ONE_HOT), "'y': observations of shape .*classes as integers"),
    "classes as text": (classes, (X, TEXT), r"array of <U1.*np\.unique"),
    "classes as a list of texts": (classes, (X, TEXT.tolist()), r"list of texts.*np\.unique"),
    "two sites": (two_sites, (LINE, Y), r"site 'x' of shape \(6,\), or site 'y' .*data='x'"),
    "two plates": (two_plates, (X,), "plate 'column' of 2, or plate 'row' of 6; .*data='column'"),
    "dependent": (student_vector, (Y,), r"'y' of shape \(6,\) has one log density .*StudentT"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_model_is_refused_when_bound(name):
    model, args, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message):
        dtda.Program(model, *args)


@pytest.mark.parametrize("where", [0, 3, 6])
def test_what_is_missing_is_found_in_blocks_too(where, monkeypatch):
    """Seven examples in blocks of two, where all at once would not fit into memory."""
    monkeypatch.setattr(objective_of_all, "memory_of_device", lambda: 240.0)
    x, y = np.arange(7, dtype=np.float32), np.zeros(7, np.float32)

    def of_this_test(x, y):
        return line(x, y)

    program = dtda.Program(of_this_test, x, y)
    assert "scan" in str(compiled(binding._probe).traced(program, jax.random.key(0))[0])
    x[where] = np.nan
    with pytest.raises(ValueError, match=rf"data \[{where}\]"):
        dtda.Program(of_this_test, x, y)


@cache
def bound():
    return dtda.Program(zoo.linear_regression, X, y=Y)


QUERIES = {
    "short observations": (measures.loss(X, y=np.ones(1)), "has 1 rows .* has 6"),
    "column of observations": (measures.loss(X, y=Y[:, None]), "no plate explains"),
    "a single query": (measures.prediction(X[0]), r"argument '0' has shape \(2,\).*x\[None\]"),
    "no query": (measures.prediction(X[:0]), "argument '0' has no rows; give at least one"),
    "tuples as labels": (
        measures.prediction(X, queries=[("a", k) for k in range(NUM)]),
        "queries must be all integers.*tuple",
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_queries_are_refused_when_bound(name):
    measure, message = QUERIES[name]
    with pytest.raises(ValueError, match=message):
        measure(bound())


LABELS = {
    "complex": (np.arange(NUM) * 1j, "complex"),
    "tuples": ([("a", k) for k in range(NUM)], "tuple"),
    "an index of tuples": (pd.MultiIndex.from_product([["a", "b"], [1, 2, 3]]), "tuple"),
    "of several types": (["a", 1, 2.5, "b", "c", "d"], "integer and number and text"),
    "None": (["a", None, "b", "c", "d", "e"], "NoneType and text"),
    "NaN": ([0.5, np.nan, 1.5, 2.5, 3.5, 4.5], "NaN"),
    "NaT": (np.array(["NaT", *range(1, NUM)], "datetime64[D]"), "NaT"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_cannot_be_stored_are_refused_at_once(name):
    labels, kind = LABELS[name]
    with pytest.raises(ValueError, match=f"labels must be all integers.*{kind}.*str"):
        dtda.Program(zoo.linear_regression, X, y=Y, labels=labels)


@pytest.mark.parametrize("labels", ["datetime64[Y]", "datetime64[ps]", "timedelta64[M]"])
def test_dates_that_no_store_reads_back_are_refused_at_once(labels):
    """Years 2970 to 2975; picoseconds; and months, whose lengths differ."""
    labels = np.arange(1000, 1000 + NUM).astype(labels)
    for what in ("labels", "queries"):
        with pytest.raises(ValueError, match=rf"{what} must be dates of the years 1678 to 2261.*str"):
            check_labels(labels, NUM, what)


def test_labels_may_be_dates_and_durations():
    for labels in (pd.date_range("2020", periods=NUM), pd.timedelta_range("1h", periods=NUM)):
        program = dtda.Program(zoo.linear_regression, X, y=Y, labels=labels)
        weights = dtda.remove(program, labels[[2]])
        assert (weights.values == 0).nonzero()[0].tolist() == [2]
        copies = dtda.relabel(program, labels[[1]], {"y": [0.0]}).program.labels
        assert copies.dtype.kind == program.labels.dtype.kind
        with pytest.raises(ValueError, match="no such labels"):
            dtda.remove(program, ["2020-01-03"])


def test_longer_arrays_of_which_all_rows_are_asked_for_are_no_mistake():
    def lagged(y):
        slope = numpyro.sample("slope", dist.Normal())
        with numpyro.plate("data", len(y) - 1) as i:
            numpyro.sample("y", dist.Normal(slope * y[i]), obs=y[i + 1])

    losses = dtda.Program(lagged, Y).losses({"slope": 0.5})
    np.testing.assert_allclose(losses, -dist.Normal(0.5 * Y[:-1]).log_prob(Y[1:]), rtol=1e-5)


# Examples that act on each other.


def test_examples_that_meet_in_batches_are_warned_of():
    def normalised(x, y):
        slope = numpyro.param("slope", jnp.ones(()))
        with numpyro.plate("data", len(x)) as i:
            inputs = x[i] - x[i].mean()
            numpyro.sample("y", dist.Normal(slope * inputs), obs=y[i])

    with pytest.warns(UserWarning, match="depends on the other examples of its batch.*removal='drop'"):
        dtda.Program(normalised, LINE, Y)


def test_dropout_is_no_meeting():
    def noisy(x, y):
        slope = numpyro.param("slope", jnp.ones(()))
        with numpyro.plate("data", len(x)) as i:
            keep = jax.random.bernoulli(numpyro.prng_key(), 0.5, x[i].shape)
            numpyro.sample("y", dist.Normal(slope * x[i] * keep), obs=y[i])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dtda.Program(noisy, LINE, Y)


# Factors and discrete sites.


def test_a_factor_that_depends_on_a_discrete_site_enters_its_sum():
    def model(y):
        level = numpyro.sample("level", dist.Normal())
        with numpyro.plate("data", len(y)):
            side = numpyro.sample("side", dist.Bernoulli(0.3))
            numpyro.factor("penalty", -0.5 * side)
            numpyro.sample("y", dist.Normal(level + side), obs=y)

    level = 0.4
    parts = [np.log(0.7) + dist.Normal(level).log_prob(Y)]
    parts += [np.log(0.3) - 0.5 + dist.Normal(level + 1).log_prob(Y)]
    expected = -np.logaddexp(*map(np.asarray, parts))
    np.testing.assert_allclose(dtda.Program(model, Y).losses({"level": level}), expected, rtol=1e-5)


def test_reweighted_model_is_the_model_where_weights_are_one():
    program, params = dtda.Program(line, LINE, Y), {"slope": jnp.array(0.5)}
    densities = [
        log_density(handlers.seed(model, KEY), (LINE, Y), {}, params)[0]
        for model in (line, program.reweighted(np.ones(NUM)))
    ]
    np.testing.assert_allclose(*densities, rtol=1e-6)


# Readouts of unsigned labels.


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.uint32, np.float32])
def test_measures_do_not_depend_on_the_type_of_labels(dtype):
    def sides(x, y=None):
        slopes = numpyro.param("slopes", jnp.array([0.3, -0.7]))
        with numpyro.plate("data", len(x)) as i:
            numpyro.sample("y", dist.Bernoulli(logits=x[i] @ slopes), obs=given(y, i))

    labels = np.array([0, 1, 1, 0, 0, 1])
    program = dtda.Program(sides, X, labels.astype(dtype))
    params, logits = program.init(KEY), X @ np.array([0.3, -0.7])
    expected = {
        "margin": logits * (2 * labels - 1),
        "squared_error": (labels - jax.nn.sigmoid(logits)) ** 2,
    }
    for name, value in expected.items():
        measure = getattr(measures, name)(X, labels.astype(dtype))(program)
        np.testing.assert_allclose(measure.readout(measure.outputs(params)), value, rtol=1e-4)


# Losses with outputs.


def by_sample(x, y=None):
    slopes = numpyro.param("slopes", jnp.array([0.3, -0.7]))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Bernoulli(logits=x[i] @ slopes), obs=given(y, i))


def logistic(logit, y):
    return jax.nn.softplus(logit) - y * logit


def by_loss(x, y=None):
    slopes = numpyro.param("slopes", jnp.array([0.3, -0.7]))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dtda.Loss(x[i] @ slopes, logistic, 0), obs=given(y, i))


def test_a_loss_with_outputs_has_the_gauss_newton_matrix_of_its_distribution():
    responses = []
    for model in (by_sample, by_loss):
        training = dtda.Training(
            dtda.Program(model, X, GROUP % 2), KERNEL, measures.loss(X[:2], GROUP[:2] % 2)
        )
        influence = dtda.influence(training, dtda.curvature.dense("gauss_newton", damping=0.1))
        responses.append(pull(influence, jnp.ones(NUM)))
    np.testing.assert_allclose(*responses, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"nothing can be drawn from the dtda.Loss of sites \['y'\]"):
        dtda.influence(training, dtda.curvature.dense("fisher", damping=0.1))


def ratio(z):
    return jnp.exp(z) / (1 + jnp.exp(z))


PAIRS = {
    "sigmoid by hand": (
        lambda z: dist.Bernoulli(logits=z),
        lambda z: dist.Bernoulli(probs=1 / (1 + jnp.exp(-z))),
    ),
    "ratio by hand": (lambda z: dist.Bernoulli(logits=z), lambda z: dist.Bernoulli(probs=ratio(z))),
    "counts": (
        lambda z: dist.Binomial(3, logits=z),
        lambda z: dist.Binomial(3, probs=jax.nn.sigmoid(z)),
    ),
    "classes": (
        lambda z: dist.Categorical(logits=jnp.stack([-z, z, 0 * z], -1)),
        lambda z: dist.Categorical(probs=jax.nn.softmax(jnp.stack([-z, z, 0 * z], -1))),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_log_odds_of_probabilities_are_carried_beyond_rounding(name):
    def slopes_of(link):
        def model(x, y=None):
            slope = numpyro.param("slope", jnp.ones(()))
            with numpyro.plate("data", len(x)) as i:
                numpyro.sample("y", link(slope * x[i]), obs=given(y, i))

        asked = np.array([-120.0, 20.0, 60.0, 120.0], np.float32), np.ones(4, int)
        program = dtda.Program(model, LINE, GROUP % 2)
        bound = [kind(*asked)(program) for kind in kinds]
        value = lambda params: [each.readout(each.outputs(params)) for each in bound]  # noqa: E731
        params = {"slope": jnp.ones(())}
        return jax.jit(lambda params: (value(params), jax.jacobian(value)(params)))(params)

    kinds = (
        [measures.margin, measures.loss]
        if "counts" not in name and "times" not in name
        else [measures.loss]
    )
    results = map(slopes_of, PAIRS[name])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)
