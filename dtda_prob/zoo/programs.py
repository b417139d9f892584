"""Generative programs in plain NumPyro, without a network library."""

from collections.abc import Callable, Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int

from dtda_prob.module import Module

type Activation = Callable[[Array], Array]


class classifier(Module):
    """A multilayer perceptron with categorical observations, called as `model(x, y=None)`.

    Equal settings are one model, so that programs of it share what is compiled. `x` has the shape
    `(example, feature)`.

    Args:
        widths: units of each hidden layer.
        num_classes: number of classes.
        activation: the activation function of the hidden units.
    """

    widths: Sequence[int] = eqx.field(converter=tuple)
    num_classes: int
    activation: Activation = jnp.tanh

    def __call__(
        self, x: Float[Array, "example feature"], y: Int[Array, " example"] | None = None
    ) -> None:
        """Sample the parameters, and the observations given them."""
        layers = _layers((x.shape[-1], *self.widths, self.num_classes))
        with numpyro.plate("data", len(x)) as i:
            logits = _perceptron(layers, x[i], self.activation)
            numpyro.sample("y", dist.Categorical(logits=logits), obs=None if y is None else y[i])


class regressor(Module):
    """A multilayer perceptron with Gaussian observations of known noise; see `classifier`.

    Args:
        widths: units of each hidden layer.
        activation: the activation function of the hidden units.
        noise: standard deviation of the observations.
    """

    widths: Sequence[int] = eqx.field(converter=tuple)
    activation: Activation = jax.nn.gelu
    noise: float = 1.0

    def __call__(
        self, x: Float[Array, "example feature"], y: Float[Array, " example"] | None = None
    ) -> None:
        """Sample the parameters, and the observations given them."""
        layers = _layers((x.shape[-1], *self.widths, 1))
        with numpyro.plate("data", len(x)) as i:
            means = _perceptron(layers, x[i], self.activation).squeeze(-1)
            numpyro.sample("y", dist.Normal(means, self.noise), obs=None if y is None else y[i])


def linear_regression(
    x: Float[Array, "example feature"],
    y: Float[Array, " example"] | None = None,
    noise: float = 1.0,
    prior: float = 1.0,
) -> None:
    """Run Bayesian linear regression with known noise, whose posterior has a closed form."""
    num_features = x.shape[-1]
    slopes = numpyro.sample("slopes", dist.Normal(0.0, prior).expand([num_features]).to_event(1))
    with numpyro.plate("data", len(x)) as i:
        numpyro.sample("y", dist.Normal(x[i] @ slopes, noise), obs=None if y is None else y[i])


def _layers(widths: Sequence[int]) -> list[tuple[Array, Array]]:
    return [
        (
            jnp.asarray(numpyro.param(f"weight{k}", partial(_lecun_normal, shape=shape))),
            jnp.asarray(numpyro.param(f"bias{k}", jnp.zeros(shape[0]))),
        )
        for k, shape in enumerate(zip(widths[1:], widths[:-1], strict=True))
    ]


def _lecun_normal(key: Array, shape: tuple[int, int]) -> Float[Array, "fan_out fan_in"]:
    return jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0)(key, shape)


def _perceptron(
    layers: list[tuple[Array, Array]], x: Float[Array, "batch feature"], activation: Activation
) -> Float[Array, "batch output"]:
    for weight, bias in layers[:-1]:
        x = activation(x @ weight.T + bias)
    weight, bias = layers[-1]
    return x @ weight.T + bias
