"""Finished chains: seconds to a first table, and examples that move a posterior far.

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

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from numpyro.infer import MCMC, NUTS
from page import write
from samplers import data, logistic

import dtda_prob as dtda
from dtda_prob import kernels

SEED = 0
SOME = [213, 38, 190, 152, 12, 290]
"""Examples whose removal moves the posterior most, and two that hardly move it."""
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


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measured(*sys.argv[1:])))
    else:
        parts = [seconds, influential_examples]
        write("chains", "Finished chains", __doc__, parts, SEED)
