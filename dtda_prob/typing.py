"""Types that all packages share: keys, weights, outcomes and the three protocols."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from jaxtyping import Array, Float, Int, Key, PyTree

Params = PyTree
"""Parameters of a program in unconstrained space: a dict from site name to array or pytree."""

Weights = Float[Array, " example"]
"""One non-negative weight per example: 1 unchanged, 0 removed, 2 doubled."""

PRNGKey = Key[Array, ""]
"""One typed key, from `jax.random.key`."""


class Outcome(NamedTuple):
    """The result of one run of training; every leaf has a leading axis `state`.

    Most kernels keep the end of a run alone, its only state; see `kernels.keep`.

    Attributes:
        params: parameters in unconstrained space.
        outputs: the quantities of the measure that a push-forward carries (logits, means, ...).
        value: the readout of the measure from the outputs, `(state, query, [output])`.
        losses: the loss of each step; of several states, of the steps since the previous one.
        stats: statistics of the algorithm (energy, acceptance, convergence), by name.
    """

    params: Params
    outputs: PyTree
    value: Float[Array, "state query *output"]
    losses: Float[Array, "state step"]
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
    """Return d value / d weights at `weights`: shape `(state, query, *output, example)`.

    With `queries`, compute these rows only: `pull(key, weights, queries)` equals
    `pull(key, weights)` at these positions of the query axis. Blocks of equal size share a compilation.
    The work that all rows share (training, the curvature, the values of all queries) is repeated for
    each block. Positions are not checked, since they may be traced.
    """

    def __call__(
        self, key: PRNGKey, weights: Weights, queries: Queries | None = None
    ) -> Float[Array, "state query *output example"]: ...


Objective = Callable[[Params], Float[Array, ""]]
"""A scalar function of the parameters alone."""


def check_kind(name: str, value: Any, kind: Any, wanted: str) -> None:
    """Raise TypeError unless a value is of a kind.

    Args:
        name: what the argument is called.
        value: what was passed.
        kind: a class, or a union of classes.
        wanted: what to pass, with the call that makes one.
    """
    if not isinstance(value, kind):
        is_class = isinstance(value, type)
        given = value if is_class else type(value)
        module = "" if given.__module__ == "builtins" else f"{given.__module__}."
        what, end = ("the class", " itself") if is_class else ("a value of type", "")
        raise TypeError(f"{name} must be {wanted}; got {what} {module}{given.__qualname__}{end}")


def check_key(key: PRNGKey) -> None:
    """Raise unless `key` is one typed threefry key.

    Draws are mapped over keys, and only threefry keeps their streams independent under `vmap`.

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
