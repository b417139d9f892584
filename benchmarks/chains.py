"""Finished chains: seconds to a first table, examples that matter, coupled chains, and calibration.

Run with `uv run python benchmarks/chains.py` (some minutes on two cores). It prints its tables and
writes them to `docs/benchmarks/chains.md`. In all but the last section the model is a logistic
regression on breast_cancer (569 data, 30 standardised features, standard normal coefficients and
intercept), sampled by NumPyro's NUTS: 4 chains of 500 steps of warm-up and 1000 states.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from blackjax.mcmc import coupled_hmc
from numpyro.infer import MCMC, NUTS
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from page import write
from samplers import data, logistic

import dtda_prob as dtda
from dtda_prob import kernels

SEED = 0
SOME = [213, 38, 190, 152, 12, 290]
"""Examples whose removal moves the posterior most, and two that hardly move it."""
SLOW_XLA = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"}
NUM_PAIRS, NUM_TRANSITIONS, NUM_STEPS, STEP_SIZE = 32, 200, 16, 0.1


@cache
def chain() -> dict[str, np.ndarray]:
    x, y = map(jnp.asarray, data())
    settings = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(NUTS(logistic), num_warmup=500, num_samples=1000, **settings)
    mcmc.run(jax.random.key(SEED), x, y=y)
    return jax.device_get(mcmc.get_samples(group_by_chain=True))


@cache
def program() -> dtda.Program:
    x, y = data()
    return dtda.Program(logistic, x, y=y)


def finished() -> dtda.Training:
    return dtda.Training(program(), kernels.pretrained(chain()))


# Seconds.


def seconds() -> pd.DataFrame:
    """Go from the finished chain to scores of all 569 patients and 31 parameters, in a fresh process.

    Each row is a process that has imported what it needs and compiled nothing. Seconds are of the
    processor, in all threads, from the arrays to the table. `covariance` and `importance` are
    attributed by the mean, with all 4,000 draws; `sensitivity` is of a sample that keeps densities.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.npz"
        np.savez(path, **chain())
        rows = [{"method": name} | in_a_process(name, str(path)) for name in METHODS]
    return pd.DataFrame(rows).set_index("method")


def by_attribution(transform: str) -> Callable[[dtda.Training], object]:
    def run(training: dtda.Training) -> object:
        source = getattr(dtda, transform)(training)
        return dtda.scores.strongest(dtda.attribute(source, jax.random.key(0), divergences=["mean"]))

    return run


def by_densities(training: dtda.Training) -> object:
    tree = dtda.sample(training, jax.random.key(0), keep=["log_likelihood", "log_prior"])
    return dtda.diagnostics.sensitivity(tree).to_dataframe()


METHODS: dict[str, Callable[[dtda.Training], object]] = {
    "covariance": by_attribution("covariance"),
    "importance": by_attribution("importance"),
    "sensitivity": by_densities,
}


def measured(method: str, path: str) -> dict[str, float]:
    """Measure one method in this process, which has done nothing before."""
    samples, (x, y) = dict(np.load(path)), data()
    warnings.simplefilter("ignore")
    start, elapsed = time.process_time(), time.perf_counter()
    training = dtda.Training(dtda.Program(logistic, x, y=y), kernels.pretrained(samples))
    bound = time.process_time() - start
    METHODS[method](training)
    spent = time.process_time() - start
    return {"binding": bound, "in all": spent, "elapsed": time.perf_counter() - elapsed}


def in_a_process(*arguments: str) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if name not in SLOW_XLA}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


# Examples that matter.


def influential_examples() -> pd.DataFrame:
    """Remove the patients who matter most, and two who hardly do, and compare mean shifts with refits.

    Shifts of the 31 parameters, in posterior standard deviations. "Length of refit" is from four chains
    of 1000 states on the data without the patient; its error comes from the noise of both samples. For
    each method the length of its shift over the refit's, and the cosine between them. `importance` has
    the finished chain for its population; "mixture" draws 4,000 from the mixture of these six
    posteriors. `covariance` is the first order, `influence` moves each draw by its own curvature and
    the mode's, and `gaussian` moves all draws by curvatures and gradients that are means over them.
    """
    warnings.simplefilter("ignore")
    sampler = dtda.Training(program(), kernels.nuts(num_warmup=500, num_samples=1000))
    without, training = dtda.leave_one_out(program(), SOME), finished()
    key, before = jax.random.key(SEED + 1), values(dtda.sample(training, jax.random.key(0)))
    spread, full = before.std(0), before.mean(0)
    tree = dtda.sample(sampler, key, 4000, without)["posterior_predictive/parameters"]
    refit = (tree.mean(("chain", "draw")).values - full) / spread
    error = np.hypot(tree.mean("draw").std("chain", ddof=1).values / 2, 1 / np.sqrt(4000) * spread)
    shifts = {
        "importance": weighted(dtda.importance(training), without),
        "mixture": weighted(dtda.importance(sampler, key, num_draws=4000, proposal=without), without),
    }
    thinned = {name: value[:, ::5] for name, value in chain().items()}
    few = dtda.Training(program(), kernels.pretrained(thinned))
    start = values(dtda.sample(few, jax.random.key(0))).mean(0)
    for name in ("covariance", "influence", "gaussian"):
        own, base = (training, full) if name == "covariance" else (few, start)
        moved = dtda.sample(getattr(dtda, name)(own), jax.random.key(0), None, without)
        shifts[name] = moved["posterior_predictive/parameters"].mean(("chain", "draw")).values - base
    table = {
        "example": SOME,
        "length of refit": np.linalg.norm(refit, axis=1),
        "its error": np.linalg.norm(error / spread, axis=1),
    }
    for name, shift in shifts.items():
        length = np.linalg.norm(shift / spread, axis=1)
        table[f"{name}, ratio"] = length / table["length of refit"]
        product = (shift / spread * refit).sum(1)
        table[f"{name}, cosine"] = product / (length * table["length of refit"])
    return pd.DataFrame(table).set_index("example")


def values(tree) -> np.ndarray:
    return tree["posterior_predictive/parameters"].values.reshape(-1, 31)


def weighted(source, without) -> np.ndarray:
    """Return mean shifts by weights, relative to the mean of the finished chain."""
    full = np.concatenate([chain()["intercept"].mean()[None], chain()["slopes"].mean((0, 1))])
    rows = []
    for row in without.values:
        found = source.weigh(jnp.asarray(row, jnp.float32))
        draws = np.column_stack([found.params["intercept"], found.params["slopes"]]).astype(float)
        rows.append(np.exp(np.asarray(found.log_weights, float)) @ draws - full)
    return np.stack(rows)


# Coupled chains.


def coupled_chains() -> pd.DataFrame:
    """Couple Hamiltonian chains on all data and on data without a patient (BlackJAX's `coupled_hmc`).

    Both chains of a pair start at one draw of the finished chain and take 200 transitions of 16
    leapfrog steps, with the diagonal mass matrix of the posterior. Over 32 pairs: the variance of
    independent chains' differences of means over that of coupled ones, as the mean over parameters.
    Above 1 coupling pays. "Acceptance" is of the chain on all data.
    """
    rows = []
    for example in SOME[:3] + SOME[-1:]:
        apart, accepted = differences("synchronous", example, shared=False)
        row = {"example": example, "acceptance": accepted}
        for coupling in ("synchronous", "reflection"):
            together, _ = differences(coupling, example, shared=True)
            row[coupling] = float((apart.var(0) / together.var(0)).mean())
        rows.append(row)
    return pd.DataFrame(rows).set_index("example")


def differences(coupling: str, example: int, *, shared: bool) -> tuple[np.ndarray, float]:
    """Return the difference of both means of each pair, and the mean acceptance rate."""
    ones = jnp.ones(program().num_data)
    draws = jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(-1, *leaf.shape[2:])), chain())
    metric = jnp.concatenate([leaf.reshape(4000, -1).var(0) for leaf in jax.tree.leaves(draws)])
    starts = jax.tree.map(lambda leaf: leaf[:: 4000 // NUM_PAIRS][:NUM_PAIRS], draws)
    kernel = coupled_hmc.build_kernel(coupling=coupling)

    def density(weights):
        return lambda params: -program().num_rows * program().objective(params, weights)

    pair = density(ones), density(ones.at[example].set(0.0))

    def run(key, start, sides):
        def step(state, key):
            state, info = kernel(
                key, state, sides, (STEP_SIZE, STEP_SIZE), (metric, metric), (NUM_STEPS, NUM_STEPS)
            )
            return state, (state.first.position, state.second.position, info.first.acceptance_rate)

        state = coupled_hmc.init((start, start), sides)
        first, second, rate = jax.lax.scan(step, state, jax.random.split(key, NUM_TRANSITIONS))[1]
        flat = lambda tree: jnp.concatenate([leaf.mean(0).ravel() for leaf in jax.tree.leaves(tree)])  # noqa: E731
        return flat(first), flat(second), rate.mean()

    every = jax.jit(jax.vmap(lambda key, start: run(key, start, pair)))
    old, new, rate = every(jax.random.split(jax.random.key(1), NUM_PAIRS), starts)
    if not shared:
        other = jax.tree.map(lambda leaf: leaf[::-1], starts)
        new = every(jax.random.split(jax.random.key(2), NUM_PAIRS), other)[1]
    return np.asarray(new - old, float), float(rate.mean())


# Calibration.


def simulated_data() -> pd.DataFrame:
    """Rank true parameters among draws of each kernel, on 100 datasets that the model makes up.

    A linear regression of 40 rows of Concrete with known noise: 8 slopes. "Uniform" is the smallest
    p-value of the slopes for uniform ranks, times their number (Bonferroni); "bias" the largest mean of
    the PIT values less 1/2, and "unbiased" the p-value for no bias, likewise corrected.
    """
    strength = dtda.zoo.concrete()
    x, y = strength.x_train[:40], strength.y_train[:40]
    bound = dtda.Program(dtda.zoo.linear_regression, x, y=y)
    rows = []
    for name, kernel in KERNELS.items():
        training, several = dtda.Training(bound, kernel), kernel.num_states
        found = dtda.diagnostics.simulated(training, jax.random.key(SEED), 100, max(20, several))
        number = found.sizes["query"]
        rows.append(
            {
                "kernel": name,
                "uniform": min(1.0, number * float(found["p_value"].min())),
                "bias": max(found["bias"].values, key=abs),
                "unbiased": min(1.0, number * float(found["bias_p_value"].min())),
            }
        )
    return pd.DataFrame(rows).set_index("kernel")


ADAM = optax.adam(0.03)
KERNELS = {
    "exact": kernels.exact(),
    "laplace": kernels.laplace(),
    "nuts": kernels.nuts(num_warmup=200, num_samples=25, thinning=2),
    "hmc": kernels.hmc(num_warmup=200, num_samples=25, thinning=2, num_integration_steps=8),
    "sgld": kernels.keep(kernels.sgld(2e-4, num_steps=4_000), 20, thinning=150),
    "sghmc": kernels.keep(kernels.sghmc(4e-4, num_steps=150, num_integration_steps=30), 20, thinning=5),
    "sgnht": kernels.keep(kernels.sgnht(4e-4, num_steps=4_000), 20, thinning=150),
    "svi, multivariate normal": kernels.svi(AutoMultivariateNormal, ADAM, num_steps=500),
    "svi, independent normals": kernels.svi(AutoNormal, ADAM, num_steps=500),
}

if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measured(*sys.argv[1:])))
    else:
        parts = [seconds, influential_examples, coupled_chains, simulated_data]
        write("chains", "Finished chains", __doc__, parts, SEED)
