"""Survival, truncation and censoring."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers

from catalogue.entry import BINARY, GROUP, POSITIVE, X, Y, case

DIED = np.arange(len(Y)) % 3 > 0


@case("NumPyro: survival, masks and a factor", X, POSITIVE, DIED)
def survival_by_mask(x, time, died):
    slope = numpyro.sample("slope", dist.Normal())
    rate = jnp.exp(slope * x)
    with numpyro.plate("data", len(x)):
        with handlers.mask(mask=died):
            numpyro.sample("time", dist.Exponential(rate), obs=time)
        with handlers.mask(mask=~died):
            numpyro.factor("censored", -rate * time)


@case("NumPyro: survival, censored distribution", X, POSITIVE, DIED)
def survival_censored(x, time, died):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("data", len(x)):
        times = dist.RightCensoredDistribution(dist.Exponential(jnp.exp(slope * x)), 1 - died)
        numpyro.sample("time", times, obs=time)


@case(
    "PyMC: observed and censored in two plates",
    POSITIVE[:8],
    POSITIVE[8:],
    data=["observed", "censored"],
    delete=lambda args, i: tuple(np.split(np.delete(np.concatenate(args), i), [8 - (i < 8)])),
)
def observed_and_censored(times, ends):
    rate = numpyro.sample("rate", dist.LogNormal())
    with numpyro.plate("observed", len(times)):
        numpyro.sample("time", dist.Exponential(rate), obs=times)
    with numpyro.plate("censored", len(ends)):
        numpyro.factor("end", -rate * ends)


@case("PyMC: Weibull survival by group", GROUP, POSITIVE)
def weibull(group, time):
    with numpyro.plate("group", 3):
        scale = numpyro.sample("scale", dist.LogNormal())
    shape = numpyro.sample("shape", dist.LogNormal())
    with numpyro.plate("patient", len(time)):
        numpyro.sample("time", dist.Weibull(scale[group], shape), obs=time)


@case("NumPyro: truncated from the left", POSITIVE)
def truncated(y):
    loc = numpyro.sample("loc", dist.Normal())
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.LeftTruncatedDistribution(dist.Normal(loc), low=0.0), obs=y)


@case("NumPyro: truncated counts", np.maximum(BINARY, 0))
def truncated_counts(y):
    rate = numpyro.sample("rate", dist.LogNormal())
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


@case("PyMC: a folded outcome", POSITIVE)
def folded(y):
    scale = numpyro.sample("scale", dist.LogNormal())
    numpyro.sample("y", dist.FoldedDistribution(dist.Normal(0.5, scale)), obs=y)
