"""Sample every model of the catalogue, and leave three examples out by refits and by ArviZ.

Run with `uv run python benchmarks/left_out.py` (an hour on two cores); names of models after it
restrict it to these. [Models](models.md) says how each is bound. A run that is interrupted goes on
where it ended, and the seconds are of its last part.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import scipy.special
import xarray as xr
from catalogue import MODELS, Entry
from numpyro.infer.autoguide import AutoNormal
from page import write

import dtda_prob as dtda
from dtda_prob import kernels
from dtda_prob.kernels.supports import site_types, unconstrain

SEED = 0
NUM_CHAINS, NUM_SAMPLES = 4, 300
BLOCKS = 20
"""Blocks of draws whose means give errors, five of each chain."""
KEPT = Path(tempfile.gettempdir()) / "left_out.jsonl"
NUM_TRAINED = 32
"""Trainings of each model with parameters."""


def posteriors() -> pd.DataFrame:
    """Compare refits at weight 0 with `arviz_stats.loo`, for models that have a posterior.

    By NUTS, four chains of 300 steps of warm-up and 300 states on all data, and as many without the
    first, the middle and the last example. `refit` is the log predictive density of each of the three
    without it; `arviz` the same from the chains on all data; `k` the shape of its weights, which are
    not reliable above 0.7; `apart` the difference over its Monte Carlo error, from 20 blocks of draws,
    which is too small where weights have heavy tails (k above 0.5, as where an example has a parameter
    of its own);
    `r_hat` the largest over all parameters and refits. Where examples share a discrete site, ArviZ is
    given the change of the log density of all data. Models that the table lacks were not run.
    """
    return table(left_out, lambda program: not has_parameters(program))


def trainings() -> pd.DataFrame:
    """Compare trainings at weight 0 with trainings on deleted rows, where parameters have no prior.

    Such models have no posterior. 32 trainings by `sgd` or, with latent sites, by `svi`, without each
    of three examples; `apart` is the difference of the means of the squared norm of the parameters
    over its error, and `difference` the largest relative difference of the means.
    """
    return table(trained, has_parameters)


def table(measure: Any, fits: Any) -> pd.DataFrame:
    """Measure each model of a kind; what an interrupted run has found is taken up."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    found = {row["model"]: row for row in map(json.loads, lines)}
    for name in sys.argv[1:] or [name for name, entry in MODELS.items() if not entry.refused]:
        program = None if name in found else bound(MODELS[name])
        if program and fits(program):
            found[name] = {"model": name, "part": measure.__name__}
            found[name] |= measured(measure, MODELS[name], program)
            with KEPT.open("a") as file:
                print(json.dumps(found[name]), file=file)
    rows = [row for row in found.values() if row["part"] == measure.__name__]
    return pd.DataFrame(rows or [{"model": "none", "part": ""}]).drop(columns="part").set_index("model")


def measured(measure: Any, entry: Entry, program: dtda.Program) -> dict[str, Any]:
    try:
        return measure(entry, program)
    except Exception as error:
        return {"refit": f"FAILED: {str(error).splitlines()[0]}"}


def bound(entry: Entry, args: tuple | None = None) -> dtda.Program:
    told = {} if entry.data is None else {"data": entry.data}
    return dtda.Program(entry.model, *(entry.args if args is None else args), **told)


def has_parameters(program: dtda.Program) -> bool:
    """Return whether anything is trained; a module with random parameters keeps a site of theirs."""
    names = [name for name, kind in site_types(program).items() if kind == "param"]
    leaves = jax.tree.leaves([program.shapes[name] for name in names])
    return any(hasattr(leaf, "dtype") for leaf in leaves)


def places_of(program: dtda.Program) -> list[int]:
    return [0, program.num_data // 2, program.num_data - 1]


def left_out(entry: Entry, program: dtda.Program) -> dict[str, Any]:
    places = places_of(program)
    weights = np.ones((4, program.num_data))
    weights[1 + np.arange(3), places] = 0.0
    kernel = kernels.nuts(num_warmup=NUM_SAMPLES, num_samples=NUM_SAMPLES)
    num_draws, key = NUM_CHAINS * NUM_SAMPLES, jax.random.key(SEED)
    training = dtda.Training(program, kernel)
    keep = ["parameters"] if program.structure.shared else ["parameters", "log_likelihood"]
    where = dtda.Where(progress=False)
    tree = dtda.sample(training, key, num_draws, weights, keep=keep, where=where)
    densities = densities_of(program, tree, weights)
    elpd, k = by_arviz(tree, densities.isel(perturbation=0))
    refits = [log_mean(densities.isel(perturbation=k + 1, example=k).values) for k in range(3)]
    before = [log_mean(-densities.isel(perturbation=0, example=k).values) for k in range(3)]
    values, errors = np.array(refits).T
    errors = np.hypot(errors, [error for _, error in before])
    apart = np.divide(elpd - values, errors, out=np.zeros(3), where=errors > 1e-9)
    r_hat = arviz_stats.rhat(tree["posterior"].to_dataset())
    return {
        "refit": listed(values, ".2f"),
        "arviz": listed(elpd, ".2f"),
        "k": listed(k, ".2f"),
        "apart": listed(apart, ".1f"),
        "r_hat": float(max(np.nanmax(each.values) for each in r_hat.values())),
    }


def by_arviz(tree: xr.DataTree, densities: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Return what `loo` says of each example; one with the same density at all draws has no k."""
    varies = np.flatnonzero(np.ptp(densities.values, (0, 1)) > 0)
    groups = {"posterior": tree["posterior"].to_dataset().isel(perturbation=0, drop=True)}
    groups["log_likelihood"] = densities.isel(example=varies).to_dataset(name="y")
    loo = arviz_stats.loo(xr.DataTree.from_dict(groups), pointwise=True)
    elpd, k = densities.mean(("chain", "draw")).values, np.full(densities.sizes["example"], np.nan)
    elpd[varies], k[varies] = loo.elpd_i.values, loo.pareto_k.values
    return elpd, k


def densities_of(program: dtda.Program, tree: xr.DataTree, weights: np.ndarray) -> xr.DataArray:
    """Return how much three examples add to the log density at each draw, given all others."""
    if not program.structure.shared:
        found = tree["log_likelihood/log_likelihood"].isel(example=places_of(program))
        return found.drop_vars("example").astype(float)
    sites = {name: tree[f"posterior/{name}"].values for name in program.shapes}
    rows = jnp.asarray(weights)

    def added(values: Any) -> jax.Array:
        params = unconstrain(program, values)
        each = -program.num_rows * jax.vmap(program.objective, (None, 0))(params, rows)
        return each[0] - each[1:]

    flat = {name: value.reshape(-1, *value.shape[3:]) for name, value in sites.items()}
    found = np.asarray(jax.jit(lambda values: jax.lax.map(added, values))(flat))
    shape = next(iter(sites.values())).shape[:3]
    return xr.DataArray(found.reshape(*shape, 3), dims=("chain", "draw", "perturbation", "example"))


def log_mean(logs: np.ndarray) -> tuple[float, float]:
    """Return the log of the mean exponential of draws `(chain, draw)`, and its error by blocks."""
    value = scipy.special.logsumexp(logs) - np.log(logs.size)
    blocks = np.exp(logs - value).reshape(BLOCKS, -1).mean(1)
    return float(value), float(blocks.std(ddof=1) / BLOCKS**0.5)


def trained(entry: Entry, program: dtda.Program) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(SEED), NUM_TRAINED)
    whole, places = program.num_data, places_of(program)
    ones, apart, differences = jnp.ones(whole), [], []
    for place in places:
        fewer = bound(entry, entry.delete(entry.args, place))
        share = (whole - 1) / whole  # objectives are means over the rows of each program
        at_zero = norms(program, 1.0, keys, ones.at[place].set(0.0))
        deleted = norms(fewer, share, keys, jnp.ones(whole - 1))
        error = np.sqrt((at_zero.var(ddof=1) + deleted.var(ddof=1)) / NUM_TRAINED)
        apart.append((at_zero.mean() - deleted.mean()) / error)
        differences.append(abs(at_zero.mean() / deleted.mean() - 1))
    kernel = type(kernel_of(program, 1.0)).__name__
    return {"kernel": kernel, "apart": listed(apart, ".1f"), "difference": max(differences)}


def kernel_of(program: dtda.Program, share: float) -> kernels.Kernel:
    if program.local:
        return kernels.svi(AutoNormal, optax.sgd(0.2 * share), num_steps=2000)
    return kernels.sgd(optax.sgd(0.2 * share), num_steps=500)


def norms(program: dtda.Program, share: float, keys: Any, weights: Any) -> np.ndarray:
    """Return the squared norm of the parameters of each training."""
    kernel = kernel_of(program, share)
    names = [name for name, kind in site_types(program).items() if kind == "param"]

    def one(key: Any) -> jax.Array:
        params = kernel.run(key, program, weights).params
        return optax.tree.norm({name: params[name] for name in names}, squared=True)

    return np.asarray(jax.jit(jax.vmap(one))(keys), float)


def listed(numbers: Any, form: str) -> str:
    return ", ".join(f"{number:{form}}" for number in np.asarray(numbers))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    parts = [posteriors, trainings]
    write("left_out", "Models without an example", __doc__, parts, SEED)
    KEPT.unlink(missing_ok=True)
