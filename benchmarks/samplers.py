"""Compare the samplers' draws per second with NumPyro and BlackJAX doing the same work.

Run with `uv run python benchmarks/samplers.py` (some minutes on two cores). It prints its tables and
writes them to `docs/benchmarks/samplers.md`. The model is a logistic regression on breast_cancer
(569 data, 30 standardised features, standard normal coefficients and intercept). Times are the least
of three, without compilation; the seconds of `dtda.sample` include building the DataTree, with the
objective and the norm of its gradient at every draw.
"""

import time
from collections.abc import Callable
from functools import partial

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
from numpyro import plate, sample
from numpyro.infer import MCMC, NUTS
from page import write
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

import dtda_prob as dtda

SEED = 0
NUM_WARMUP, NUM_SAMPLES = 500, 1000
REPEATS = 3
NUM_STEPS, THINNING, BATCH, STEP_SIZE = 2000, 10, 64, 1e-4


def logistic(x, y=None):
    intercept = sample("intercept", dist.Normal(0.0, 1.0))
    slopes = sample("slopes", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with plate("data", len(x)) as i:
        sample("y", dist.Bernoulli(logits=intercept + x[i] @ slopes), obs=None if y is None else y[i])


def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_breast_cancer(return_X_y=True)
    return scale(x).astype(np.float32), y.astype(np.float32)


def best(run: Callable[[int], object]) -> float:
    """Return the least seconds of several runs, after one that compiles."""
    seconds = []
    for repeat in range(REPEATS + 1):
        start = time.perf_counter()
        jax.block_until_ready(run(repeat))
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def training(kernel: dtda.kernels.Kernel) -> dtda.Training:
    x, y = data()
    return dtda.Training(dtda.Program(logistic, x, y=y), kernel, dtda.measures.loss(x[:1], y=y[:1]))


def ours(training: dtda.Training, num_chains: int, repeat: int) -> object:
    """Draw as a user does."""
    num_draws = num_chains * training.kernel.num_states
    tree = dtda.sample(
        training,
        jax.random.key(repeat),
        num_draws,
        keep=["parameters"],
        where=dtda.Where(progress=False),
    )
    return tree.posterior["slopes"].values


def bare(training: dtda.Training, num_chains: int) -> Callable[[int], object]:
    """Draw the parameters alone, without statistics and a tree."""
    weights = training.program.full_weights()
    run = jax.jit(jax.vmap(lambda key: training.kernel.run(key, training.program, weights)))
    return lambda repeat: run(jax.random.split(jax.random.key(repeat), num_chains))


def blackjax_nuts(training: dtda.Training, num_chains: int) -> Callable[[int], object]:
    """Write the loop that BlackJAX's documentation shows, with the settings of `kernels.nuts`."""
    weights, program = training.program.full_weights(), training.program

    def log_density(params):
        return -program.num_rows * program.objective(params, weights)

    def chain(key):
        init_key, warm_key, key = jax.random.split(key, 3)
        adaptation = blackjax.window_adaptation(blackjax.nuts, log_density)
        run: Callable = adaptation.run  # whose type lacks the number of steps
        (state, found), _ = run(warm_key, program.init(init_key), NUM_WARMUP)
        step = blackjax.nuts(log_density, **found).step

        def body(state, key):
            state, info = step(key, state)
            return state, (state.position, info.energy, info.is_divergent, info.acceptance_rate)

        return jax.lax.scan(body, state, jax.random.split(key, NUM_SAMPLES))[1]

    run = jax.jit(jax.vmap(chain))
    return lambda repeat: run(jax.random.split(jax.random.key(repeat), num_chains))


def numpyro_nuts(num_chains: int) -> Callable[[int], object]:
    x, y = map(jnp.asarray, data())
    sampler = MCMC(
        NUTS(logistic),
        num_warmup=NUM_WARMUP,
        num_samples=NUM_SAMPLES,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )

    def run(repeat: int) -> object:
        sampler.run(jax.random.key(repeat), x, y, extra_fields=("energy",))
        return sampler.get_samples()["slopes"]

    return run


def no_u_turn() -> pd.DataFrame:
    """Run NUTS with 500 steps of warm-up and 1000 states, on one chain and on many side by side.

    "seconds" are for all chains; "draws/s" counts the states that are kept. "parameters alone" is
    `kernel.run`, the equivalent of BlackJAX's loop. NumPyro has its own adaptation and trajectories, so
    it evaluates different gradients.
    """
    rows = []
    for num_chains in (1, 4, 16):
        made = training(dtda.kernels.nuts(num_warmup=NUM_WARMUP, num_samples=NUM_SAMPLES))
        several = {
            "kernels.nuts, parameters alone": bare(made, num_chains),
            "BlackJAX's loop": blackjax_nuts(made, num_chains),
            "NumPyro's MCMC": numpyro_nuts(num_chains),
        }
        if num_chains > 1:
            several["dtda.sample of kernels.nuts"] = partial(ours, made, num_chains)
        rows += timed(several, num_chains, NUM_SAMPLES)
    return table(rows)


def blackjax_sgld(training: dtda.Training, num_chains: int) -> Callable[[int], object]:
    """Write the loop that BlackJAX's documentation shows, on batches drawn with replacement."""
    program, weights = training.program, training.program.full_weights()

    def gradient(params, batch):
        slope = jax.grad(program.objective)(params, weights, batch)
        return jax.tree.map(lambda leaf: -program.num_rows * leaf, slope)

    def chain(key):
        init_key, key = jax.random.split(key)
        step = blackjax.sgld(gradient).step

        def body(params, key):
            batch_key, noise_key = jax.random.split(key)
            batch = jax.random.randint(batch_key, (BATCH,), 0, program.num_data)
            params = step(noise_key, params, batch, STEP_SIZE)
            return params, None

        def thinned(params, key):
            params, _ = jax.lax.scan(body, params, jax.random.split(key, THINNING))
            return params, params

        keys = jax.random.split(key, NUM_STEPS // THINNING)
        return jax.lax.scan(thinned, program.init(init_key), keys)[1]

    run = jax.jit(jax.vmap(chain))
    return lambda repeat: run(jax.random.split(jax.random.key(repeat), num_chains))


def langevin() -> pd.DataFrame:
    """Run SGLD for 2000 steps on batches of 64 drawn with replacement, keeping every tenth state.

    "parameters alone" is `kernel.run`, the equivalent of BlackJAX's loop plus the loss of each step.
    """
    kernel = dtda.kernels.sgld(STEP_SIZE, num_steps=NUM_STEPS, batch_size=BATCH, replace=True)
    num_states = NUM_STEPS // THINNING
    made = training(dtda.kernels.keep(kernel, num_states, thinning=THINNING))
    rows = []
    for num_chains in (1, 4, 64):
        several = {
            "kernels.sgld, parameters alone": bare(made, num_chains),
            "BlackJAX's loop": blackjax_sgld(made, num_chains),
        }
        if num_chains > 1:
            several["dtda.sample of kernels.sgld"] = partial(ours, made, num_chains)
        rows += timed(several, num_chains, num_states)
    return table(rows)


def timed(several: dict[str, Callable[[int], object]], num_chains: int, num_states: int) -> list[dict]:
    rows = []
    for name, run in several.items():
        seconds = best(run)
        draws = num_chains * num_states / seconds
        rows.append({"chains": num_chains, "what": name, "seconds": seconds, "draws/s": draws})
        print(rows[-1], flush=True)
    return rows


def table(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows).set_index(["chains", "what"])


if __name__ == "__main__":
    write("samplers", "Samplers", __doc__, [no_u_turn, langevin], SEED)
