"""Normal vectors, Gaussian processes, and models without independent data."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from catalogue.entry import BINARY, NUM, TABLE, X, Y, case


def kernel(x, scale, length):
    return scale * jnp.exp(-((x[:, None] - x) ** 2) / length)


@case("NumPyro: Gaussian process", X, Y)
def gaussian_process(x, y):
    scale, length, noise = (numpyro.sample(k, dist.LogNormal(0, 1)) for k in ("var", "len", "noise"))
    cov = kernel(x, scale, length) + (noise + 1e-3) * jnp.eye(len(x))
    numpyro.sample("Y", dist.MultivariateNormal(jnp.zeros(len(x)), cov), obs=y)


@case("NumPyro: sparse regression by a kernel", TABLE, Y)
def sparse_regression(x, y):
    kappa = numpyro.sample("kappa", dist.HalfCauchy(jnp.ones(x.shape[1])))
    noise = numpyro.sample("noise", dist.InverseGamma(3.0, 1.0))
    scaled = x * kappa
    cov = 1.0 + scaled @ scaled.T + (1 + scaled @ scaled.T) ** 2 + (noise + 1e-2) * jnp.eye(len(x))
    numpyro.sample("Y", dist.MultivariateNormal(0.0, cov), obs=y)


@case("PyMC: a latent Gaussian process", X, BINARY, delete=None)
def latent_process(x, y):
    root = jnp.linalg.cholesky(kernel(x, 1.0, 0.5) + 1e-3 * jnp.eye(len(x)))
    raw = numpyro.sample("raw", dist.Normal().expand([len(x)]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=root @ raw), obs=y)


@case("NumPyro: Hilbert-space process (birthdays)", X, Y)
def hilbert_space(x, y):
    basis = jnp.sin(jnp.arange(1, 5) * (x[:, None] + 3) / 2)
    length = numpyro.sample("length", dist.LogNormal())
    with numpyro.plate("basis", 4):
        beta = numpyro.sample("beta", dist.Normal())
    f = numpyro.deterministic("f", basis @ (beta * jnp.exp(-length * jnp.arange(1, 5))))
    with numpyro.plate("obs", len(y)):
        numpyro.sample("y", dist.Normal(f, 0.5), obs=y)


@case("PyMC: a Student vector", Y, refused="one log density for all its elements")
def student_vector(y):
    level = numpyro.sample("level", dist.Normal())
    numpyro.sample("y", dist.MultivariateStudentT(4.0, level, jnp.eye(len(y))), obs=y)


@case("PyMC: spatial errors (CAR)", Y, refused="one log density for all its elements")
def spatial(y):
    adjacency = jnp.eye(NUM, k=1) + jnp.eye(NUM, k=-1)
    level = numpyro.sample("level", dist.Normal())
    numpyro.sample("y", dist.CAR(level * jnp.ones(NUM), 0.5, 1.0, adjacency), obs=y)


@case("NumPyro: Neal's funnel", refused="observes nothing")
def funnel():
    scale = numpyro.sample("y", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(0, jnp.exp(scale / 2)).expand([3]).to_event(1))


@case("NumPyro: two sites, one way each", X, Y, refused="data='x'")
def two_sites(x, y):
    level = numpyro.sample("level", dist.Normal())
    numpyro.sample("x", dist.Normal(level), obs=x)
    numpyro.sample("y", dist.Normal(level), obs=y)
