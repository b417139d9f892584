"""Networks with priors, and generative networks."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import linen
from numpyro.contrib.module import flax_module, random_flax_module

from catalogue.entry import BINARY, GROUP, TABLE, Y, case


@case("NumPyro: Bayesian network", TABLE, Y)
def bayesian_network(x, y):
    first = numpyro.sample("w1", dist.Normal(jnp.zeros((3, 4)), 1.0))
    last = numpyro.sample("w2", dist.Normal(jnp.zeros(4), 1.0))
    precision = numpyro.sample("prec", dist.Gamma(3.0, 1.0))
    with numpyro.plate("data", len(x)):
        mean = jnp.tanh(x @ first) @ last
        numpyro.sample("Y", dist.Normal(mean, 1 / jnp.sqrt(precision)), obs=y)


@case("NumPyro: a network's parameters as random", TABLE, Y)
def random_module(x, y):
    net = random_flax_module("net", linen.Dense(1), dist.Normal(), input_shape=(1, 3))
    numpyro.sample("y", dist.Normal(net(x)[:, 0]), obs=y)


@case("NumPyro: variational autoencoder", TABLE)
def autoencoder(x):
    decode = flax_module("decoder", linen.Dense(3), input_shape=(1, 2))
    with numpyro.plate("data", len(x)) as i:
        code = numpyro.sample("z", dist.Normal().expand([2]).to_event(1))
        numpyro.sample("obs", dist.Normal(decode(code)).to_event(1), obs=x[i])


@case("PyMC: a classifier", TABLE, GROUP)
def classifier(x, y):
    net = flax_module("net", linen.Dense(3), input_shape=(1, 3))
    numpyro.sample("y", dist.Categorical(logits=net(x)), obs=y)


@case("posteriordb: probit by a network", TABLE, BINARY)
def probit(x, y):
    slopes = numpyro.sample("slopes", dist.Normal().expand([3]).to_event(1))
    link = dist.Normal().cdf(x @ slopes)
    numpyro.sample("y", dist.Bernoulli(probs=jnp.clip(link, 1e-6, 1 - 1e-6)), obs=y)
