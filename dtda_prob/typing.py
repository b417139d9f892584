"""The words every room shares: keys, weights, outcomes and the three protocols."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
from jaxtyping import Array, Float, Int, Key, PyTree

Params = PyTree
"""Parameters of a program in unconstrained space: a dict from site name to array or pytree."""

Weights = Float[Array, " example"]
"""One non-negative weight per example: 1 as is, 0 removed, 2 doubled."""

PRNGKey = Key[Array, ""]
"""One typed key, from `jax.random.key`."""


class Outcome(NamedTuple):
    """What one run of training leaves behind.

    Where the kernel keeps several states of a run, each leaf has a leading axis `state`.

    Attributes:
        params: parameters in unconstrained space.
        outputs: the quantities of the measure that a push-forward carries (logits, means, ...).
        value: what the measure reads off the outputs, shape `(query,)` or `(query, output)`.
        losses: the loss of each step, shape `(step,)`.
        stats: what the algorithm says of the state (energy, acceptance, convergence), by name.
    """

    params: Params
    outputs: PyTree
    value: Float[Array, "..."]
    losses: Float[Array, "*state step"]
    stats: dict[str, Array]


class Draw(Protocol):
    """The stochastic kernel: one key and one weight per example give one outcome."""

    def __call__(self, key: PRNGKey, weights: Weights) -> Outcome: ...


class Push(Protocol):
    """Carry a sample of the outcome at `old` weights to approximate one at `new` weights."""

    def __call__(self, key: PRNGKey, old: Weights, new: Weights) -> Outcome: ...


Queries = Int[Array, " block"]
"""Positions along the query axis of a measure; any number of them, in any order."""


class Pull(Protocol):
    """Give d value / d weights at `weights`: shape `(*state, query, *output, example)`.

    Given `queries`, it is that of these alone: `pull(key, weights, queries)` is
    `pull(key, weights)[queries]`, with the queries that were asked for in place of all. Blocks of one
    size share a compilation. Only their rows are pulled back and kept; what the rows have in common
    (training, the curvature, the value of all queries) is done again for each block. Positions are
    not checked, since they may be traced.
    """

    def __call__(
        self, key: PRNGKey, weights: Weights, queries: Queries | None = None
    ) -> Float[Array, "... example"]: ...


Objective = Callable[[Params], Float[Array, ""]]
"""A scalar function of the parameters alone."""


def check_key(key: PRNGKey) -> None:
    """Refuse anything but one typed threefry key.

    Draws are mapped over keys, and only threefry gives each of them its own stream under `vmap`.

    Raises:
        TypeError: if `key` is not a typed key.
        ValueError: if `key` is an array of keys, or of another implementation.
    """
    if not jax.dtypes.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key):
        raise TypeError(f"key must be a typed key, got {type(key).__name__}; use jax.random.key(0)")
    if key.shape != ():
        raise ValueError(f"key must be one key, got an array of shape {key.shape}; pass one of them")
    if jax.random.key_impl(key) != jax.random.key_impl(jax.random.key(0, impl="threefry2x32")):
        raise ValueError(
            f"key must be a threefry key, got {jax.random.key_impl(key)}; "
            "use jax.random.key(0, impl='threefry2x32')"
        )
