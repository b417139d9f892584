"""The interface of a curvature: a symmetric matrix H on parameter space, decomposed and inverted."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dtda_prob.compiling import is_tracer
from dtda_prob.curvature.filters import (
    Damped,
    Damping,
    Filter,
    PseudoInverse,
    Scalar,
    as_damping,
    auto,
    check_damping,
    relative,
)
from dtda_prob.curvature.matrices import MatrixLike, check_features, resolve
from dtda_prob.curvature.moving import EVERYTHING, Moving
from dtda_prob.curvature.quadratic import Quadratic, check_prior, num_params
from dtda_prob.module import Module
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

Time = Callable[[], Scalar | None]
"""The total step size of training, None where it is not one number for all parameters."""


class Spectrum(Module):
    """A decomposed H, which applies functions of its eigenvalues to vectors."""

    @property
    @abstractmethod
    def mean(self) -> Float[Array, ""]:
        """Return the mean eigenvalue of H, or an estimate."""

    @abstractmethod
    def apply(self, function: Filter, vector: Params) -> Params:
        """Return f(H) v, linear in v and differentiable with respect to it in both modes."""

    def carry(self, function: Filter, displacement: Params) -> Params:
        """Return f(H) times a displacement of the parameters; `apply` takes a gradient."""
        return self.apply(function, displacement)


class Curvature(Module):
    """A matrix H on parameter space, the method that decomposes it, and how its inverse is damped.

    Attributes:
        matrix: "hessian", "gauss_newton", "fisher", "empirical_fisher", or one of these with settings,
            such as `curvature.fisher(num_labels=4)`.
        damping: a number (0 takes the pseudo-inverse), `relative(factor)`, or "auto": one over the
            total step size of training, so that directions in which training has not converged do not
            count as converged. Where steps are not one multiple of the gradient (Adam, clipping, rates
            by parameter) it is one over the distance of each parameter, H + D^-1, in `influence`.
            `auto(factor)` is a multiple of it.
        rtol: relative cutoff of the pseudo-inverse; P times the machine epsilon if None.

    Raises:
        ValueError: for bad damping, an unknown matrix, or the Hessian where a method needs its square
            root.
    """

    matrix: MatrixLike | None = "gauss_newton"
    damping: Damping = eqx.field(default="auto", converter=as_damping, kw_only=True)
    rtol: Scalar | None = eqx.field(default=None, kw_only=True)

    prior: ClassVar[Literal["any", "diagonal", "isotropic"]] = "any"
    """Kinds of Hessian of the log prior that the method supports."""
    factored: ClassVar[bool] = True
    """Whether it needs a square root of H, which the Hessian does not have."""

    def __check_init__(self) -> None:
        check_damping(self.damping, type(self).__name__ if self.inverse_only else None)
        if self.matrix is not None:
            resolve(self.matrix, factored=self.factored)

    @property
    def inverse_only(self) -> bool:
        """Return whether it applies damped inverses and no other function of eigenvalues."""
        return False

    @abstractmethod
    def decompose(self, h: Quadratic) -> Spectrum:
        """Return the decomposed H; no derivative is taken through it."""

    @abstractmethod
    def passes(self, program: Program, num_solves: int) -> float:
        """Return the cost of a decomposition and so many solves, in gradients over all data."""

    def check(self, program: Program, moving: Moving = EVERYTHING) -> None:
        """Check that the method suits the program and the parameters that move.

        Raises:
            ValueError: if it does not support the matrix or the prior.
        """
        if self.matrix is None:
            return
        matrix = resolve(self.matrix)
        if matrix.factored:
            check_features(matrix, program)
        if self.prior != "any":
            isotropic = self.prior == "isotropic"
            check_prior(program, type(self).__name__, moving, isotropic=isotropic)

    @property
    def is_auto(self) -> bool:
        """Return whether the damping follows from the steps of training."""
        return isinstance(self.damping, auto) or (
            isinstance(self.damping, str) and self.damping == "auto"
        )

    @property
    def _factor(self) -> Scalar:
        return self.damping.factor if isinstance(self.damping, auto) else 1.0

    def settled(self, time: Time) -> "Curvature":
        """Return this curvature with a number in place of damping="auto"; see `check_time`.

        The number is 1 where there is no total step size: distances are the unit of each parameter.
        """
        if self.is_auto and time() is None:
            return replace(self, damping=self._factor)
        self.check_time(time)
        return replace(self, damping=self.damping_after(time)) if self.is_auto else self

    def check_time(self, time: Time) -> None:
        """Check that the method supports what damping="auto" means; raise ValueError otherwise."""
        if not isinstance(self.damping, relative):
            self._check_invertible(self.damping_after(time))

    def at(
        self,
        program: Program,
        key: PRNGKey,
        params: Params,
        weights: Weights,
        moving: Moving = EVERYTHING,
        scale: Params | None = None,
    ) -> Spectrum:
        """Return the spectrum at these parameters and weights; the key draws labels and sketches.

        With a scale S (see `Quadratic`) it is the spectrum of S H S, and still acts on parameters.
        """
        matrix = resolve("hessian" if self.matrix is None else self.matrix)
        spectrum = self.decompose(Quadratic(program, matrix, key, params, weights, moving, scale))
        return spectrum if scale is None else Scaled(spectrum, scale)

    def inverse(self, spectrum: Spectrum, params: Params, time: Time) -> Filter:
        """Return the filter that inverts H, damped or as a pseudo-inverse.

        Args:
            spectrum: of this curvature.
            params: the parameters that it acts on.
            time: returns the total step size of training, for damping="auto".

        Raises:
            ValueError: if damping="auto" means none, because training runs to convergence, and the
                method needs some.
        """
        if isinstance(self.damping, relative):
            return Damped(self.damping.factor * spectrum.mean)
        damping = self.damping_after(time)
        self._check_invertible(damping)
        return PseudoInverse(self.cutoff(params)) if isinstance(damping, int) else Damped(damping)

    def damping_after(self, time: Time) -> Scalar:
        """Return the damping as a number; the integer 0 where the pseudo-inverse is taken.

        Raises:
            ValueError: if it is relative to the mean eigenvalue, which is known only once H
                is decomposed, or "auto" where training takes no step.
        """
        if isinstance(self.damping, relative):
            raise ValueError(f"{self}: its damping is relative to the mean eigenvalue")
        if not isinstance(self.damping, str | auto):
            return self.damping
        with jax.ensure_compile_time_eval():
            total = time()
        if total is None:
            raise ValueError(
                f"{self}: damping='auto' is one over the total step size of training, and this kernel "
                "has one for each parameter; use influence, newton or segments, or pass a number"
            )
        if is_tracer(total):
            return self._factor / total
        if total == 0:
            raise ValueError(
                f"{self}: damping='auto' is one over the total step size of training, and the kernel "
                "takes no step; pass a number"
            )
        return 0 if total == float("inf") else self._factor / float(total)

    def _check_invertible(self, damping: Scalar) -> None:
        if isinstance(damping, int) and self.inverse_only:
            raise ValueError(
                f"{self}: the kernel runs to convergence, so damping='auto' would be 0, and this "
                "curvature needs some; pass a number"
            )

    def cutoff(self, params: Params) -> Scalar:
        """Return the share of the largest eigenvalue at or below which eigenvalues count as 0."""
        if self.rtol is not None:
            return self.rtol
        return num_params(params) * float(jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).eps)


class Eigen(Spectrum):
    """H = V diag(values) V' + shift (I - V V') with all or some of its eigenvectors V."""

    values: Float[Array, " eigenvalue"]
    vectors: Float[Array, "parameter eigenvalue"]
    shift: Scalar = 0.0

    @property
    def mean(self) -> Float[Array, ""]:
        others = len(self.vectors) - len(self.values)
        return (self.values.sum() + others * self.shift) / len(self.vectors)

    def apply(self, function: Filter, vector: Params) -> Params:
        flat, unravel = ravel_pytree(vector)
        largest = jnp.max(jnp.abs(self.values))
        if len(self.values) == len(self.vectors):
            return unravel(self.vectors @ (function(self.values, largest) * (self.vectors.T @ flat)))
        rest = function(self.shift, largest)
        excess = function(self.values, largest) - rest
        return unravel(rest * flat + self.vectors @ (excess * (self.vectors.T @ flat)))


class Scaled(Spectrum):
    """A spectrum of S H S, applied to parameters: gradients are scaled, displacements unscaled."""

    spectrum: Spectrum
    scale: Params

    @property
    def mean(self) -> Float[Array, ""]:
        return self.spectrum.mean

    def apply(self, function: Filter, vector: Params) -> Params:
        return self._times(self.spectrum.apply(function, self._times(vector)))

    def carry(self, function: Filter, displacement: Params) -> Params:
        return self._times(self.spectrum.apply(function, jax.tree.map(_over, displacement, self.scale)))

    def _times(self, vector: Params) -> Params:
        return jax.tree.map(jnp.multiply, vector, self.scale)


def _over(displacement: Array, scale: Array) -> Array:
    """Return the quotient, 0 where a parameter does not move at all."""
    return jnp.where(scale > 0, displacement / jnp.where(scale > 0, scale, 1.0), 0.0)


class Diagonal(Spectrum):
    """A diagonal H, with its entries in a tree like the parameters."""

    values: Params

    @property
    def mean(self) -> Float[Array, ""]:
        return ravel_pytree(self.values)[0].mean()

    def apply(self, function: Filter, vector: Params) -> Params:
        largest = jnp.max(ravel_pytree(self.values)[0])
        return jax.tree.map(lambda h, v: function(h, largest) * v, self.values, vector)
