"""Laws of every kernel, and what each kernel is for."""

import cloudpickle
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import scipy.stats
from cases.kernels import ADAM, CASES, DESCENT, missed
from numpyro.infer.autoguide import (
    AutoDelta,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)
from tables import direction, draw, last, ones, pull, push, regression, regression_data, train

import dtda_prob as dtda
from dtda_prob import kernels, measures
from dtda_prob.compiling import compiled
from dtda_prob.kernels import guide as guides
from dtda_prob.kernels.batches import BatchPhase
from dtda_prob.kernels.kernel import Start

KEY, OTHER_KEY = jax.random.key(0), jax.random.key(1)
close = np.testing.assert_allclose
cases = pytest.mark.parametrize("kernel", CASES)


def those(trait):
    """Parametrise by the cases with a trait, but those that other files test by more laws."""
    chosen = [name for name, case in CASES.items() if trait(case) and not case.basic]
    return pytest.mark.parametrize("kernel", chosen)


# Laws.


@cases
def test_kernels_are_plain_data(kernel):
    case = CASES[kernel]
    again = cloudpickle.loads(cloudpickle.dumps(case.kernel))
    assert jax.tree.structure(again).num_leaves == jax.tree.structure(case.kernel).num_leaves
    assert repr(again) == repr(case.kernel)
    assert "\n" not in repr(again)
    assert eqx.tree_equal(jax.tree.map(lambda leaf: leaf, case.kernel), case.kernel)
    assert (case.kernel.temperature, case.kernel.num_states) == (case.temperature, case.num_states)


@cases
def test_epochs_stay_where_rows_are_dropped(kernel):
    """On batches there are fewer steps in proportion, on full batches as many."""
    whole, chosen = regression(), CASES[kernel].kernel
    dropped = whole.drop(4)
    for phase in chosen.phases:
        if isinstance(phase, BatchPhase):
            before, after = (phase.num_passes(program) for program in (whole, dropped))
            batch = phase.batch_size or 0
            assert abs(before - after) <= 0.5 * batch / 8, (before, after)
            fewer = phase.count_steps(dropped) < phase.count_steps(whole)
            assert fewer == (phase.batch_size is not None)


def drawing(kernel: str):
    """Return a training, what it draws as a function of key, weights and observations, and these."""
    training = train(kernel)
    program = training.program

    def value(key, weights, y):
        other = program.with_data(program.args, program.kwargs | {"y": y})
        return draw(eqx.tree_at(lambda each: each.program, training, other), weights, key).value

    return training, value, jnp.asarray(regression_data()[1])


@those(lambda case: case.smooth and case.weighted and case.num_states == 1 and not case.alike)
def test_a_draw_depends_on_key_and_weights_and_on_no_example_of_weight_zero(kernel, x64):
    _, value, y = drawing(kernel)
    first = value(KEY, ones(), y)
    assert first.dtype == jnp.float64
    assert (first == value(KEY, ones(), y)).all()
    assert jnp.allclose(first, value(OTHER_KEY, ones(), y), rtol=1e-6) != CASES[kernel].random
    without = ones().at[3].set(0.0)
    assert not jnp.allclose(first, value(KEY, without, y), rtol=1e-4)
    close(value(KEY, without, y.at[3].set(100.0)), value(KEY, without, y), rtol=1e-8)


@those(lambda case: case.smooth and case.weighted and case.num_states == 1 and not case.alike)
def test_the_response_is_the_finite_difference(kernel, x64):
    training, value, y = drawing(kernel)
    step = 1e-4 * direction()
    above, below = (value(KEY, ones() + sign * step, y) for sign in (1, -1))
    response = pull(dtda.unroll(training), ones())
    close(2 * response @ step, above - below, rtol=1e-5, atol=1e-10)


@cases
def test_a_draw_is_single_precision_by_default_and_has_an_axis_of_states(kernel):
    outcome = jax.eval_shape(train(kernel).draw, KEY, ones())
    assert outcome.value.dtype == jnp.float32
    assert {leaf.shape[0] for leaf in jax.tree.leaves(outcome)} == {CASES[kernel].num_states}


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda rate: kernels.sgd(ADAM, learning_rate=rate, num_steps=3), (0.1, 0.2)),
        (lambda first: kernels.pretrained({"slopes": np.array([first, 0, 0])}), (1.0, 2.0)),
    ],
    ids=["rate", "pretrained"],
)
def test_one_compilation_serves_all_values_of_a_setting(make, values):
    """Draws of other tests are compiled so too: a kernel that asks for a traced number raises."""
    program, traced = regression(), []

    def end(kernel, key):
        traced.append(kernel)
        return kernel.run(key, program, ones()).params["slopes"]

    call = compiled(end)
    ends = [call(make(value), KEY) for value in values]
    assert len(traced) == 1
    assert not jnp.allclose(*ends)


def test_a_learning_rate_multiplies_what_the_optimizer_does():
    program = regression()
    ends = [
        kernels.sgd(optimizer, num_steps=5, **options).run(KEY, program, ones()).params["slopes"]
        for optimizer, options in ((optax.adam(0.05), {}), (optax.adam(1.0), {"learning_rate": 0.05}))
    ]
    close(*ends, rtol=1e-5)


# Parameters that training never moves.


def _late(start):
    """Learn at no rate at all up to a step, then at 0.1."""
    return optax.scale_by_schedule(lambda count: jnp.where(count < start, 0.0, -0.1))


HELD = {"level": False, "scale": True}
LEVEL_ALONE = optax.chain(optax.sgd(0.1, momentum=0.9), optax.transforms.freeze(HELD))
MOVES = {
    "all": (kernels.sgd(optax.adamw(0.1), num_steps=3), (True, True)),
    "frozen": (kernels.sgd(LEVEL_ALONE, num_steps=3), (True, False)),
    "frozen and accumulated": (
        kernels.sgd(lambda steps: optax.MultiSteps(LEVEL_ALONE, 2), num_steps=4),
        (True, False),
    ),
    "frozen and decayed": (
        kernels.sgd(optax.chain(LEVEL_ALONE, optax.add_decayed_weights(-0.1)), num_steps=3),
        (True, False),
    ),
    "a rate of 0": (
        kernels.sgd(
            optax.multi_transform(
                {True: optax.sgd(0.0), False: optax.sgd(0.1)}, {"level": False, "scale": True}
            ),
            num_steps=3,
        ),
        (True, False),
    ),
    "later": (kernels.sgd(_late(2), num_steps=4), (True, True)),
    "truncated before": (kernels.truncate(kernels.sgd(_late(2), num_steps=4), 0.5), (False, False)),
    "pretrained and frozen": (
        kernels.sequence(kernels.pretrained({"scale": 0.5}), kernels.sgd(LEVEL_ALONE, num_steps=3)),
        (True, False),
    ),
    "pretrained after training": (
        kernels.sequence(kernels.sgd(optax.sgd(0.1), num_steps=2), kernels.pretrained({"scale": 0.5})),
        (True, False),
    ),
    "average": (kernels.average(kernels.sgd(LEVEL_ALONE, num_steps=3), share=0.5), (True, False)),
    "at rest": (kernels.lbfgs(), (True, True)),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_kernel_knows_which_parameters_the_data_move(name):
    kernel, expected = MOVES[name]
    moves = kernel.moves(bind_positive())
    assert (bool(moves["level"]), bool(moves["scale"])) == expected


def test_parts_of_an_array_may_be_frozen():
    program, mask = regression(), jnp.array([1.0, 0.0, 1.0])
    held = optax.stateless(lambda updates, params: {"slopes": mask * updates["slopes"]})
    kernel = kernels.sgd(optax.chain(optax.adam(0.1), held), num_steps=3)
    assert kernel.moves(program)["slopes"].tolist() == [True, False, True]


def test_parameters_that_were_trained_elsewhere_all_count_as_moved():
    assert kernels.pretrained({"scale": 0.5}).moves(bind_positive()) == {"level": True, "scale": True}


def test_frozen_parameters_do_not_count_for_the_size_of_steps():
    training = dtda.Training(
        bind_positive(), kernels.sgd(LEVEL_ALONE, num_steps=300), dtda.measures.parameters()
    )
    close(training.total_step_size(), 0.1 * (10 * 300 - 90), rtol=1e-3)


# Kernels that end at rest.


def test_laplace_is_exact_where_the_objective_is_quadratic(x64):
    exact, approximate = (kernels.exact(temperature=0.5), CASES["laplace"].kernel)
    _, value, y = drawing("laplace")
    drawn = draw(train(exact), ones()).value
    close(value(KEY, ones(), y), drawn, rtol=1e-8)
    assert approximate.temperature == 0.5


def saddle(y):
    """Two minima in one coordinate, and none of the likelihood's curvature in the other."""
    place = numpyro.param("place", lambda key: jax.random.normal(key, (2,)))
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(place[0] ** 2, 1.0), obs=y[i])


def test_a_flat_direction_moves_nothing_at_rest_and_has_no_laplace_draw(x64):
    program = dtda.Program(saddle, jnp.array([0.8, 1.0, 1.3]))
    keys = jax.random.split(KEY, 8)

    def rest(keys, weights):
        return jax.vmap(lambda key: kernels.lbfgs().run(key, program, weights).params["place"][0])(keys)

    found, moved = jax.jit(lambda w: jax.jvp(lambda w: rest(keys, w), (w,), (w * jnp.arange(3.0),)))(
        jnp.ones(3)
    )
    root = jnp.mean(program.args[0]) ** 0.5
    close(jnp.abs(found[:, 0]), root, rtol=1e-8)
    assert len(set(np.sign(found[:, 0]))) == 2
    y, along = program.args[0], jnp.arange(3.0)
    shift = (along @ (y - y.mean()) / 3) / (2 * root)
    close(moved[:, 0], np.sign(found[:, 0]) * shift, rtol=1e-6)
    close(moved[:, 1], 0.0)
    training = dtda.Training(program, kernels.laplace(), dtda.measures.parameters())
    ended = jax.jit(lambda w: training.stats(training.draw(KEY, w), w))(jnp.ones(3))
    assert ended["diverging"]


def logistic(x, y):
    slopes = numpyro.sample("slopes", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Bernoulli(logits=x[i] @ slopes), obs=y[i])


def test_the_response_at_rest_is_influence_and_newton_steps_lead_to_the_minimum(x64):
    x, y = regression_data()
    program = dtda.Program(logistic, x, (y > 0).astype(int))
    training = dtda.Training(program, kernels.lbfgs(), dtda.measures.parameters())
    responses = [pull(make(training), 0.7 * ones()) for make in (dtda.unroll, dtda.influence)]
    close(*responses, rtol=1e-8)
    without = ones().at[3].set(0.0)
    moved = push(dtda.newton(training, num_steps=3), ones(), without).value
    close(moved, draw(training, without).value, rtol=1e-5)


def test_a_search_says_how_it_ended(x64):
    program = regression()

    def ending(kernel):
        (phase,) = kernel.phases
        state = jax.jit(lambda: phase.init(Start(program.init(KEY)), program))()
        assert not phase.stats(state)["converged"]
        return phase.stats(jax.jit(lambda: phase.step(KEY, state, program, ones())[0])())

    done, cut = ending(kernels.lbfgs()), ending(kernels.lbfgs(max_steps=1))
    assert done["converged"]
    assert done["gradient_norm"] < 2e-12
    assert (not cut["converged"], cut["num_steps"]) == (True, 1)
    assert cut["gradient_norm"] > 1e-6
    assert train(kernels.lbfgs()).num_passes() == pytest.approx(int(done["num_gradients"]), abs=3)


# Kernels that start elsewhere, or give another parameter than the last.


def positive(x, y):
    level = numpyro.sample("level", dist.Normal())
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(level * x[i, 0], scale), obs=y[i])


def bind_positive():
    return dtda.Program(positive, *regression_data())


def test_pretrained_parameters_are_where_training_starts():
    program = bind_positive()
    alone = kernels.pretrained({"scale": 0.3}).run(KEY, program, ones()).params
    close(alone["scale"], np.log(0.3), rtol=1e-6)
    descent = kernels.sgd(optax.sgd(0.01), num_steps=3)
    ran = jax.jit(lambda: descent.run(KEY, program, ones(), {"level": 1.0, "scale": -1.0}).params)()
    start = kernels.pretrained({"level": np.float64(1.0), "scale": np.exp(-1.0)})
    tuned = jax.jit(lambda: kernels.sequence(start, descent).run(KEY, program, ones()).params)()
    jax.tree.map(lambda a, b: close(a, b, rtol=1e-5), tuned, ran)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"slope": 1.0}, "no sites \\['slope'\\]"),
        ({"scale": -1.0}, "'scale' is not inside"),
        ({"level": {"leaf": 1.0}}, "not a tree of arrays .* it has .*leaf.* eqx.filter"),
        ({"level": np.zeros(2)}, "'level' has shape \\(\\), the value passed \\(2,\\)"),
    ],
)
def test_pretrained_parameters_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        dtda.Training(bind_positive(), kernels.pretrained(values), dtda.measures.parameters())


def test_parts_are_frozen_by_the_optimizer():
    program, frozen = bind_positive(), optax.freeze({"level": False, "scale": True})
    kernel = kernels.sequence(
        kernels.pretrained({"scale": 0.5}),
        kernels.sgd(optax.chain(optax.sgd(0.1), frozen), num_steps=3),
    )
    ends = [
        jax.jit(lambda kernel=kernel: kernel.run(KEY, program, ones()).params)()
        for kernel in (kernels.pretrained({"scale": 0.5}), kernel)
    ]
    assert ends[0]["scale"] == ends[1]["scale"]
    assert ends[0]["level"] != ends[1]["level"]


def test_averages_are_those_of_the_iterates(x64):
    num_steps = 8
    training, value, y = drawing("average")
    path = jax.jit(lambda: DESCENT.path(KEY, training.program, ones(), num_steps).ends)
    whole = path()["slopes"]
    powers = 0.8 ** np.arange(num_steps)[::-1]
    expected = training.observe({"slopes": (powers @ whole) / powers.sum()})[1]
    close(value(KEY, ones(), y), expected, rtol=1e-10)
    _, value, y = drawing("late average")
    close(value(KEY, ones(), y), training.observe({"slopes": whole[4:].mean(0)})[1], rtol=1e-10)
    sizes = 0.05 * np.arange(1, num_steps + 1)
    close(training.total_step_size(), powers @ sizes / powers.sum(), rtol=1e-3)
    close(train("late average").total_step_size(), sizes[4:].mean(), rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kernels.average(DESCENT), "one of decay and share"),
        (lambda: kernels.average(DESCENT, decay=1.0), "decay=1.0"),
        (lambda: kernels.average(DESCENT, share=0.0), "share=0.0"),
        (lambda: kernels.lbfgs(max_steps=0), "max_steps=0"),
        (lambda: kernels.lbfgs(solve="qr"), "solve='qr'"),
        (lambda: kernels.laplace(-1.0), "temperature=-1.0"),
        (lambda: kernels.in_precision(DESCENT, jnp.int32), "floating"),
        (lambda: kernels.svi(lambda model: None, optax.adam(0.1), num_steps=1), "lambda model"),
        (lambda: kernels.svi(AutoNormal, optax.adam(0.1), num_steps=1, num_particles=0), "particles=0"),
        (lambda: kernels.svi(lambda x, y: None, optax.adam(0.1), num_steps=1), "a model alone"),
        (lambda: kernels.svi(AutoLaplaceApproximation, optax.adam(0.1), num_steps=1), "laplace"),
        (
            lambda: train(kernels.svi(lambda model: lambda x, **_: None, optax.adam(0.1), num_steps=1)),
            "latent sites",
        ),
        (lambda: train("variational").total_step_size(), "guide's parameters"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Optimizers with something of their own.


def finite_difference_and_response(training):
    step = 1e-5 * direction()
    above, below = (draw(training, ones() + sign * step).value for sign in (1, -1))
    return above - below, 2 * pull(dtda.unroll(training), ones()) @ step


def test_early_stopping_keeps_the_best_step(x64):
    """Its parameters, and its response, are those of training that is truncated there."""
    whole = kernels.sgd(optax.sgd(0.1, momentum=0.9), num_steps=8, batch_size=4)
    program = regression()
    ends = jax.jit(lambda: whole.path(KEY, program, ones(), 8).ends["slopes"])()
    scores = np.array([missed({"slopes": slopes}) for slopes in ends])
    place = int(scores.argmin())
    assert 0 < place < 7
    several = kernels.best(whole, measures.function(missed)), kernels.truncate(whole, (place + 1) / 8)
    trainings = [dtda.Training(program, each, measures.parameters()) for each in several]
    outcome = draw(trainings[0], ones())
    close(outcome.params["slopes"], ends[place], rtol=1e-12)
    close(outcome.stats["best"], scores[place], rtol=1e-12)
    close(*(pull(dtda.unroll(each), ones()) for each in trainings), rtol=1e-10, atol=1e-12)


def test_early_stopping_makes_no_more_checks_once_its_patience_ends():
    """Falling, rising for four steps, and then lower than before."""
    rates = optax.sgd(lambda count: jnp.where(count == 2, -0.1, 0.02))
    program, kernel = regression(), kernels.sgd(rates, num_steps=9)
    path = jax.jit(lambda: kernel.path(KEY, program, ones(), 9).ends["slopes"])()
    scores = [float(missed({"slopes": slopes})) for slopes in path]
    assert scores[1] < min(scores[0], *scores[2:6])
    assert scores[8] < min(scores[:8])
    for patience, kept in ((1, 1), (5, 8)):
        best = kernels.best(kernel, measures.function(missed), patience=patience)
        training = dtda.Training(program, best, measures.parameters())
        close(draw(training, ones()).value, path[kept], rtol=1e-5)


OPTIMIZERS_WITH_ROOTS = {
    "accumulated": optax.MultiSteps(optax.adam(0.05), 2),
    "clipped, only where finite": optax.apply_if_finite(
        optax.chain(optax.clip_by_global_norm(1e-3), optax.rmsprop(0.05)), 3
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS_WITH_ROOTS.values(), ids=OPTIMIZERS_WITH_ROOTS)
def test_roots_of_an_optimizer_have_a_derivative_where_a_gradient_is_exactly_0(optimizer, x64):
    x, y = regression_data()
    x[:, 0] = 0.0
    program = dtda.Program(dtda.zoo.linear_regression, x, y=y, prior=1e200)
    training = dtda.Training(program, kernels.sgd(optimizer, num_steps=4), dtda.measures.parameters())
    close(*finite_difference_and_response(training), rtol=1e-6, atol=1e-10)


# What the model draws by itself, and in how many digits it computes.


def dropping(x, y=None, train=True):
    """Drop half of the features of each example at random."""
    slopes = numpyro.sample("slopes", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("data", len(x)) as i:
        kept = jax.random.bernoulli(numpyro.prng_key(), 0.5, x[i].shape) if train else 0.5
        mean = (2 * kept * x[i]) @ slopes
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=None if y is None else y[i])


def test_dropout_is_the_same_at_all_weights_and_none_where_measured(x64):
    x, y = regression_data()
    program = dtda.Program(dropping, x, y=y)
    measure = dtda.measures.loss(x[:4], y=y[:4], train=False)
    training = dtda.Training(program, kernels.sgd(optax.sgd(0.05), num_steps=5), measure)
    first, step = draw(training, ones()), 1e-4 * direction()
    above, below = (draw(training, ones() + sign * step).value for sign in (1, -1))
    assert jnp.abs(above - below).max() < 1e-3
    close(2 * pull(dtda.unroll(training), ones()) @ step, above - below, rtol=1e-5)
    mean = 2 * 0.5 * x[:4] @ first.params["slopes"]
    close(first.value, 0.5 * ((y[:4] - mean) ** 2 + jnp.log(2 * jnp.pi)), rtol=1e-10)
    start = {"slopes": jnp.ones(3)}
    run = jax.jit(lambda key: training.kernel.run(key, program, ones(), start).params["slopes"])
    assert not jnp.allclose(run(KEY), run(OTHER_KEY))


def test_few_digits_give_about_the_same_response():
    trainings = [train(kernel) for kernel in (kernels.in_precision(DESCENT), DESCENT)]
    ended = jax.eval_shape(trainings[0].draw, KEY, ones())
    assert ended.params["slopes"].dtype == ended.losses.dtype == jnp.float32
    rounded, full = (pull(dtda.unroll(training), ones()) for training in trainings)
    assert 1e-5 < jnp.linalg.norm(rounded - full) / jnp.linalg.norm(full) < 0.03


# Variational inference.


def own_guide(x, y=None, **_):
    place = numpyro.param("place", jnp.zeros(3))
    spread = numpyro.param("spread", 0.2 * jnp.ones(3), constraint=dist.constraints.positive)
    numpyro.sample("slopes", dist.Normal(place, spread).to_event(1))


def fit(guide, program, weights, num_draws=400, **options):
    kernel = kernels.svi(
        guide, lambda steps: optax.adam(optax.cosine_decay_schedule(0.1, steps)), **options
    )
    params = program.init(KEY)

    def draws(keys):
        return jax.vmap(lambda key: last(kernel.run(key, program, weights, params)))(keys)

    return jax.jit(draws)(jax.random.split(KEY, num_draws))


def test_the_fitted_guide_is_the_posterior():
    options = {"num_particles": 2, "batch_size": 6}
    weights, (x, y) = ones().at[2].set(0.0), regression_data()
    params, losses, _ = fit(AutoMultivariateNormal, regression(), weights, num_steps=400, **options)
    precision = (weights[:, None] * x).T @ x / 0.5**2 + np.eye(3) / 2.0**2
    covariance = np.linalg.inv(precision)
    mean, scale = covariance @ x.T @ (weights * y) / 0.5**2, np.sqrt(np.diag(covariance))
    drawn = np.asarray(params["slopes"])
    assert (np.abs(drawn.mean(0) - mean) < 0.25 * scale).all()
    close(np.cov(drawn.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.25)
    evidence = -scipy.stats.multivariate_normal.logpdf(
        np.delete(y, 2), cov=0.25 * np.eye(11) + 4.0 * np.delete(x, 2, 0) @ np.delete(x, 2, 0).T
    )
    close(np.asarray(losses)[:, -20:].mean(), evidence / 12, rtol=0.03)


@pytest.mark.parametrize("guide", [lambda model: own_guide, AutoDelta], ids=["own", "point"])
def test_guides_of_ones_own_and_points_are_fitted(guide):
    (x, y), program = regression_data(), regression()
    params, *_ = fit(guide, program, ones(), num_draws=50, num_steps=200)
    mode = np.linalg.solve(x.T @ x / 0.25 + np.eye(3) / 4, x.T @ y / 0.25)
    close(np.mean(params["slopes"], 0), mode, atol=0.1)
    assert (np.std(params["slopes"], 0) < 1e-3).all() == (guide is AutoDelta)
    kernel = kernels.svi(guide, optax.adam(0.1), num_steps=1)
    assert kernel.temperature == (None if guide is AutoDelta else 1.0)


def coded(y):
    with numpyro.plate("data", len(y), subsample_size=4) as i:
        code = numpyro.sample("code", dist.Normal())
        numpyro.sample("y", dist.Normal(code), obs=y[i])


def amortised(y):
    """A guide that encodes the examples of a batch, in closed form but for its slope."""
    slope = numpyro.param("slope", jnp.array(0.3))
    with numpyro.plate("data", len(y), subsample_size=4):
        batch = numpyro.subsample(y, event_dim=0)
        numpyro.sample("code", dist.Delta(slope * batch))


def test_an_amortised_guide_draws_the_sites_of_a_batch():
    """The loss of batches averages to the loss of all examples."""
    (_, y), key = regression_data(), jax.random.key(0)
    program = dtda.Program(coded, y)
    with pytest.raises(ValueError, match=r"draws .* of all examples at once.*subsample"):
        kernels.svi(AutoNormal, optax.adam(0.1), num_steps=1, batch_size=4).check_program(program)
    by_batches = kernels.svi(lambda model: amortised, optax.adam(0.1), num_steps=1, batch_size=4)
    by_batches.check_program(program)
    guide, free = guides.bind(by_batches.guide, program, 1), {"slope": jnp.array(0.3)}
    loss = jax.jit(lambda indices: guide.loss(key, free, program, ones(), indices))
    batches = jnp.arange(len(y)).reshape(-1, 4)
    losses = [loss(batch) for batch in batches]
    close(np.mean(losses), loss(None), rtol=1e-5)
    assert np.std(losses) > 1e-3


def half_fixed(x, y):
    """A latent scale on its support, and a parameter of the model beside it."""
    slope = numpyro.param("slope", jnp.array(0.0))
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(slope * x[i, 1], scale), obs=y[i])


def test_supports_and_parameters_of_the_model_are_fitted_along():
    (x, y), program = regression_data(), dtda.Program(half_fixed, *regression_data())
    params, *_ = fit(AutoNormal, program, ones(), num_draws=20, num_steps=1000)
    slope = (x[:, 1] @ y) / (x[:, 1] @ x[:, 1])
    spread = np.sqrt(np.mean((y - slope * x[:, 1]) ** 2))
    close(np.mean(params["slope"]), slope, atol=0.01)
    close(np.exp(np.mean(params["scale"])), spread, rtol=0.15)
