"""Laws over programs of every kind, against log likelihoods by hand."""

import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases.programs import GROUP, HOLES, NUM, PROGRAMS, REFUSED, SEEN, X, Y, bind, schools
from numpyro import handlers
from numpyro.infer.util import potential_energy
from tables import draw, pull, push

import dtda_prob as dtda
from dtda_prob.program import whole
from dtda_prob.program.likelihood import likelihood

each = pytest.mark.parametrize("name", PROGRAMS)
WEIGHTS = jnp.array([0.5, 0.0, 2.0, 1.0, 1.5, 3.0])
ORDER = jnp.array([3, 0, 5, 1, 4, 2])


def close(actual, desired, tolerance=1e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), actual, desired)


@cache
def found(name):
    """Everything the laws speak of, compiled once for each program."""
    program, case = bind(name), PROGRAMS[name]
    changed = program.with_data(jax.tree.map(jnp.asarray, case.changed), {})
    model = handlers.seed(case.model, jax.random.key(0))

    def everything(key):
        params = program.init(key)
        rows = jnp.stack([WEIGHTS, jnp.zeros(NUM), jnp.ones(NUM)])
        at_rows = jax.vmap(program.objective, (None, 0))(params, rows)
        laws = dict(zip(("whole", "nothing", "ones"), at_rows, strict=True)) | {
            "changed": changed.objective(params, WEIGHTS),
            "batches": jax.vmap(lambda i: program.objective(params, WEIGHTS, i))(ORDER.reshape(3, 2)),
            "losses": program.losses(params),
        }
        if case.by_numpyro:
            laws["potential"] = potential_energy(model, program.args, {}, params)
        if case.gradients:
            slopes = jax.vmap(jax.grad(program.objective), (None, 0))(params, rows[1:])
            laws |= {"slopes": slopes, "gradients": program.gradients(params)}
        return params, program.constrain(params), laws

    return jax.jit(everything)(jax.random.key(1))


@each
def test_losses_are_minus_the_log_likelihoods_by_hand(name):
    _, values, laws = found(name)
    close(laws["losses"], -np.asarray(PROGRAMS[name].log_likelihood(values)))


@each
def test_objective_is_linear_in_the_weights(name):
    laws = found(name)[2]
    close(laws["whole"], laws["nothing"] + WEIGHTS @ laws["losses"] / NUM)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if PROGRAMS[name].alone])
def test_what_is_observed_of_an_example_of_weight_zero_does_not_matter(name):
    laws = found(name)[2]
    close(laws["changed"], laws["whole"])
    assert np.isfinite(laws["whole"])


@each
def test_batches_average_to_the_objective(name):
    laws = found(name)[2]
    close(laws["batches"].mean(), laws["whole"])


@pytest.mark.parametrize("num_removed", [0, 2])
@pytest.mark.parametrize("name", [name for name in PROGRAMS if PROGRAMS[name].gradients])
def test_blocks_of_examples_give_the_objective_and_its_derivatives(name, num_removed, monkeypatch):
    """Four examples, then the other two beside two of the same."""
    program, params = bind(name).drop(num_removed), found(name)[0]
    weights = WEIGHTS.at[:2].set(0.0) if num_removed else WEIGHTS
    both = jax.value_and_grad(program.objective, (0, 1))
    monkeypatch.setattr(whole, "_size", lambda *_: 4)
    blocks = jax.value_and_grad(partial(whole.in_blocks, program), (0, 1))
    traced = str(jax.make_jaxpr(blocks)(params, weights))
    assert "length=2" in traced or program.structure.local or not program.follows_indices
    close(*jax.jit(lambda: (both(params, weights), blocks(params, weights)))())


@pytest.mark.parametrize("name", ["parameter of an example", "groups as data"])
def test_order_does_not_matter(name):
    params = found(name)[0]
    shuffled = jax.jit(bind(name).objective)(params, WEIGHTS, ORDER)
    close(shuffled, found(name)[2]["whole"])


@pytest.mark.parametrize("name", ["by group", "groups as data"])
def test_batches_of_the_rows_left_have_their_latent_sites_and_no_others(name):
    case, params, left = PROGRAMS[name], found(name)[0], np.array([0, 2, 4, 5])
    weights = jnp.ones(NUM).at[np.array([1, 3])].set(0.0)
    batches = jax.vmap(bind(name).drop(2).objective, (None, None, 0))
    alone = dtda.Program(case.model, *(arg[left] for arg in case.args), data=case.data)
    own = params | {site: params[site][left] for site in case.local}
    several = jax.jit(batches)(params, weights, left[np.array([[3, 0], [1, 2]])])
    close(several.mean(), jax.jit(alone.objective)(own, jnp.ones(4)))


@pytest.mark.parametrize("name", [name for name in PROGRAMS if PROGRAMS[name].gradients])
def test_gradients_of_data_add_up(name):
    laws = found(name)[2]
    total = jax.tree.map(lambda leaf: leaf.sum(0) / NUM, laws["gradients"])
    prior, ones = (jax.tree.map(lambda leaf: leaf[k], laws["slopes"]) for k in (0, 1))  # noqa: B023
    close(jax.tree.map(jnp.add, total, prior), ones)


@pytest.mark.parametrize("name", ["without a plate", "one plate after the other"])
def test_outputs_of_examples_are_taken_from_those_of_all(name):
    model, params = likelihood(bind(name)), found(name)[0]
    losses = jax.jit(jax.vmap(lambda i: model.loss(model.outputs(params, i), i)))(jnp.arange(NUM))
    close(losses, found(name)[2]["losses"])


@each
def test_latent_sites_of_an_example_are_known(name):
    assert set(bind(name).local) == set(PROGRAMS[name].local)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if PROGRAMS[name].by_numpyro])
def test_numpyro_agrees_at_weights_one(name):
    laws = found(name)[2]
    close(laws["potential"], NUM * laws["ones"])


def test_a_training_is_compiled_and_mapped_over_keys():
    kernel = dtda.kernels.sgd(optax.sgd(1e-3), num_epochs=1, batch_size=2)
    training = dtda.Training(bind("scanned"), kernel, dtda.measures.parameters())
    keys = jax.random.split(jax.random.key(0), 2)
    draws = jax.jit(jax.vmap(training.draw, (0, None)))(keys, WEIGHTS)
    assert np.isfinite(draws.value).all()


@pytest.mark.parametrize("name", REFUSED)
def test_program_is_refused(name):
    model, args, data, message = REFUSED[name]
    with pytest.raises(NotImplementedError, match=message):
        dtda.Program(model, *args, data=data)


# What weights mean for posteriors.


def posterior_draws(program, weights):
    measure = dtda.measures.function(lambda v: jnp.stack([v["centre"], v["level"][1]]))
    draw = jax.jit(dtda.Training(program, dtda.kernels.exact(), measure).draw)
    return jax.vmap(draw, (0, None))(jax.random.split(jax.random.key(0), 2000), weights).value[:, 0]


def test_removing_a_school_leaves_its_effect_to_the_prior(x64):
    """Jointly normal: y_j ~ N(m, 0.7^2 + 0.5^2), m ~ N(0, 2^2); an effect alone ~ N(m, 0.7^2)."""
    program, weights = dtda.Program(schools, Y), jnp.ones(NUM).at[1].set(0.0)
    left = np.delete(Y, 1)
    precision = 1 / 2.0**2 + len(left) / (0.7**2 + 0.5**2)
    mean = left.sum() / (0.7**2 + 0.5**2) / precision
    centre, effect = posterior_draws(program, weights).T
    error = 4 / np.sqrt(len(centre))
    np.testing.assert_allclose(centre.mean(), mean, atol=error * precision**-0.5)
    np.testing.assert_allclose(centre.std(), precision**-0.5, rtol=error)
    np.testing.assert_allclose(effect.mean(), mean, atol=error)
    np.testing.assert_allclose(effect.std(), (1 / precision + 0.7**2) ** 0.5, rtol=error)


def test_removing_a_group_is_removing_its_data():
    program = bind("by group")
    weights = dtda.groups(program, GROUP)
    without = dtda.Program(PROGRAMS["by group"].model, Y[GROUP != 0], GROUP[GROUP != 0])
    params = found("by group")[0]
    less = NUM * jax.jit(program.objective)(params, jnp.asarray(weights.values[0]))
    alone = jax.jit(without.objective)(params, jnp.ones(without.num_data))
    close(less, without.num_data * alone)


def test_removing_an_observation_of_a_time_series_masks_it():
    def masked(y, seen):
        noise = numpyro.sample("noise", dist.Normal().expand([len(y)]).to_event(1))
        states = jax.lax.scan(lambda state, step: (0.8 * state + step,) * 2, 0.0, noise)[1]
        with numpyro.plate("data", len(y)) as i, handlers.mask(mask=seen[i]):
            numpyro.sample("y", dist.Normal(states[i], 0.5), obs=y[i])

    seen = np.arange(NUM) != 3
    program, hidden = bind("state space"), dtda.Program(masked, Y, seen)
    kernel, measure = dtda.kernels.exact(), dtda.measures.parameters()
    draws = [
        jax.jit(dtda.Training(p, kernel, measure).draw)(jax.random.key(0), jnp.asarray(w)).value
        for p, w in ((program, 1.0 * seen), (hidden, np.ones(NUM)))
    ]
    close(*draws)


# Measures.


def both(name, measure):
    """Predict the removal of an example by unrolling, and retrain."""
    kernel = dtda.kernels.sgd(optax.sgd(0.02), num_epochs=2, batch_size=2)
    training = dtda.Training(bind(name), kernel, measure)
    ones = jnp.ones(NUM)
    without = ones.at[1].set(0.0)
    old, new = (draw(training, w).value for w in (ones, without))
    return old, push(dtda.unroll(training), ones, without).value - old, new - old


MEASURED = {
    "eight schools": dtda.measures.loss(Y),
    "mislabelled": dtda.measures.prediction(*PROGRAMS["mislabelled"].args),
}


@pytest.mark.parametrize("name", MEASURED)
def test_measures_are_predicted(name):
    old, predicted, truth = both(name, MEASURED[name])
    assert np.isfinite(old).all()
    np.testing.assert_allclose(predicted, truth, atol=0.05 * np.abs(truth).max())
    assert np.abs(truth).max() > 1e-5


def test_masked_queries_count_nothing():
    measure = dtda.measures.squared_error(HOLES, SEEN)(bind("masked by handler"))
    params = bind("masked by handler").init(jax.random.key(0))
    both = jax.jacfwd(lambda p: (measure.readout(measure.outputs(p)),) * 2, has_aux=True)
    value, slope = jax.jit(both)(params)
    expected = np.where(SEEN, (Y - params["level"]) ** 2, 0.0)
    close(slope, expected)
    close(value["level"], np.where(SEEN, 2 * (params["level"] - Y), 0.0))


def test_queries_of_sites_that_follow_one_another_name_a_site():
    program = bind("one plate after the other")
    with pytest.raises(ValueError, match=r"different numbers of queries, \{'x': 4, 'y': 2\}: name one"):
        dtda.measures.loss(X[:4], Y[:2])(program)
    measure = dtda.measures.loss(X[:4], Y[:2], site="y")(program)
    value = measure.readout(measure.outputs({"level": jnp.array(0.4)}))
    close(value, -dist.Normal(0.4, 2.0).log_prob(Y[:2]))


def test_rows_of_sites_that_follow_one_another_are_neither_added_nor_relabelled():
    program = bind("one plate after the other")
    for change in (partial(dtda.add, program), partial(dtda.relabel, program, [0])):
        with pytest.raises(ValueError, match=r"plate 'y rows' follow one another, .* \(old= and"):
            change({"x": X[:1]})


def test_queries_of_another_number_have_no_latent_sites():
    with pytest.raises(
        ValueError, match=r"hold 3 data .* has 6, and its sites \['level'\].*measures.function"
    ):
        dtda.measures.loss(Y[:3])(bind("eight schools"))


@pytest.mark.parametrize("name", ["masked by handler"])
def test_curvature_from_likelihoods(name):
    """At weights one: the Fisher matrix is positive, and the loss by outputs is the loss."""
    training = dtda.Training(
        bind(name), dtda.kernels.sgd(optax.sgd(0.02), num_steps=3), dtda.measures.parameters()
    )
    by_fisher = dtda.influence(training, dtda.curvature.dense("fisher", damping=0.1))
    assert np.isfinite(pull(by_fisher, jnp.ones(NUM))).all()


# Discrete sites that examples share.


def two_sided(y):
    side = numpyro.sample("side", dist.Bernoulli(0.3))
    level = numpyro.sample("level", dist.Normal())
    with numpyro.plate("data", len(y)) as i:
        numpyro.sample("y", dist.Normal(level + 2 * side), obs=y[i])


def hidden_states(y):
    with numpyro.plate("data", len(y)), handlers.scale(scale=2.0):
        side = numpyro.sample("side", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(2.0 * side), obs=y)


def test_discrete_sites_that_data_share_are_summed_with_weights_as_powers():
    program, level = dtda.Program(two_sided, Y), 0.4
    parts = [
        np.log(p) + WEIGHTS @ dist.Normal(level + 2 * s).log_prob(Y) for s, p in ((0, 0.7), (1, 0.3))
    ]
    expected = -(np.logaddexp(*parts) + dist.Normal().log_prob(level)) / NUM
    close(jax.jit(program.objective)({"level": jnp.array(level)}, WEIGHTS), expected)
    assert set(program.init(jax.random.key(0))) == {"level"}


@pytest.mark.parametrize(
    "ask",
    [
        lambda program: program.check_batches(2),
        lambda program: program.losses(program.init(jax.random.key(0))),
        lambda program: program.gradients(program.init(jax.random.key(0))),
        lambda program: dtda.measures.loss(Y)(program),
    ],
)
def test_what_goes_example_by_example_is_refused_where_data_share_discrete_sites(ask):
    with pytest.raises(
        NotImplementedError, match=r"examples share the discrete latent sites \['side'\]"
    ):
        ask(dtda.Program(two_sided, Y))


@pytest.mark.parametrize("model", [two_sided, hidden_states])
def test_what_needs_funsor_says_so_where_it_is_missing(model, monkeypatch):
    for name in ("funsor", "numpyro.contrib.funsor"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"funsor, which is missing: pip install 'dtda_prob\[enum\]'"):
        dtda.Program(model, Y[:5])
