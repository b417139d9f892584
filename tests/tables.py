"""The tables that laws run over: every kernel and every transform there is."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from cases.kernels import CASES

import dtda_prob as dtda
from dtda_prob.compiling import compiled
from dtda_prob.kernels import Kernel
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

NUM_DATA, NUM_FEATURES, NUM_QUERIES = 12, 3, 4
NOISE, PRIOR = 0.5, 2.0
KEY = jax.random.key(0)


def regression_data(num_data: int = NUM_DATA) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_data, NUM_FEATURES))
    return x, x @ [1.0, -2.0, 0.5] + NOISE * rng.normal(size=num_data)


def regression(num_data: int = NUM_DATA, **options) -> dtda.Program:
    x, y = regression_data(num_data)
    return dtda.Program(dtda.zoo.linear_regression, x, y=y, noise=NOISE, prior=PRIOR, **options)


def network(num_data: int = NUM_DATA) -> dtda.Program:
    return _network(num_data, jnp.result_type(float))


@cache
def _network(num_data: int, precision) -> dtda.Program:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(num_data, NUM_FEATURES)), rng.integers(0, 3, num_data)
    return dtda.Program(dtda.zoo.classifier([4], 3), x, y=y)


KERNELS = {name: case.kernel for name, case in CASES.items() if case.basic}

SOME = np.array([3, 0, 2])
"""Some of the queries, in an order of their own."""


def queries(**options):
    x, y = regression_data(NUM_QUERIES)
    return dtda.measures.loss(x + 0.1, y=y, noise=NOISE, prior=PRIOR, **options)


def train(kernel: str | Kernel, program: dtda.Program | None = None, measure=None) -> Training:
    """Bind a kernel; default trainings are made once for each precision that tests run in."""
    if isinstance(kernel, str) and program is None and measure is None:
        return _default_training(kernel, jnp.result_type(float))
    chosen = CASES[kernel].kernel if isinstance(kernel, str) else kernel
    return Training(program or _default_program(jnp.result_type(float)), chosen, measure or queries())


@cache
def _default_program(precision) -> dtda.Program:
    return regression()


@cache
def _default_training(kernel: str, precision) -> Training:
    return Training(_default_program(precision), CASES[kernel].kernel, queries())


def train_network() -> Training:
    """A non-convex training with a smooth measure."""
    return _network_training(jnp.result_type(float))


@cache
def _network_training(precision) -> Training:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(NUM_QUERIES, NUM_FEATURES)), rng.integers(0, 3, NUM_QUERIES)
    return Training(network(), KERNELS["sgd by epoch"], dtda.measures.loss(x, y=y))


def last(tree):
    """The last state of a run."""
    return jax.tree.map(lambda leaf: leaf[-1], tree)


_draw = compiled(lambda training, *args: last(training.draw(*args)))
_push = compiled(lambda push_forward, *args: last(push_forward.push(*args)))
_pull = compiled(lambda push_forward, *args: last(push_forward.pull(*args)))


def draw(training: Training, weights, key=KEY):
    """Draw once; trainings that differ in numbers alone share what is compiled, and so below.

    All return the last state of a run, which most kernels keep alone.
    """
    return _draw(training, key, weights)


def push(push_forward: PushForward, old, new, key=KEY):
    return _push(push_forward, key, old, new)


def pull(push_forward: PushForward, weights, queries=None, key=KEY):
    return _pull(push_forward, key, weights, queries)


def ones(num_data: int = NUM_DATA):
    return jnp.ones(num_data)


def direction(num_data: int = NUM_DATA):
    return jax.random.normal(jax.random.key(9), (num_data,))


def blown_up(training: Training, factor: float) -> PushForward:
    """A transform whose steps point the right way and are `factor` times too long."""
    return BlownUp(training, factor)


class BlownUp(PushForward):
    factor: float

    def push(self, key, old, new):
        base, there = self.training.draw(key, old), self.training.draw(key, new)
        return there._replace(value=base.value + self.factor * (there.value - base.value))

    def pull(self, key, weights, queries=None):
        return dtda.retrain(self.training).pull(key, weights, queries)

    @property
    def cost(self):
        return dtda.retrain(self.training).cost
