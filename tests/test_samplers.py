"""Kernels that draw from a posterior, and runs with several states."""

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tables import NOISE, NUM_DATA, PRIOR, SOME, draw, ones, pull, regression_data, train

import dtda_prob as dtda
from dtda_prob import divergences, kernels
from dtda_prob.attribution.arms import comparison
from dtda_prob.compiling import compiled

KEY = jax.random.key(0)
slopes = dtda.measures.parameters()
close = np.testing.assert_allclose

SAMPLERS = {
    "sgld": kernels.keep(kernels.sgld(2e-3, num_steps=2400), 200, thinning=10),
    "preconditioned sgld": kernels.keep(
        kernels.sgld(1e-3, num_steps=2400, rms_decay=0.99), 200, thinning=10
    ),
    "sghmc": kernels.keep(kernels.sghmc(4e-3, num_steps=250, num_integration_steps=50), 200),
    "sgnht": kernels.keep(kernels.sgnht(4e-3, num_steps=10_000), 200, thinning=45),
    "nuts": kernels.nuts(num_warmup=200, num_samples=200),
    "hmc": kernels.hmc(num_warmup=200, num_samples=200, num_integration_steps=8, coupled=True),
}
BIAS = {"sgld": 0.1, "preconditioned sgld": 0.15, "sghmc": 0.1, "sgnht": 0.15}
"""Relative error of standard deviations that a finite step size may make."""
NUM_RUNS = 8
"""Late states of SGLD, few enough that each can be had by a training that is cut there."""
LATE = kernels.keep(kernels.sgld(1e-3, num_steps=7, batch_size=4), 3, thinning=2)
LATE_DESCENT = kernels.keep(kernels.sgd(optax.sgd(0.05), num_steps=7, batch_size=4), 3, thinning=2)
"""The same of a kernel without a posterior, whose draws are moved as a truncated training's are."""


def precision(weights: np.ndarray) -> np.ndarray:
    x, _ = regression_data()
    return (x * weights[:, None]).T @ x / NOISE**2 + np.eye(3) / PRIOR**2


def mode(weights: np.ndarray) -> np.ndarray:
    x, y = regression_data()
    return np.linalg.solve(precision(weights), (x * weights[:, None]).T @ y / NOISE**2)


@pytest.fixture(scope="module")
def samples() -> dict:
    """Samples of every sampler, drawn when they are asked for."""
    return {}


def sampled(samples: dict, sampler: str, removed: tuple[int, ...] = ()):
    if (sampler, removed) not in samples:
        training = train(SAMPLERS[sampler], measure=slopes)
        weights = ones().at[jnp.array(removed, int)].set(0.0)
        options = dtda.Options(chunk_size=NUM_RUNS)
        samples[sampler, removed] = dtda.sample(training, KEY, NUM_RUNS * 200, weights, options=options)
    return samples[sampler, removed]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_draw_from_the_posterior(sampler, samples):
    """Means within five standard errors from run to run, and standard deviations to 10 %."""
    found = sampled(samples, sampler).posterior_predictive["parameters"].values
    assert found.shape == (NUM_RUNS, 200, 3)
    by_run = found.mean(1)
    error = by_run.std(0, ddof=1) / np.sqrt(NUM_RUNS)
    spread = np.sqrt(np.diag(np.linalg.inv(precision(np.ones(NUM_DATA)))))
    assert (error < 0.2 * spread).all()
    assert (np.abs(by_run.mean(0) - mode(np.ones(NUM_DATA))) < 5 * error + 0.05 * spread).all()
    close(found.std((0, 1)), spread, rtol=0.1 + BIAS.get(sampler, 0.0))


def test_coupled_chains_share_their_noise(samples):
    """Differences from chains of one key vary much less than from chains of two keys, and are right.

    Over all parameters: of one, eight chains tell the variance to a half.
    """
    full, moved = (
        sampled(samples, "hmc", removed).posterior_predictive["parameters"].values.mean(1, dtype=float)
        for removed in ((), (3,))
    )
    paired, crossed = moved - full, np.roll(moved, 1, 0) - full
    assert paired.var(0).sum() < 0.1 * crossed.var(0).sum()
    error = paired.std(0, ddof=1) / np.sqrt(NUM_RUNS)
    new = np.ones(NUM_DATA)
    new[3] = 0.0
    assert (np.abs(paired.mean(0) - mode(new) + mode(np.ones(NUM_DATA))) < 5 * error).all()


def test_arviz_reads_energies_and_chains(samples):
    tree = sampled(samples, "nuts")
    assert {"energy", "acceptance_rate", "num_integration_steps", "step_size"} <= set(tree.sample_stats)
    assert (
        tree.sample_stats["step_size"].max("draw") == tree.sample_stats["step_size"].min("draw")
    ).all()
    assert (np.abs(tree.sample_stats["acceptance_rate"].mean() - 0.8) < 0.15).all()
    assert not tree.sample_stats["diverging"].any()
    key = tree.sample_stats["key"]
    assert (key == key.isel(draw=0)).all()
    assert len(np.unique(key.isel(draw=0).values, axis=0)) == NUM_RUNS
    assert (arviz_stats.bfmi(tree)["energy"].values > 0.3).all()
    found = arviz_stats.ess(tree, group="posterior_predictive")["parameters"]
    assert (found > 200).all()


def test_divergent_trajectories_are_flagged_and_reported():
    """A funnel, whose neck no step size that its mouth wants can enter."""

    def funnel(y):
        import numpyro
        import numpyro.distributions as dist

        width = numpyro.sample("width", dist.Normal(0.0, 3.0))
        with numpyro.plate("data", len(y)) as i:
            numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y[i])
        numpyro.sample("depth", dist.Normal(jnp.zeros(9), jnp.exp(width / 2)).to_event(1))

    program = dtda.Program(funnel, np.zeros(2))
    kernel = kernels.nuts(num_warmup=50, num_samples=50)
    training = dtda.Training(program, kernel, slopes)
    with pytest.warns(RuntimeWarning, match="diverge"):
        tree = dtda.sample(training, KEY, num_draws=200)
    assert 0 < tree.sample_stats["diverging"].mean() < 1


APART = np.array([0, 2])


def states_apart(transform, late=LATE):
    """Return the transforms of trainings that are cut at the first state and at the last."""
    cut = [train(kernels.truncate(kernels.keep(late, 1), share)) for share in (3 / 7, 1.0)]
    return [transform(training) for training in cut]


def test_each_state_is_carried_as_if_training_had_ended_there(x64):
    apart = [pull(made, ones()) for made in states_apart(dtda.unroll, LATE_DESCENT)]
    found = jax.jit(dtda.unroll(train(LATE_DESCENT)).pull)(KEY, ones(), SOME)
    close(found[APART], jnp.stack(apart)[:, SOME], rtol=1e-8)


def test_late_states_are_those_that_training_passes_through(x64):
    found = jax.jit(train(LATE).draw)(KEY, ones())
    assert found.losses.shape == (3, 2)
    apart = [draw(made.training, ones()).value for made in states_apart(dtda.unroll)]
    close(found.value[APART], jnp.stack(apart), rtol=1e-12)


def test_draws_of_a_sample_are_states_of_runs():
    tree = dtda.sample(train(LATE), KEY, num_draws=12)
    assert dict(tree.posterior_predictive.sizes) == {"chain": 4, "draw": 3, "query": 4}
    key = jax.random.wrap_key_data(tree.sample_stats["key"].values[0, 0])
    first = jax.jit(train(LATE).draw)(key, ones())
    close(tree.posterior_predictive["loss"].values[0], first.value, rtol=1e-5)


def test_errors_of_states_are_those_of_runs():
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(1, 6, 5))
    old = np.tile(runs, (4, 1, 1)).reshape(24, 5)
    new = old + rng.normal(size=(1, 6, 5)).repeat(4, 0).reshape(24, 5)
    by_state = divergences.estimate("mean", old, new, num_states=4)
    by_run = divergences.estimate("mean", old[:6], new[:6])
    for ours, expected in zip(by_state, by_run, strict=True):
        close(ours, expected, rtol=1e-10)
    assert (divergences.estimate("mean", old, new).error < by_run.error).all()
    null = divergences.estimate("energy", old, new, num_states=4, coupled=False)
    assert np.isfinite(null.null).all()


def test_attribution_counts_states_as_draws_and_runs_as_independent():
    scores = dtda.attribute(
        dtda.influence(train(LATE)), KEY, 12, ["mean"], options=dtda.Options(check=False)
    )
    arms = comparison(dtda.influence(train(LATE)), KEY, None).arms(12)
    assert arms.new.shape == (12, 4, 12)
    by_run = arms.new.reshape(3, 4, 4, 12) - arms.old.reshape(3, 4, 4, 1)
    close(scores["score"].values[0], by_run.mean((0, 1)), rtol=1e-4, atol=1e-7)
    error = by_run.mean(0).std(0, ddof=1) / 2
    close(scores["error"].values[0], error, rtol=1e-3, atol=1e-7)


def test_outcomes_that_are_carried_are_drawn_once_and_are_those_of_push():
    training = train(kernels.exact(), measure=slopes)
    weights = dtda.leave_one_out(training.program, [0, 5, 7])
    made = dtda.importance(training, KEY, num_draws=50)
    tree = dtda.sample(
        made, jax.random.key(1), 8, weights, options=dtda.Options(chunk_size=5, check=False)
    )
    found = tree.posterior_predictive["parameters"].sel(chain=1, draw=1)
    key = jax.random.wrap_key_data(tree.sample_stats["key"].values[1, 1])
    several = jax.jit(jax.vmap(made.push, (None, None, 0)))
    pushed = several(key, ones(), jnp.asarray(weights.values, jnp.float32)).value
    close(found, pushed[:, 0], rtol=2e-4)


def test_covariance_moves_the_mean_of_a_posterior_as_it_moves():
    """Over runs of HMC, within five standard errors; finished chains test the other transforms too."""
    kernel = kernels.hmc(num_warmup=100, num_samples=250, num_integration_steps=8)
    training = train(kernel, measure=slopes)
    new = np.ones(NUM_DATA)
    new[3] = 0.0
    truth = mode(new) - mode(np.ones(NUM_DATA))
    weights = dtda.remove(training.program, [3])
    arms = comparison(dtda.covariance(training, at="old"), KEY, weights, "pull").arms(2000)
    shift = (arms.new - arms.old)[:, :, 0].reshape(250, 8, 3).mean(0)
    error = shift.std(0, ddof=1) / np.sqrt(8)
    assert (np.abs(shift.mean(0) - truth) < 5 * error + 0.25 * np.abs(truth).max()).all()
    assert (error < 0.2 * np.abs(truth).max()).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dtda.unroll(train(SAMPLERS["nuts"])), "accepts or rejects"),
        (lambda: dtda.finetune(train(LATE), SAMPLERS["hmc"]), "accepts or rejects"),
        (lambda: dtda.segments(train(LATE)), "num_states=3"),
        (lambda: dtda.trajectory(train(LATE)), "num_states=3"),
        (lambda: dtda.cosine(train(LATE)), "num_states=3"),
        (lambda: dtda.covariance(train(kernels.exact())), "num_states=1"),
        (lambda: dtda.covariance(train("sgd by epoch")), "temperature"),
        (lambda: dtda.covariance(train(LATE), step_size=1e-3), "num_states=3"),
        (
            lambda: dtda.importance(train(LATE), KEY, num_draws=100),
            "num_states=3, .* take num_draws=102",
        ),
        (lambda: train(kernels.keep(LATE, 4, thinning=2)), "num_states=4"),
        (lambda: kernels.keep(LATE, 0), "num_states=0"),
        (lambda: dtda.sample(train(LATE), KEY, num_draws=10), "num_states=3"),
        (
            lambda: dtda.sample(train(LATE), KEY, num_draws=12, options=dtda.Options(num_chains=2)),
            "num_chains=2",
        ),
        (
            lambda: dtda.attribute(dtda.influence(train(LATE)), KEY, 6),
            "at least 3 times it; take num_draws=9",
        ),
        (lambda: train(kernels.sghmc(1e-3, num_steps=9)).total_step_size(), "momentum"),
        (lambda: train(SAMPLERS["nuts"]).total_step_size(), "Markov chain"),
        (lambda: kernels.sgld(-1.0, num_steps=2), "step_size=-1"),
        (lambda: kernels.sgld(1e-3, num_steps=2, temperature=0.0), "temperature=0"),
        (lambda: kernels.sgld(1e-3, num_steps=2, rms_decay=1.0), "rms_decay=1"),
        (lambda: kernels.sghmc(1e-3, num_steps=2, friction=0.0), "friction=0"),
        (lambda: kernels.sgnht(1e-3, num_steps=2, friction=0.0), "friction=0"),
        (lambda: kernels.nuts(num_warmup=5), "num_warmup=5"),
        (lambda: kernels.nuts(target_acceptance=1.0), "target_acceptance=1"),
        (lambda: kernels.nuts(max_tree_depth=0), "max_tree_depth=0"),
        (lambda: kernels.hmc(num_integration_steps=0), "num_integration_steps=0"),
        (lambda: divergences.estimate("mean", np.ones(8), np.ones(8), num_states=3), "num_states=3"),
    ],
)
def test_bad_settings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_total_step_size_of_langevin_is_in_units_of_the_objective():
    kernel = kernels.sgld(optax.linear_schedule(2e-3, 0.0, 10), num_steps=10, temperature=0.5)
    close(
        train(kernel).total_step_size(), NUM_DATA / 0.5 * 2e-3 * np.arange(1, 0, -0.1).sum(), rtol=1e-5
    )


def test_a_verdict_compares_runs_and_says_what_has_not_differentiable():
    training = train(kernels.hmc(num_warmup=20, num_samples=16, num_integration_steps=4))
    weights = dtda.leave_one_out(training.program, [0, 1])
    source = dtda.influence(training)
    found = dtda.diagnostics.verdict(
        source, KEY, weights, num_draws=64, where=dtda.Where(progress=False)
    )
    assert "no derivative in the weights" in found.text
    assert found.table["passed"]["variance added by the furthest 1% of moves"]
    arms = comparison(source, KEY, weights).arms(64)
    by_run = (arms.new - arms.old).reshape(16, 4, 4, 2).mean(0)
    close(found.results["shifts"]["error"], by_run.std(0, ddof=1) / 2, rtol=1e-5)
    with pytest.raises(ValueError, match="3 or more runs"):
        dtda.diagnostics.verdict(source, KEY, weights, num_draws=32)


def test_importance_weights_that_rest_on_few_draws_are_warned_of():
    """With all but three of the data gone, the draws that are left say nothing of what comes out."""
    training = train(kernels.exact(), measure=slopes)
    push_forward = dtda.importance(training, KEY, num_draws=100)
    far = np.ones((2, 12))
    far[0, 3:], far[1, 0] = 0.0, 0.999
    with pytest.warns(RuntimeWarning, match="k-hat is above 0.7 for 1 of 2 perturbations"):
        dtda.sample(push_forward, KEY, 8, far)
    with pytest.warns(RuntimeWarning, match="k-hat is above 0.7 for 1 of 1 perturbations"):
        dtda.attribute(push_forward, KEY, 16, ["mean"], far[:1])


def test_the_defaults_of_importance_sampling_fit_any_number_of_states():
    """A population of whole runs."""
    push_forward = dtda.importance(train(LATE, measure=slopes), KEY)
    assert len(push_forward.population.log_density) == 258  # 86 runs of 3 states


@pytest.mark.parametrize(
    "transform",
    [
        lambda t: dtda.influence(t, dtda.curvature.gram(damping="auto")),
        lambda t: dtda.segments(t, dtda.curvature.gram(), num_segments=2),
        lambda t: dtda.trajectory(t, num_checkpoints=2),
    ],
    ids=["influence", "segments", "trajectory"],
)
def test_the_time_of_training_is_known_where_its_step_size_is_traced(transform):
    """A step size is an argument of compiled code, in which it is no number."""
    training = train(kernels.sgld(1e-3, num_steps=7, batch_size=4), measure=slopes)
    call = compiled(lambda pull, key, weights: pull(key, weights))
    assert call.shapes(transform(training).pull, KEY, ones()).shape == (1, 3, NUM_DATA)
