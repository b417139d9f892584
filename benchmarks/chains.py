"""Finished chains: seconds to a first table, examples that move a posterior far, coupled chains.

Run with `uv run python benchmarks/chains.py` (some minutes on two cores). It prints its tables and
writes them to `docs/benchmarks/chains.md`. The model is a logistic regression on breast_cancer (569
data, 30 standardised features, standard normal coefficients and intercept), sampled by NumPyro's
NUTS: 4 chains of 500 steps of warm-up and 1000 states.
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

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from blackjax.mcmc import coupled_hmc
from jax.flatten_util import ravel_pytree
from numpyro.infer import MCMC, NUTS
from page import write
from samplers import data, logistic

import dtda_prob as dtda
from dtda_prob import kernels

SEED = 0
SOME = [213, 38, 190, 152, 12, 290]
"""Examples whose removal moves the posterior most, and two that hardly move it."""
COUPLED = SOME[:2] + SOME[4:5]
PAIRS = 16
LENGTHS = {"num_warmup": 500, "num_samples": 500}
SLOW_XLA = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"}


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
    """Score all 569 patients and 31 parameters from the finished chain, in a fresh process.

    Each row is a process that has imported what it needs and compiled nothing. Seconds are of the
    processor, in all threads, from the arrays to the table. `covariance` and `importance` are
    attributed by the mean, with all 4,000 draws.
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


METHODS: dict[str, Callable[[dtda.Training], object]] = {
    "covariance": by_attribution("covariance"),
    "importance": by_attribution("importance"),
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
    posteriors. `covariance` is the first order, `influence` moves each draw by its own gradient and
    the mean curvature of its block of draws, and `gaussian` moves all draws by curvatures and gradients
    that are means over them.
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
    """Sample with and without a patient by pairs of chains that share their randomness.

    The shift of the 31 means from 16 pairs of chains of 500 states. In the first two rows BlackJAX's
    `coupled_hmc` moves both chains of a pair, from one state and with one step size and mass matrix,
    adapted to all data, and its first 100 states are left out. In the others both arms of `dtda.sample`
    have the same keys: `kernels.hmc` with `coupled=True`, then `hmc` and `nuts` whose chains each adapt
    themselves. `variance` is the variance of the shift over pairs, relative to the variance if each
    chain is paired with one of another key, as a mean over parameters: 1 is no coupling. `length` is
    the length of the mean shift in posterior standard deviations, and `z` the root mean square
    difference from the shifts of the first row, over its error.
    """
    warnings.simplefilter("ignore")
    without = dtda.leave_one_out(program(), COUPLED)
    arms = {
        "coupled_hmc, synchronous": by_blackjax(without, "synchronous"),
        "coupled_hmc, reflection": by_blackjax(without, "reflection"),
        "hmc, coupled": by_key(without, kernels.hmc(coupled=True, **LENGTHS)),
        "hmc, one key": by_key(without, kernels.hmc(**LENGTHS)),
        "nuts, one key": by_key(without, kernels.nuts(**LENGTHS)),
    }
    rows, spread = [], values(dtda.sample(finished(), jax.random.key(0))).std(0)
    for k, example in enumerate(COUPLED):
        first: tuple = ()
        for name, (full, perturbed) in arms.items():
            paired = (perturbed[:, k] - full[:, k]) / spread
            rolled = (np.roll(perturbed[:, k], 1, 0) - full[:, k]) / spread
            share = (paired.var(0, ddof=1) / rolled.var(0, ddof=1)).mean()
            mean, error = paired.mean(0), paired.std(0, ddof=1) / PAIRS**0.5
            first = first or (mean, error)
            z = (mean - first[0]) / np.hypot(error, first[1])
            length = np.linalg.norm(mean)
            row = {"variance": share, "length": length, "z": np.sqrt(np.square(z).mean())}
            rows.append({"example": example, "sampler": name} | row)
    return pd.DataFrame(rows).set_index("example")


Means = tuple[np.ndarray, np.ndarray]
"""Means of chains on all data and without an example, `(pair, perturbation, parameter)`."""


def by_blackjax(without, coupling: str) -> Means:
    kernel = coupled_hmc.build_kernel(coupling=coupling)
    bound, length = program(), kernels.hmc().num_integration_steps

    def target(weights) -> Callable:
        return lambda params: -bound.num_rows * bound.objective(params, weights)

    whole = target(bound.full_weights())

    def warm(key) -> tuple:
        settings = {"num_integration_steps": length}
        run: Callable = blackjax.window_adaptation(blackjax.hmc, whole, **settings).run
        (state, chosen), _ = run(key, bound.init(key), 500)
        return state.position, (chosen["step_size"],) * 2, (chosen["inverse_mass_matrix"],) * 2

    def pair(key, start, weights) -> tuple:
        position, sizes, masses = start
        targets = whole, target(weights)

        def body(state, key) -> tuple:
            steps = jax.random.randint(jax.random.fold_in(key, 1), (), 1, length + 1)
            state, _ = kernel(key, state, targets, sizes, masses, (steps, steps))
            return state, [ravel_pytree(each.position)[0] for each in state]

        state = coupled_hmc.init((position, position), targets)
        states = jax.lax.scan(body, state, jax.random.split(key, 600))[1]
        return tuple(each[100:].mean(0) for each in states)

    keys, rows = jax.random.split(jax.random.key(SEED), PAIRS), jnp.asarray(without.values, "float32")
    each = jax.vmap(jax.vmap(pair, (None, None, 0)), (0, 0, None))
    full, perturbed = jax.jit(each)(keys, jax.jit(jax.vmap(warm))(keys), rows)
    return np.asarray(full, float), np.asarray(perturbed, float)


def by_key(without, kernel: kernels.Kernel) -> Means:
    training, key, number = dtda.Training(program(), kernel), jax.random.key(SEED), PAIRS * 500
    trees = [dtda.sample(training, key, number, rows) for rows in (None, without)]
    full, perturbed = (tree["posterior_predictive/parameters"].mean("draw").values for tree in trees)
    return np.broadcast_to(full[:, None], perturbed.shape), perturbed


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measured(*sys.argv[1:])))
    else:
        parts = [seconds, influential_examples, coupled_chains]
        write("chains", "Finished chains", __doc__, parts, SEED)
