"""Functions of eigenvalues: what is done to the spectrum of a curvature."""

from typing import Literal, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = float | Float[Array, ""]
Eigenvalues = Float[Array, "*eigenvalue"]


class Filter(Protocol):
    """A function of eigenvalues, which may depend on the largest of them."""

    def __call__(self, values: Eigenvalues | float, largest: Scalar) -> Eigenvalues: ...


class Damped(NamedTuple):
    """1 / (value + damping)."""

    damping: Scalar

    def __call__(self, values: Eigenvalues | float, largest: Scalar) -> Eigenvalues:
        return jnp.asarray(1 / (values + self.damping))


class PseudoInverse(NamedTuple):
    """1 / value, and 0 for values not above `rtol` times the largest."""

    rtol: float

    def __call__(self, values: Eigenvalues | float, largest: Scalar) -> Eigenvalues:
        kept = jnp.abs(values) > self.rtol * largest
        return jnp.where(kept, 1 / jnp.where(kept, values, 1.0), 0.0)


class NullSpace(NamedTuple):
    """1 for values that are not above `rtol` times the largest, where `PseudoInverse` is 0; else 0."""

    rtol: float

    def __call__(self, values: Eigenvalues | float, largest: Scalar) -> Eigenvalues:
        return jnp.where(jnp.abs(values) > self.rtol * largest, 0.0, 1.0)


class Flow(NamedTuple):
    """(1 - exp(-value time)) / value: the response of gradient flow over that time, from rest."""

    time: Scalar

    def __call__(self, values: Eigenvalues | float, largest: Scalar) -> Eigenvalues:
        small = jnp.abs(values * self.time) < 1e-4
        safe = jnp.where(small, 1.0, values)
        return jnp.where(
            small, self.time * (1 - values * self.time / 2), -jnp.expm1(-safe * self.time) / safe
        )


class Decay(NamedTuple):
    """exp(-value time): what gradient flow over that time leaves of a displacement."""

    time: Scalar

    def __call__(self, values: Eigenvalues | float, largest: Scalar) -> Eigenvalues:
        return jnp.exp(-values * self.time)


class Relative(NamedTuple):
    """Damping as a multiple of the mean eigenvalue."""

    factor: float


Damping = float | Literal["auto"] | Relative


def relative(factor: float) -> Relative:
    """Damp by a multiple of the curvature's mean eigenvalue.

    Raises:
        ValueError: if `factor` is not positive and finite.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"factor={factor} must be finite and above 0")
    return Relative(factor)


def check_damping(damping: Damping, method: str | None = None) -> None:
    """Refuse negative damping, and none at all for a `method` that cannot do without.

    Raises:
        ValueError: if `damping` is negative or not finite, or 0 where a method needs some.
    """
    if isinstance(damping, Relative) or damping == "auto":
        return
    if isinstance(damping, str) or not 0 <= damping < float("inf"):
        raise ValueError(
            f"damping={damping} must be finite and at least 0, 'auto' or curvature.relative(factor)"
        )
    if damping == 0 and method is not None:
        raise ValueError(
            f"damping=0: {method} cannot invert a singular curvature; damp it, or take the "
            "pseudo-inverse of dense, gram or lanczos"
        )


def describe(damping: Damping) -> str:
    """Write damping as it was given."""
    if isinstance(damping, Relative):
        return f"relative({damping.factor:g})"
    return damping if isinstance(damping, str) else f"{damping:g}"
