"""Models of the target of a table, and what is measured of them: losses and predictions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from dtda_prob.measures import readouts
from dtda_prob.measures.predictive import Predictive
from dtda_prob.module import Module

HIDDEN = 32
TAILS = 4.0
"""Degrees of freedom of the noise: its tails are so heavy that an error hardly moves the fit."""


class tabular(Module):
    """A linear model with a small hidden layer beside it.

    Args:
        num_classes: number of classes; None for a number with heavy-tailed noise.
    """

    num_classes: int | None = eqx.field(static=True)

    def __call__(self, x: Float[Array, "row feature"], y: Array | None = None) -> None:
        """Sample the parameters, and the target given them."""
        predict = _network(x.shape[-1], self.num_classes or 1)
        is_number = self.num_classes is None
        log_scale = jnp.asarray(numpyro.param("log_scale", jnp.zeros(())) if is_number else 0.0)
        with numpyro.plate("data", len(x)) as i:
            outputs = predict(x[i])
            if is_number:
                fn = dist.StudentT(TAILS, outputs[..., 0], jnp.exp(log_scale))
            else:
                fn = dist.Categorical(logits=outputs)
            numpyro.sample("y", fn, obs=None if y is None else y[i])


def _network(num_features: int, num_outputs: int):
    def normal(name: str, shape: tuple[int, ...], scale: float) -> Array:
        return jnp.asarray(numpyro.param(name, lambda key: scale * jax.random.normal(key, shape)))

    inner = normal("inner", (num_features, HIDDEN), num_features**-0.5)
    places = normal("places", (HIDDEN,), 0.1)
    outer = normal("outer", (HIDDEN, num_outputs), 0.3 * HIDDEN**-0.5)
    direct = jnp.asarray(numpyro.param("direct", jnp.zeros((num_features, num_outputs))))
    bias = jnp.asarray(numpyro.param("bias", jnp.zeros(num_outputs)))
    return lambda x: x @ direct + jnp.tanh(x @ inner + places) @ outer + bias


class judged(Predictive):
    """Measure the loss in nats, what is predicted, and its scale or the probability of its class."""

    __init__ = Predictive.__init__

    def read(self, sites: dict) -> Float[Array, "query output"]:
        fn, y, _ = readouts.only(None, sites)
        loss = -jnp.asarray(fn.log_prob(y))
        if readouts.has_classes(fn):
            shares = jax.nn.softmax(readouts.class_logits(fn, "judged"))
            return jnp.stack([loss, shares.argmax(-1).astype(loss.dtype), shares.max(-1)], -1)
        return jnp.stack([loss, fn.mean, jnp.sqrt(fn.variance)], -1)
