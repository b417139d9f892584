"""Every measure against its formula, and what the outputs of a measure may be moved to."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import expit, log_softmax, logsumexp, softmax
from scipy.stats import norm, poisson
from sklearn.metrics import roc_auc_score

from dtda_prob import measures
from dtda_prob.program import Program

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 2)).astype(np.float32)
CLASSES = np.array([0, 1, 2, 2, 1, 0])
SIDES = np.array([0, 1, 1, 0, 1, 0])
Y = RNG.normal(size=6).astype(np.float32)
TABLE = RNG.normal(size=(6, 3)).astype(np.float32)
QUERIES = RNG.normal(size=(4, 2)).astype(np.float32)
QUERY_CLASSES, QUERY_SIDES = np.array([2, 0, 1, 1]), np.array([1, 0, 0, 1])
QUERY_Y = RNG.normal(size=4).astype(np.float32)
QUERY_TABLE = RNG.normal(size=(4, 3)).astype(np.float32)
QUERY_COUNTS = RNG.poisson(2.0, size=4)
TOKENS, QUERY_TOKENS = RNG.integers(0, 2, size=(6, 3)), RNG.integers(0, 2, size=(4, 3))
SLANT = np.array([0.0, 1.0], np.float32)

close = partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)


def observe(y: Any, i: Any) -> Any:
    """Return the observations of a batch, or nothing."""
    return None if y is None else y[i]


# Programs, with logits or means that are linear in the inputs.


def classes_by_logits(x, y=None):
    slopes = numpyro.param("slopes", jnp.ones((2, 3)))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Categorical(logits=x[i] @ slopes), obs=observe(y, i))


def classes_by_probs(x, y=None):
    slopes = numpyro.param("slopes", jnp.ones((2, 3)))
    with numpyro.plate("data", len(x)) as i:
        probs = jax.nn.softmax(x[i] @ slopes)
        numpyro.sample("y", dist.Categorical(probs=probs), obs=observe(y, i))


def sides_by_logits(x, y=None):
    slopes = numpyro.param("slopes", jnp.ones(2))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Bernoulli(logits=x[i] @ slopes), obs=observe(y, i))


def sides_by_probs(x, y=None):
    slopes = numpyro.param("slopes", jnp.ones(2))
    with numpyro.plate("data", len(x)) as i:
        probs = jax.nn.sigmoid(x[i] @ slopes)
        numpyro.sample("y", dist.Bernoulli(probs=probs), obs=observe(y, i))


def normal(x, y=None):
    slopes = numpyro.sample("slopes", dist.Normal().expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal())
    numpyro.deterministic("signal", slopes / scale)
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(x[i] @ slopes, scale), obs=observe(y, i))


def vector_normal(x, y=None):
    slopes = numpyro.param("slopes", jnp.ones((2, 3)))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(x[i] @ slopes, 0.5).to_event(1), obs=observe(y, i))


def table_normal(x, y=None):
    slopes = numpyro.param("slopes", jnp.ones((2, 3)))
    with numpyro.plate("data", len(x), dim=-2) as i, numpyro.plate("column", 3):
        numpyro.sample("y", dist.Normal(x[i] @ slopes, 0.5), obs=observe(y, i))


def two_sites(x, y=None, counts=None):
    slopes = numpyro.param("slopes", jnp.ones(2))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(x[i] @ slopes, 0.5), obs=observe(y, i))
        numpyro.sample("counts", dist.Poisson(jnp.exp(x[i] @ slopes)), obs=observe(counts, i))


def tokens(x, y=None):
    slopes = numpyro.param("slopes", jnp.ones((2, 3)))
    with numpyro.plate("data", len(x)) as i:
        logits = (x[i] @ slopes)[..., None] * SLANT
        numpyro.sample("y", dist.Categorical(logits=logits).to_event(1), obs=observe(y, i))


class Case(NamedTuple):
    """A program with parameters, and queries to ask it about."""

    model: Callable
    args: tuple
    params: dict[str, Any]
    queries: tuple


SLOPES, SCALE = jnp.array([0.7, -1.3]), 0.8
MATRIX = jnp.array([[0.7, -1.3, 0.2], [0.1, 0.9, -0.4]])
CASES = {
    "logits": Case(classes_by_logits, (X, CLASSES), {"slopes": MATRIX}, (QUERIES, QUERY_CLASSES)),
    "probs": Case(classes_by_probs, (X, CLASSES), {"slopes": MATRIX}, (QUERIES, QUERY_CLASSES)),
    "side by logits": Case(sides_by_logits, (X, SIDES), {"slopes": SLOPES}, (QUERIES, QUERY_SIDES)),
    "side by probs": Case(sides_by_probs, (X, SIDES), {"slopes": SLOPES}, (QUERIES, QUERY_SIDES)),
    "normal": Case(
        normal,
        (X, Y),
        {"slopes": SLOPES, "scale": jnp.log(jnp.array(SCALE))},
        (QUERIES, QUERY_Y),
    ),
    "vector": Case(vector_normal, (X, TABLE), {"slopes": MATRIX}, (QUERIES, QUERY_TABLE)),
    "table": Case(table_normal, (X, TABLE), {"slopes": MATRIX}, (QUERIES, QUERY_TABLE)),
    "tokens": Case(tokens, (X, TOKENS), {"slopes": MATRIX}, (QUERIES, QUERY_TOKENS)),
    "two sites": Case(
        two_sites,
        (X, Y, SIDES),
        {"slopes": SLOPES},
        (QUERIES, QUERY_Y, QUERY_COUNTS),
    ),
}

# What they measure, by hand.

LOGITS, ETA = QUERIES @ np.asarray(MATRIX), QUERIES @ np.asarray(SLOPES)
LOG_PROBS = log_softmax(LOGITS, axis=-1)
OWN = LOG_PROBS[np.arange(4), QUERY_CLASSES]
SIGNED = ETA * (2 * QUERY_SIDES - 1)
VECTOR = norm.logpdf(QUERY_TABLE, LOGITS, 0.5).sum(-1)
SIGNED_TOKENS = LOGITS * (2 * QUERY_TOKENS - 1)
BOTH = norm.logpdf(QUERY_Y, ETA, 0.5) + poisson.logpmf(QUERY_COUNTS, np.exp(ETA))
LOG_LIKELIHOOD = {
    "logits": OWN,
    "probs": OWN,
    "side by logits": np.log(expit(SIGNED)),
    "side by probs": np.log(expit(SIGNED)),
    "normal": norm.logpdf(QUERY_Y, ETA, SCALE),
    "vector": VECTOR,
    "table": VECTOR,
    "tokens": np.log(expit(SIGNED_TOKENS)).sum(-1),
    "two sites": BOTH,
}
PREDICTION = {
    "logits": softmax(LOGITS, axis=-1),
    "probs": softmax(LOGITS, axis=-1),
    "side by logits": expit(ETA),
    "side by probs": expit(ETA),
    "normal": ETA,
    "vector": LOGITS,
    "table": LOGITS,
    "tokens": np.stack([expit(-LOGITS), expit(LOGITS)], -1).reshape(4, 6),
}
SQUARED_ERROR = {
    "side by logits": (QUERY_SIDES - expit(ETA)) ** 2,
    "normal": (QUERY_Y - ETA) ** 2,
    "vector": ((QUERY_TABLE - LOGITS) ** 2).sum(-1),
    "table": ((QUERY_TABLE - LOGITS) ** 2).sum(-1),
}
MARGIN = {
    "logits": OWN - np.log1p(-np.exp(OWN)),
    "probs": OWN - np.log1p(-np.exp(OWN)),
    "side by logits": SIGNED,
    "side by probs": SIGNED,
    "tokens": SIGNED_TOKENS,
}
ACCURACY = {
    "logits": LOGITS.argmax(-1) == QUERY_CLASSES,
    "probs": LOGITS.argmax(-1) == QUERY_CLASSES,
    "side by logits": SIGNED > 0,
    "side by probs": SIGNED > 0,
    "tokens": SIGNED_TOKENS > 0,
}
EXPECTED = {
    "loss": {name: -value for name, value in LOG_LIKELIHOOD.items()},
    "log_likelihood": LOG_LIKELIHOOD,
    "prediction": PREDICTION,
    "squared_error": SQUARED_ERROR,
    "margin": MARGIN,
    "accuracy": ACCURACY,
}
TABLE_OF_ALL = [(kind, name) for kind, values in EXPECTED.items() for name in values]
each_measure = pytest.mark.parametrize(("kind", "name"), TABLE_OF_ALL)


@cache
def bind(name: str) -> Program:
    """Bind the model of a case to its data."""
    return Program(CASES[name].model, *CASES[name].args)


@cache
def measure(kind: str, name: str) -> measures.Measure:
    """Bind a measure to a case and its queries."""
    return getattr(measures, kind)(*CASES[name].queries)(bind(name))


def read(bound: measures.Measure, params: dict[str, Any]) -> Any:
    """Return the value of a measure at these parameters."""
    return jax.jit(lambda params: bound.readout(bound.outputs(params)))(params)


def alternate(step: float, leaf: Any) -> Any:
    """Add a step to every other number, and take it from the rest."""
    return leaf + step * (-1.0) ** np.indices(leaf.shape).sum(0)


# Values.

STEPS = 0.0, -5.0, 0.5, 5.0


@cache
def values(kind: str, name: str) -> jax.Array:
    """Return what a measure reads off its outputs, as they are and moved, all compiled together."""
    bound = measure(kind, name)

    def all_values(params):
        outputs = bound.outputs(params)
        moved = jax.tree.map(lambda leaf: jnp.stack([alternate(step, leaf) for step in STEPS]), outputs)
        return jax.vmap(bound.readout)(moved)

    return jax.jit(all_values)(CASES[name].params)


@each_measure
def test_value_is_the_formula(kind, name):
    bound, value = measure(kind, name), values(kind, name)[0]
    assert value.shape == EXPECTED[kind][name].shape
    assert jnp.issubdtype(value.dtype, jnp.floating)
    close(value, EXPECTED[kind][name])
    assert bound.name == kind
    assert list(bound.queries) == [0, 1, 2, 3]


@each_measure
def test_outputs_may_be_moved_anywhere(kind, name):
    """Outputs are unconstrained, so a push-forward may add any numbers to them."""
    assert np.isfinite(values(kind, name)).all()


@pytest.mark.parametrize("site", ["y", "counts"])
def test_site_is_chosen_by_name(site):
    case = CASES["two sites"]
    predicted = measures.prediction(*case.queries, site=site)(bind("two sites"))
    error = measures.squared_error(*case.queries, site=site)(bind("two sites"))
    mean, y = {"y": (ETA, QUERY_Y), "counts": (np.exp(ETA), QUERY_COUNTS)}[site]
    close(read(predicted, case.params), mean)
    close(read(error, case.params), (y - mean) ** 2)


@pytest.mark.parametrize("name", ["logits", "normal", "vector"])
def test_prediction_needs_no_observations(name):
    bound = measures.prediction(QUERIES)(bind(name))
    close(read(bound, CASES[name].params), PREDICTION[name])


def test_matrix_of_each_query_is_predicted_flat():
    def matrices(x, y=None):
        slopes = numpyro.param("slopes", jnp.ones((2, 3)))
        with numpyro.plate("data", len(x)) as i:
            mean = x[i][:, :, None] * slopes
            numpyro.sample("y", dist.Normal(mean).to_event(2), obs=observe(y, i))

    program = Program(matrices, X, X[:, :, None] * np.ones((2, 3)))
    bound = measures.prediction(QUERIES)(program)
    expected = QUERIES[:, :, None] * MATRIX
    close(read(bound, {"slopes": MATRIX}), expected.reshape(4, 6))


def test_loss_of_the_data_is_the_loss_of_the_program():
    case = CASES["normal"]
    bound = measures.loss(*case.args)(bind("normal"))
    close(read(bound, case.params), bind("normal").losses(case.params))


EACH_TOKEN = {
    ("loss", "tokens"): -np.log(expit(SIGNED_TOKENS)),
    ("squared_error", "vector"): (QUERY_TABLE - LOGITS) ** 2,
    ("loss", "table"): -norm.logpdf(QUERY_TABLE, LOGITS, 0.5),
    ("margin", "tokens"): SIGNED_TOKENS,
    ("prediction", "tokens"): np.stack([expit(-LOGITS), expit(LOGITS)], -1),
}


@pytest.mark.parametrize(("kind", "name"), EACH_TOKEN)
def test_tokens_and_spans_of_them_are_queries(kind, name):
    make, expected = partial(getattr(measures, kind), *CASES[name].queries), EACH_TOKEN[kind, name]
    each = make(per="token", queries=list("abcd"))(bind(name))
    assert each.queries.tolist()[:4] == ["a[0]", "a[1]", "a[2]", "b[0]"]
    close(read(each, CASES[name].params), expected.reshape(12, *expected.shape[2:]))
    spans = make(per=[(0, 1), (1, 3)])(bind(name))
    assert spans.queries.tolist()[:3] == ["0[0:1]", "0[1:3]", "1[0:1]"]
    both = np.stack([expected[:, 0], expected[:, 1:].sum(1)], 1)
    close(read(spans, CASES[name].params), both.reshape(8, *expected.shape[2:]))


def test_parts_that_do_not_exist_are_refused():
    for per, message in (
        ([(1, 4)], r"spans \[\(1, 4\)\] do not lie in the 3"),
        ("word", "per='word' must be"),
    ):
        with pytest.raises(ValueError, match=message):
            measures.loss(*CASES["tokens"].queries, per=per)(bind("tokens"))


# Statistics over queries.

GROUPS = np.array(["a", "b", "a", "b"])


def test_the_worst_group_has_the_value_and_the_derivative_of_that_group():
    case, each = CASES["normal"], measures.loss(*CASES["normal"].queries)
    value = -LOG_LIKELIHOOD["normal"]
    means = {name: value[name == GROUPS].mean() for name in "ab"}
    for lowest, of in ((False, max), (True, min)):
        worst = measures.worst_group(each, GROUPS, lowest=lowest)(bind("normal"))
        close(read(worst, case.params), [of(means.values())])
        slope = jax.grad(lambda outputs, worst=worst: worst.readout(outputs)[0])(
            worst.outputs(case.params)
        )
        chosen = of(means, key=means.get) == GROUPS
        close(slope["y.loc"], np.where(chosen, (ETA - QUERY_Y) / SCALE**2 / 2, 0.0))
    assert (worst.name, worst.queries.tolist()) == ("worst_group_loss", ["worst_group"])


def test_auroc_is_exact_and_its_derivative_smooth():
    score = measures.prediction(QUERIES)
    bound = measures.auroc(score, QUERY_SIDES)(bind("side by logits"))
    close(read(bound, CASES["side by logits"].params), [roc_auc_score(QUERY_SIDES, ETA)])
    outputs = {"y.logits": jnp.array([0.5, 0.0, 1.0, 0.5])}
    close(bound.readout(outputs), [roc_auc_score(QUERY_SIDES, outputs["y.logits"])])
    slope = jax.grad(lambda outputs: bound.readout(outputs)[0])(outputs)["y.logits"]
    assert (np.sign(slope) == 2 * QUERY_SIDES - 1).all()
    with pytest.raises(ValueError, match="queries of both classes, got 4 positive of 4"):
        measures.auroc(score, np.ones(4))(bind("side by logits"))


def test_a_contrast_is_the_difference_of_two_measures():
    one, other = (
        measures.loss(QUERIES, y, queries=list("abcd")) for y in (QUERY_CLASSES, np.zeros(4, int))
    )
    bound = measures.contrast(one, other)(bind("logits"))
    close(read(bound, CASES["logits"].params), LOG_PROBS[:, 0] - OWN)
    assert (bound.name, bound.queries.tolist()) == ("contrast_loss", list("abcd"))
    with pytest.raises(ValueError, match=r"shapes \(4,\) and \(1,\)"):
        measures.contrast(one, measures.averaged(other))(bind("logits"))


def test_the_mean_over_queries_is_one_query():
    case = CASES["normal"]
    each = measures.loss(*case.args)
    mean = measures.averaged(each)(bind("normal"))
    assert (mean.name, mean.queries.tolist()) == ("mean_loss", ["mean"])
    close(read(mean, case.params), [read(each(bind("normal")), case.params).mean()])


def test_queries_keep_their_labels():
    bound = measures.loss(QUERIES, QUERY_Y, queries=list("abcd"))(bind("normal"))
    assert list(bound.queries) == list("abcd")


def test_arguments_may_be_named():
    bound = measures.loss(x=QUERIES, y=QUERY_Y)(bind("normal"))
    close(read(bound, CASES["normal"].params), -LOG_LIKELIHOOD["normal"])


# Outputs.


def test_outputs_of_a_normal_are_mean_and_log_scale():
    bound = measure("loss", "normal")
    outputs = bound.outputs(CASES["normal"].params)
    close(outputs["y.loc"], ETA)
    close(outputs["y.scale"], np.full(outputs["y.scale"].shape, np.log(SCALE)))
    moved = {"y.loc": outputs["y.loc"] + 0.3, "y.scale": outputs["y.scale"] - 1.1}
    close(bound.readout(moved), -norm.logpdf(QUERY_Y, ETA + 0.3, SCALE * np.exp(-1.1)))


NAMES = {
    "logits": {"y.logits"},
    "probs": {"y.probs"},
    "normal": {"y.loc", "y.scale"},
    "vector": {"y.base_dist.loc", "y.base_dist.scale"},
    "two sites": {"y.loc", "y.scale", "counts.rate"},
}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_go_by_name(name):
    assert set(measure("loss", name).outputs(CASES[name].params)) == NAMES[name]


@pytest.mark.parametrize("name", NAMES)
def test_measures_go_to_processes_where_distributions_have_another_order(name, monkeypatch):
    bound, params = measure("loss", name), CASES[name].params
    outputs, value = bound.outputs(params), bound.readout(bound.outputs(params))
    sent = cloudpickle.dumps((bound.outputs, bound.readout))
    for kind in ("data", "aux"):  # the order of a set of names, which differs from process to process
        fields = getattr(dist.Distribution, f"gather_pytree_{kind}_fields").__func__
        reverse = classmethod(lambda cls, fields=fields: fields(cls)[::-1])
        monkeypatch.setattr(dist.Distribution, f"gather_pytree_{kind}_fields", reverse)
    measured, read = cloudpickle.loads(sent)
    jax.tree.map(close, dict(outputs), dict(measured(params)))
    close(read(outputs), value)


def test_outputs_of_a_mixture_are_named_and_unconstrained():
    def mixture(y):
        logits = numpyro.param("logits", jnp.array([0.3, -0.2]))
        with numpyro.plate("data", len(y)) as i:
            shares = dist.Categorical(logits=logits)
            parts = [dist.Normal(-1.0, 0.5), dist.Normal(2.0, 0.25)]
            numpyro.sample("y", dist.MixtureGeneral(shares, parts), obs=y[i])

    params, weights = {"logits": jnp.log(jnp.array([0.3, 0.7]))}, np.array([0.3, 0.7])
    bound = measures.loss(QUERY_Y)(Program(mixture, Y))
    outputs = bound.outputs(params)
    scales = sorted(float(leaf.squeeze()) for name, leaf in outputs.items() if "scale" in name)
    close(scales, np.log([0.25, 0.5]))
    densities = norm.pdf(QUERY_Y[:, None], [-1.0, 2.0], [0.5, 0.25])
    close(bound.readout(outputs), -np.log(densities @ weights))


@pytest.mark.parametrize("name", ["logits", "probs"])
def test_outputs_of_classes_are_logits(name):
    bound = measure("loss", name)
    ((site, logits),) = bound.outputs(CASES[name].params).items()
    close(softmax(logits, axis=-1), PREDICTION[name])
    shift = np.array([0.0, 3.0, -2.0], np.float32)
    expected = -log_softmax(LOGITS + shift, axis=-1)[np.arange(4), QUERY_CLASSES]
    close(bound.readout({site: logits + shift}), expected)


@pytest.mark.parametrize("name", ["side by logits", "side by probs"])
def test_outputs_of_two_sides_are_log_odds(name):
    bound = measure("margin", name)
    ((site, log_odds),) = bound.outputs(CASES[name].params).items()
    close(log_odds, ETA)
    close(bound.readout({site: log_odds + 2.0}), (ETA + 2.0) * (2 * QUERY_SIDES - 1))


@pytest.mark.parametrize("kind", ["loss", "margin"])
@pytest.mark.parametrize("name", ["logits", "probs"])
def test_small_probabilities_are_carried_exactly(kind, name):
    """The last class is rarer than the rounding error of the others."""
    logits = np.array([20.0, 0.0, -10.0])
    params = {"slopes": jnp.stack([logits, jnp.zeros(3)])}
    bound = getattr(measures, kind)(jnp.array([[1.0, 0.0]] * 2), jnp.array([1, 2]))(bind(name))
    margins = np.array([0 - logsumexp([20, -10]), -10 - logsumexp([20, 0])])
    expected = {"margin": margins, "loss": np.logaddexp(0.0, -margins)}
    np.testing.assert_allclose(read(bound, params), expected[kind], rtol=1e-5)


@pytest.mark.parametrize("name", MARGIN)
def test_margin_of_a_confident_program_is_finite(name):
    case, bound = CASES[name], measure("margin", name)
    confident = jax.tree.map(lambda leaf: 1e4 * leaf, case.params)
    outputs = bound.outputs(confident)
    assert all(jnp.isfinite(leaf).all() for leaf in outputs.values())
    assert jnp.isfinite(bound.readout(outputs)).all()
    np.testing.assert_array_equal(bound.readout(outputs) > 0, ACCURACY[name])


def test_margin_of_logits_is_exact_however_confident():
    margin = read(measure("margin", "logits"), {"slopes": 1e4 * MATRIX})
    others = np.where(np.eye(3, dtype=bool)[QUERY_CLASSES], -np.inf, 1e4 * LOGITS)
    expected = 1e4 * LOGITS[np.arange(4), QUERY_CLASSES] - logsumexp(others, axis=-1)
    np.testing.assert_allclose(margin, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["logits", "probs", "side by logits", "side by probs"])
def test_loss_of_a_confident_program_has_a_finite_derivative(name):
    bound = measure("loss", name)

    def total(params):
        return bound.readout(bound.outputs(params)).sum()

    confident = jax.tree.map(lambda leaf: 100.0 * leaf, CASES[name].params)
    value, gradient = jax.jit(jax.value_and_grad(total))(confident)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient["slopes"]).all()


# Parameters and functions.


def test_parameters_are_named_and_on_their_supports():
    bound, params = measures.parameters()(bind("normal")), CASES["normal"].params
    values = dict(zip(bound.queries, read(bound, params), strict=True))
    assert set(values) == {"scale", "slopes[0]", "slopes[1]"}
    close(values["scale"], SCALE)
    close([values["slopes[0]"], values["slopes[1]"]], SLOPES)


def test_parameters_of_a_matrix_are_named_by_position():
    bound = measures.parameters()(bind("logits"))
    assert list(bound.queries[:4]) == ["slopes[0,0]", "slopes[0,1]", "slopes[0,2]", "slopes[1,0]"]
    close(read(bound, CASES["logits"].params), MATRIX.ravel())


def ratios(params):
    return params["slopes"] / params["scale"]


FUNCTIONS = {
    "vector": (measures.function(ratios), "ratios", [0, 1], SLOPES / SCALE),
    "labelled": (
        measures.function(ratios, name="signal", queries=["first", "second"]),
        "signal",
        ["first", "second"],
        SLOPES / SCALE,
    ),
    "deterministic site": (
        measures.function(lambda sites: sites["signal"], name="signal"),
        "signal",
        [0, 1],
        SLOPES / SCALE,
    ),
    "scalar": (measures.function(lambda p: p["scale"], name="scale"), "scale", ["scale"], [SCALE]),
    "matrix": (
        measures.function(lambda p: jnp.outer(p["slopes"], p["slopes"]), name="square"),
        "square",
        [0, 1],
        jnp.outer(SLOPES, SLOPES),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_of_the_parameters(name):
    unbound, label, queries, expected = FUNCTIONS[name]
    bound = unbound(bind("normal"))
    assert (bound.name, list(bound.queries)) == (label, queries)
    found = read(bound, CASES["normal"].params)
    assert found.shape == np.shape(expected)
    close(found, expected)


# What is refused.


BAD_MEASURES = {
    "no site chosen": ("two sites", measures.prediction(*CASES["two sites"].queries), "choose one"),
    "unknown site": ("normal", measures.prediction(QUERIES, site="z"), r"site='z'.*\['y'\]"),
    "too many labels": (
        "normal",
        measures.loss(QUERIES, QUERY_Y, queries=list("abcde")),
        "one per query, 4",
    ),
    "margin of numbers": ("normal", measures.margin(QUERIES, QUERY_Y), "needs classes.*Normal"),
    "accuracy of numbers": ("normal", measures.accuracy(QUERIES, QUERY_Y), "needs classes.*Normal"),
    "tensor": ("normal", measures.function(lambda p: jnp.ones((1, 1, 1))), r"shape \(1, 1, 1\)"),
    **{
        f"{kind} of nothing": (name, getattr(measures, kind)(QUERIES), "hold no observations")
        for kind, name in (
            ("loss", "normal"),
            ("log_likelihood", "logits"),
            ("squared_error", "normal"),
            ("margin", "logits"),
            ("accuracy", "logits"),
        )
    },
}


@pytest.mark.parametrize("name", BAD_MEASURES)
def test_measure_is_refused(name):
    case, unbound, message = BAD_MEASURES[name]
    with pytest.raises(ValueError, match=message):
        unbound(bind(case))
