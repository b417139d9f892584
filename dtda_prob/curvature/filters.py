"""Functions of eigenvalues that a curvature can apply, and how an inverse is damped."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from dtda_prob.compiling import is_tracer
from dtda_prob.module import Module

Scalar = float | Float[Array, ""]
Eigenvalues = Float[Array, "*eigenvalue"]
Filter = Callable[[Eigenvalues | Scalar, Scalar], Eigenvalues]
"""A function of eigenvalues and of the largest of them."""


class Damped(Module):
    """1 / (value + damping)."""

    damping: Scalar

    def __call__(self, values: Eigenvalues | Scalar, largest: Scalar) -> Eigenvalues:
        return jnp.asarray(1 / (values + self.damping))


class PseudoInverse(Module):
    """1 / value, and 0 for values whose size is at most `rtol` times the largest."""

    rtol: Scalar

    def __call__(self, values: Eigenvalues | Scalar, largest: Scalar) -> Eigenvalues:
        kept = jnp.abs(values) > self.rtol * largest
        return jnp.where(kept, 1 / jnp.where(kept, values, 1.0), 0.0)


class NullSpace(Module):
    """1 where `PseudoInverse` is 0, and 0 elsewhere."""

    rtol: Scalar

    def __call__(self, values: Eigenvalues | Scalar, largest: Scalar) -> Eigenvalues:
        return jnp.where(jnp.abs(values) > self.rtol * largest, 0.0, 1.0)


class Flow(Module):
    """(1 - exp(-value time)) / value: the response of gradient flow over that time, from rest."""

    time: Scalar

    def __call__(self, values: Eigenvalues | Scalar, largest: Scalar) -> Eigenvalues:
        small = jnp.abs(values * self.time) < 1e-4
        safe = jnp.where(small, 1.0, values)
        return jnp.where(
            small, self.time * (1 - values * self.time / 2), -jnp.expm1(-safe * self.time) / safe
        )


class Decay(Module):
    """exp(-value time): the share of a displacement that gradient flow leaves after that time."""

    time: Scalar

    def __call__(self, values: Eigenvalues | Scalar, largest: Scalar) -> Eigenvalues:
        return jnp.exp(-values * self.time)


class Multiple(Module):
    """Damping by a multiple of something that is known later.

    Attributes:
        factor: the multiple, positive and finite; a ValueError otherwise.
    """

    factor: Scalar

    def __check_init__(self) -> None:
        if not (is_tracer(self.factor) or 0 < self.factor < float("inf")):
            raise ValueError(f"factor={self.factor} must be finite and above 0")


class relative(Multiple):
    """Damping by a multiple of the curvature's mean eigenvalue."""


class auto(Multiple):
    """Damping by a multiple of what damping="auto" means."""


Damping = Scalar | Literal["auto"] | auto | relative


def as_damping(damping: Damping) -> Damping:
    """Return the integer 0 where there is no damping, and a float where there is some.

    In compiled code floats are traced and integers are static: the code depends on whether the
    pseudo-inverse is used, and one compilation serves all positive values.
    """
    if isinstance(damping, int | float):
        return 0 if damping == 0 else float(damping)
    return damping


def check_damping(damping: Damping, method: str | None = None) -> None:
    """Check a damping; if a `method` is named, it needs a positive one.

    Raises:
        ValueError: if `damping` is negative or not finite, or 0 where a method is named.
    """
    if isinstance(damping, Multiple) or is_tracer(damping):
        return
    if isinstance(damping, str) and damping == "auto":
        return
    if isinstance(damping, str) or not 0 <= damping < float("inf"):
        raise ValueError(
            f"damping={damping} must be finite and at least 0, 'auto', curvature.auto(factor) or "
            "curvature.relative(factor)"
        )
    if damping == 0 and method is not None:
        raise ValueError(
            f"damping=0: {method} cannot invert a singular curvature; pass a positive damping, or use "
            "the pseudo-inverse of dense, gram or lanczos"
        )
