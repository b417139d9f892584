"""Networks with batch normalisation and dropout, in each library as its users write them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import linen, nnx
from numpyro.contrib.module import eqx_module, flax_module, nnx_module

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(12, 3)).astype(np.float32), RNG.integers(0, 2, 12)
MOMENTUM = 0.8


def observe(logits, y, i):
    numpyro.sample("y", dist.Categorical(logits=logits), obs=None if y is None else y[i])


class InNNX(nnx.Module):
    def __init__(self, rngs):
        self.inner, self.outer = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=MOMENTUM, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        return self.outer(self.dropout(jnp.tanh(self.norm(self.inner(x)))))


def by_nnx(x, y=None, train=True):
    network = InNNX(nnx.Rngs(numpyro.prng_key()))
    network.train() if train else network.eval()
    network = nnx_module("net", network)
    with numpyro.plate("data", len(x)) as i:
        observe(network(x[i]), y, i)


class InLinen(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        h = linen.Dense(4)(x)
        h = linen.BatchNorm(use_running_average=not train, momentum=MOMENTUM)(h)
        return linen.Dense(2)(linen.Dropout(0.2, deterministic=not train)(jnp.tanh(h)))


def by_linen(x, y=None, train=True):
    network = flax_module("net", InLinen(), x[:1], False, mutable=["batch_stats"])
    with numpyro.plate("data", len(x)) as i:
        observe(network(x[i], train, rngs={"dropout": numpyro.prng_key()}), y, i)


class InEquinox(eqx.Module):
    inner: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    outer: eqx.nn.Linear

    def __init__(self, mode, key):
        keys = jax.random.split(key)
        self.inner, self.outer = eqx.nn.Linear(3, 4, key=keys[0]), eqx.nn.Linear(4, 2, key=keys[1])
        self.norm = eqx.nn.BatchNorm(4, "batch", momentum=MOMENTUM, mode=mode)
        self.dropout = eqx.nn.Dropout(0.2)

    def __call__(self, x, state, key):
        h, state = self.norm(self.inner(x), state)
        return self.outer(self.dropout(jnp.tanh(h), key=key)), state


def by_equinox(x, y=None, mode="batch", train=True):
    network, state = eqx.nn.make_with_state(InEquinox)(mode, numpyro.prng_key())
    network = eqx_module("net", network if train else eqx.nn.inference_mode(network))
    held = numpyro.primitives.mutable("net$state", {"state": state})
    keys = jax.random.split(numpyro.prng_key(), len(x))
    each = jax.vmap(network, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
    with numpyro.plate("data", len(x)) as i:
        logits, held["state"] = each(x[i], held["state"], keys[i])
        observe(logits, y, i)


class Case(NamedTuple):
    """A model with layers that keep a state.

    Attributes:
        model: called with `train=False` in evaluation.
        moments: the running mean and variance in its parameters.
    """

    model: Callable
    moments: Callable[[Any], tuple]


def _of_equinox(params: dict) -> list:
    return jax.tree.leaves(params["net$state"])


NETWORKS = {
    "nnx": Case(by_nnx, lambda p: tuple(p["net$state"]["state"]["norm"].values())),
    "linen": Case(by_linen, lambda p: tuple(p["net$state"]["batch_stats"]["BatchNorm_0"].values())),
    "equinox": Case(by_equinox, lambda p: tuple(_of_equinox(p)[1:])),
    "equinox, moving": Case(partial(by_equinox, mode="ema"), lambda p: tuple(_of_equinox(p)[1:])),
}
