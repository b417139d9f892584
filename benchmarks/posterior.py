"""Compare four ways to remove data from a posterior: ArviZ's LOO, `importance`, `influence`, refitting.

Run with `uv run python benchmarks/posterior.py` (some minutes on two cores). It prints its tables and
writes them to `docs/benchmarks/posterior.md`. The model is a logistic regression on breast_cancer
(569 data, 30 standardised features, standard normal coefficients and intercept), sampled by NUTS:
8 chains of 500 steps of warm-up and 1000 states. Each method has separate chains: ArviZ (by
`diagnostics.sensitivity`) one sample, `importance` its population, `influence` a third sample, and
refits chains without the example. Errors are Monte Carlo standard errors that account for correlation
along chains; errors of slopes and correlations are a jackknife over chains.
"""

import warnings
from functools import cache

import arviz_stats  # noqa: F401  registers the accessor for errors
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from page import write
from samplers import data, logistic

import dtda_prob as dtda

SEED = 0
NUM_CHAINS, NUM_WARMUP, NUM_SAMPLES, NUM_TRANSPORTED = 8, 500, 1000, 25
NUM_ASKED = 8
"""Data whose log-odds are asked for, beside all parameters."""
TEMPERATURES = (1.0, 0.1)
NUM_QUERIES = 31 + NUM_ASKED
SAMPLE = ("chain", "draw")
LIMIT = 0.7


@cache
def program() -> dtda.Program:
    x, y = data()
    return dtda.Program(logistic, x, y=y)


def asked(values: dict) -> jax.Array:
    """Return intercept, slopes, and the log-odds of a few data."""
    x = jnp.asarray(data()[0][:: len(data()[0]) // NUM_ASKED][:NUM_ASKED])
    log_odds = values["intercept"] + x @ values["slopes"]
    return jnp.concatenate([values["intercept"][None], values["slopes"], log_odds])


def training(temperature: float = 1.0, num_samples: int = NUM_SAMPLES) -> dtda.Training:
    kernel = dtda.kernels.nuts(num_warmup=NUM_WARMUP, num_samples=num_samples, temperature=temperature)
    return dtda.Training(program(), kernel, dtda.measures.function(asked))


def drawn(source, key: int, num_samples: int = NUM_SAMPLES, **options) -> xr.DataTree:
    num_draws = NUM_CHAINS * num_samples
    return dtda.sample(
        source, jax.random.key(key), num_draws, where=dtda.Where(progress=False), **options
    )


@cache
def owed() -> xr.Dataset:
    tree = drawn(training(), 0, keep=["log_likelihood", "log_prior"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of k-hat, which is in the tables
        return dtda.diagnostics.sensitivity(tree)


@cache
def weighed(temperature: float = 1.0) -> xr.Dataset:
    """Return importance weights of each example's removal, with densities and values of the draws."""
    made = training(temperature)
    num_draws = NUM_CHAINS * NUM_SAMPLES
    push = dtda.importance(made, jax.random.key(1), num_draws=num_draws)

    @jax.jit
    def weigh(rows):
        def one(row):
            population = push.weigh(row)
            return jnp.exp(population.log_weights), population.pareto_k

        return jax.lax.map(one, rows)

    rows = jnp.asarray(dtda.leave_one_out(program()).values, jnp.float32)
    weights, k_hat = weigh(rows)
    params = push.weigh(rows[0]).params
    densities = jax.lax.map(lambda theta: -program().losses(theta), params, batch_size=64)
    values = jax.vmap(lambda theta: asked(program().constrain(theta)))(params)
    dims = ("chain", "draw")

    def chained(array, *more):
        return ((*dims, *more), np.asarray(array, float).reshape(NUM_CHAINS, NUM_SAMPLES, -1))

    return xr.Dataset(
        {
            "weights": chained(weights.T, "example"),
            "log_likelihood": chained(densities, "example"),
            "values": chained(values, "query"),
            "k_hat": ("example", np.asarray(k_hat)),
        }
    )


def log_density(weights: xr.DataArray, log_likelihood: xr.DataArray) -> tuple:
    """Return log E p(y_i | theta) under normalised weights, and its error."""
    density = np.exp(log_likelihood)
    mean = (weights * density).sum(SAMPLE)
    added = weights * (density / mean - 1) * weights.sizes["chain"] * weights.sizes["draw"]
    return np.log(mean), added.azstats.mcse(method="mean")


@cache
def by_weights() -> tuple:
    found = weighed()
    return log_density(found["weights"], found["log_likelihood"])


def leave_one_out() -> pd.DataFrame:
    """Compare log predictive densities of each example given all others, by ArviZ and by `importance`.

    z is their difference over its error: its standard deviation is 1 if they agree to Monte Carlo
    error. k-hat is the larger of the two. "Sure" examples have a log density above -0.01: k-hat is
    scale free and describes the tail of weights that are all close to 1; their differences are
    rounding in single precision, and have no z.
    """
    (density, error), arviz = by_weights(), owed()
    k_hat = np.fmax(arviz["k_hat"], weighed()["k_hat"]).fillna(0)
    sure, good = arviz["elpd_loo"] > -0.01, k_hat <= LIMIT
    several = {
        f"k-hat at most {LIMIT}": good & ~sure,
        f"k-hat above {LIMIT}": ~good & ~sure,
        f"sure, k-hat at most {LIMIT}": good & sure,
        f"sure, k-hat above {LIMIT}": ~good & sure,
    }
    return pd.DataFrame(
        [_compared(name, chosen.values, density, error) for name, chosen in several.items()]
    ).set_index("data")


def _compared(name: str, chosen: np.ndarray, density: xr.DataArray, error: xr.DataArray) -> dict:
    ours, own = density.values[chosen], error.values[chosen]
    theirs, other = owed()["elpd_loo"].values[chosen], owed()["elpd_loo_error"].values[chosen]
    z = (ours - theirs) / np.hypot(own, other) * (np.nan if "sure" in name else 1.0)
    return {
        "data": name,
        "number": int(chosen.sum()),
        "sum by ArviZ": theirs.sum(),
        "sum by importance": ours.sum(),
        "largest difference": np.abs(ours - theirs).max(),
        "median error": np.median(np.hypot(own, other)),
        "sd of z": z.std(),
        "largest |z|": np.abs(z).max(),
        "correlation": np.corrcoef(ours, theirs)[0, 1],
    }


@cache
def chosen() -> np.ndarray:
    """Return the six examples of the highest k-hat that are not sure, and the two highest of all."""
    found = owed()
    k_hat = found["k_hat"].fillna(0)
    matter = np.argsort(-k_hat.where(found["elpd_loo"] < -0.01, 0).values)[:6]
    rest = [i for i in np.argsort(-k_hat.values) if i not in matter]
    return np.concatenate([matter, rest[:2]])


@cache
def refitted() -> xr.DataTree:
    weights = dtda.leave_one_out(program(), chosen().tolist())
    return drawn(training(), 2, weights=weights, keep=["log_likelihood"])


def refits() -> pd.DataFrame:
    """Refit without the examples of the highest k-hat: six that matter and the two highest of all.

    Log predictive densities with their errors. Where k-hat is high, the error of a weighted mean is not
    reliable; the error of a refit is.
    """
    (density, error), arviz, tree = by_weights(), owed(), refitted()
    rows = []
    for place, example in enumerate(chosen()):
        own = (
            tree["log_likelihood/log_likelihood"]
            .isel(perturbation=place, example=example)
            .astype(float)
        )
        alike = xr.ones_like(own) / own.size
        refit, refit_error = log_density(alike, own)
        rows.append(
            {
                "example": int(example),
                "k-hat": float(arviz["k_hat"][example]),
                "ArviZ": float(arviz["elpd_loo"][example]),
                "its error": float(arviz["elpd_loo_error"][example]),
                "importance": float(density[example]),
                "error of importance": float(error[example]),
                "refit": float(refit),
                "error of refit": float(refit_error),
            }
        )
    return pd.DataFrame(rows).set_index("example")


@cache
def transported(temperature: float = 1.0) -> xr.DataArray:
    """Return the mean shift of each query by `influence`, chain by chain: minus its response."""
    push = dtda.influence(training(temperature, NUM_TRANSPORTED))
    pull, weights = jax.jit(push.pull), program().full_weights()
    keys = jax.random.split(jax.random.key(3), NUM_CHAINS)
    responses = np.stack([np.asarray(pull(key, weights)).mean(0) for key in keys])
    return -xr.DataArray(responses.astype(float), dims=("chain", "query", "example"))


def carried(temperature: float = 1.0, chains: np.ndarray | slice = slice(None)) -> xr.DataArray:
    """Return the mean shift of each query by `importance`, from some chains of its population."""
    some = weighed(temperature)[["weights", "values"]].isel(chain=chains)
    weights = some["weights"] / some["weights"].sum(SAMPLE)
    return xr.dot(weights, some["values"], dim=SAMPLE) - some["values"].mean(SAMPLE)


def mean_shifts() -> pd.DataFrame:
    """Compare mean shifts of 31 parameters and 8 log-odds over the data, removed one by one.

    `influence` moves 25 draws of each chain by their mean Hessian at all data and by the gradients at
    each draw and at their mean; `importance` weights 8000 draws.
    "slope" is the slope of the regression of importance's shifts on influence's, each query in units of
    its posterior sd; "correlation" is over all pairs of query and example, and "ceiling"
    its highest value given the Monte Carlo error of importance. Below temperature 1 the posterior is
    sharper, and approaches the limit in which influence is exact. "all" are all 569 examples; "k-hat at
    most 0.7" omits the examples for which importance itself is not reliable.
    """
    rows = []
    for temperature in TEMPERATURES:
        good = (weighed(temperature)["k_hat"].fillna(0) <= LIMIT).values
        every = np.arange(NUM_CHAINS)
        left = [np.delete(every, k) for k in every]
        parts = [_pairs(temperature, chains) for chains in (every, *left)]
        for label, some in {"all": good | True, f"k-hat at most {LIMIT}": good}.items():
            for name, queries in {"parameters": slice(0, 31), "log-odds": slice(31, None)}.items():
                places = np.ix_(some, np.arange(NUM_QUERIES)[queries])
                pairs = [(one[places], other[places]) for one, other in parts]
                row = {"temperature": temperature, "data": label, "number": some.sum(), "of": name}
                rows.append(row | _agreement(pairs))
    return pd.DataFrame(rows).set_index(["temperature", "data"])


def _agreement(parts: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    """Fit all chains, and all but each, whose spread gives errors and the variance of shifts."""
    found, *each = (np.array(_fit(*part)) for part in parts)
    errors = np.sqrt((NUM_CHAINS - 1) * np.var(each, axis=0))
    noise = (NUM_CHAINS - 1) * np.var([part[1] for part in parts[1:]], axis=0).mean()
    return {
        "slope": found[0],
        "error of slope": errors[0],
        "correlation": found[1],
        "error of correlation": errors[1],
        "ceiling": np.sqrt(max(1 - noise / np.var(parts[0][1]), 0.0)),
    }


def _pairs(temperature: float, chains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shifts by both, `(example, query)`, in posterior standard deviations."""
    spread = weighed(temperature)["values"].std(SAMPLE)
    first = transported(temperature).isel(chain=chains).mean("chain")
    second = carried(temperature, chains)
    return tuple((part / spread).transpose("example", "query").values for part in (first, second))


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    return (x * y).sum() / (x * x).sum(), np.corrcoef(x.ravel(), y.ravel())[0, 1]


def mean_shifts_of_refits() -> pd.DataFrame:
    """Compare mean shifts of all 39 queries with refits, for the examples that were refitted.

    In posterior standard deviations: "length of refit" is the length of the shift over all queries, and
    its error is estimated between chains. "ratio" is the length of a predicted shift over the length of
    the refit's shift, "cosine" the cosine between them; k-hat is from importance. Where the error is
    about as long as the shift itself, no conclusion is possible.
    """
    found, spread = weighed(), weighed()["values"].std(SAMPLE).values
    tree = refitted()["posterior_predictive/asked"].astype(float)
    before = drawn(training(), 4)["posterior_predictive/asked"].astype(float)
    rows = []
    for place, example in enumerate(chosen()):
        true = (tree.isel(perturbation=place).mean("draw") - before.mean("draw")).values / spread
        error = np.sqrt((true.var(0, ddof=1) / NUM_CHAINS).sum())
        several = {
            "influence": transported().mean("chain").isel(example=example).values,
            "importance": carried().isel(example=example).values,
            "ArviZ": owed()["mean_shift"].isel(example=example).values,
        }
        row = {"example": int(example), "k-hat": float(found["k_hat"][example])}
        row |= {"length of refit": np.linalg.norm(true.mean(0)), "its error": error}
        for name, shift in several.items():
            a, b = shift / spread, true.mean(0)
            row[f"{name}, ratio"] = np.linalg.norm(a) / np.linalg.norm(b)
            row[f"{name}, cosine"] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        rows.append(row)
    return pd.DataFrame(rows).set_index("example")


if __name__ == "__main__":
    parts = [leave_one_out, refits, mean_shifts, mean_shifts_of_refits]
    write("posterior", "Posteriors", __doc__, parts, SEED)
