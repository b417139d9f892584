"""Curvatures as explicit matrices: P x P for small models, or the Gram matrix of the rows."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from dtda_prob.blocks import map_blocks
from dtda_prob.curvature.curvature import Curvature, Eigen, Spectrum
from dtda_prob.curvature.filters import Damped, Damping, Filter, Scalar, as_damping, check_damping
from dtda_prob.curvature.matrices import MatrixLike, num_features, resolve
from dtda_prob.curvature.moving import EVERYTHING, Moving
from dtda_prob.curvature.quadratic import Quadratic, Square, columns, flat, num_params, params_of
from dtda_prob.program import Program
from dtda_prob.typing import Params

Factorization = Literal["eigen", "cholesky"]
MOST_PARAMETERS = 2**16
"""Parameters whose matrix of 17 GB, in single precision, can still be meant."""


class Factorized(Curvature):
    """A curvature that factorises one matrix, by eigenvalues or, if it is damped, by Cholesky."""

    factorization: Factorization = eqx.field(default="eigen", kw_only=True)

    @property
    def inverse_only(self) -> bool:
        return self.factorization == "cholesky"

    def __check_init__(self) -> None:
        if self.factorization not in ("eigen", "cholesky"):
            raise ValueError(f"factorization={self.factorization!r} must be 'eigen' or 'cholesky'")
        if self.inverse_only:
            check_damping(self.damping, "factorization='cholesky'")


class dense(Factorized):
    """Form the P x P matrix and factorise it: exact, for small models.

    Costs N C P^2 operations to form (P passes over the data for the Hessian) and P^3 to factorise;
    memory P^2.

    Attributes:
        matrix: any; see `curvature.matrices`.
        damping: see `Curvature`.
        rtol: relative cutoff of the pseudo-inverse.
        factorization: "eigen" (any damping, indefinite matrices too), or "cholesky", about twenty
            times faster, for positive definite matrices: a damped Gauss-Newton or Fisher.

    Raises:
        ValueError: for more than MOST_PARAMETERS parameters, once it is used.
    """

    matrix: MatrixLike | None = "hessian"
    damping: Damping = eqx.field(default=0, converter=as_damping, kw_only=True)

    factored = False

    def check(self, program: Program, moving: Moving = EVERYTHING) -> None:
        super().check(program, moving)
        size = num_params(params_of(program, moving))
        if size > MOST_PARAMETERS:
            raise ValueError(
                f"{self} forms a matrix with a row and a column for each of {size} parameters, "
                f"{4 * size**2 / 1e9:.0f} GB; pass curvature.chebyshev() or curvature.kronecker(), or "
                "use unroll"
            )

    def decompose(self, h: Quadratic) -> Spectrum:
        whole = _whole(h)
        return Eigen(*jnp.linalg.eigh(whole)) if self.factorization == "eigen" else Cholesky(whole)

    def passes(self, program: Program, num_solves: int) -> float:
        size = num_params(params_of(program))
        if not resolve(self.matrix).factored:
            return 2.0 * size
        return float(num_features(self.matrix, program) + size / 2)


class gram(Factorized):
    """Invert H = B'B + d I through K = B B', which has a row per example and feature; never P x P.

    f(H) = f(d) I + B' g(K) B with g(k) = (f(k + d) - f(d)) / k; exact, for wide models on small data.
    Costs (N C)^2 P operations to form and (N C)^3 to factorise; memory (N C)^2, and P times a block of
    rows. The prior's Hessian must be a multiple of the identity.

    Attributes:
        matrix: any but the Hessian.
        damping: see `Curvature`.
        rtol: relative cutoff of the pseudo-inverse.
        factorization: "eigen", or "cholesky", about twenty times faster, if damped.
    """

    prior = "isotropic"

    def decompose(self, h: Quadratic) -> Spectrum:
        kernel, shift = _kernel(h), h.prior_scale()
        by_eigen = self.factorization == "eigen"
        return Dual(h, Eigen(*jnp.linalg.eigh(kernel)) if by_eigen else Cholesky(kernel), shift)

    def passes(self, program: Program, num_solves: int) -> float:
        return float(num_features(self.matrix, program) * (1 + program.num_data) + 2 * num_solves)


class Cholesky(Spectrum):
    """A matrix to which only damped inverses are applied, by Cholesky factorisation."""

    matrix: Square

    @property
    def mean(self) -> Float[Array, ""]:
        return jnp.trace(self.matrix) / len(self.matrix)

    def apply(self, function: Filter, vector: Params) -> Params:
        assert isinstance(function, Damped)
        flat_vector, unravel = ravel_pytree(vector)
        identity = jnp.eye(len(self.matrix), dtype=self.matrix.dtype)
        root = jnp.linalg.cholesky(self.matrix + function.damping * identity)
        return unravel(jax.scipy.linalg.cho_solve((root, True), flat_vector))


class Dual(Spectrum):
    """H = B'B + shift I, represented by the spectrum of its kernel B B'."""

    h: Quadratic
    kernel: Eigen | Cholesky
    shift: Scalar

    @property
    def mean(self) -> Float[Array, ""]:
        size = self.h.program.num_data * num_features(self.h.matrix, self.h.program)
        return self.kernel.mean * size / self.h.num_params + self.shift

    def apply(self, function: Filter, vector: Params) -> Params:
        coefficients, kernel = self.h.forward(vector), self.kernel
        if isinstance(kernel, Eigen):
            moved, rest = _by_eigen(kernel, self.shift, function, coefficients.ravel())
        else:
            moved, rest = _by_cholesky(kernel, self.shift, function, coefficients.ravel())
        back = self.h.backward(moved.reshape(coefficients.shape))
        return optax.tree.add_scale(back, rest, vector)


def _by_eigen(
    kernel: Eigen, shift: Scalar, function: Filter, coefficients: Array
) -> tuple[Array, Array]:
    """Return (g(K) c, f(d)); g is 0 where an eigenvalue is rounding error."""
    values, vectors = kernel.values, kernel.vectors
    kept = values > jnp.finfo(values.dtype).eps * values[-1]
    safe, largest = jnp.where(kept, values, 1.0), values[-1] + shift
    rest = function(shift, largest)
    excess = jnp.where(kept, (function(safe + shift, largest) - rest) / safe, 0.0)
    return vectors @ (excess * (vectors.T @ coefficients)), rest


def _by_cholesky(
    kernel: Cholesky, shift: Scalar, function: Filter, coefficients: Array
) -> tuple[Array, Array]:
    """Return (g(K) c, f(d)) where g(k) = -1 / (d (k + d)), with the damping in d."""
    assert isinstance(function, Damped)
    damped = Damped(function.damping + shift)
    rest = jnp.asarray(1 / damped.damping)
    return -rest * kernel.apply(damped, coefficients), rest


def _whole(h: Quadratic) -> Square:
    if not h.matrix.factored:
        return columns(h.product, h.point)
    squares = h.sum_rows(lambda rows: flat(rows).T @ flat(rows))
    return squares + columns(h.prior_product, h.point)


def _kernel(h: Quadratic) -> Square:
    """Form B B' one block of rows at a time: each row is multiplied by B, which is never formed."""

    def block(index: Int[Array, ""]) -> Float[Array, "feature example feature"]:
        rows = jax.tree.map(lambda leaf: leaf[0], h.rows(index[None]))
        return jax.vmap(h.forward)(rows)

    kernel = map_blocks(block, h.program.num_data, min(h.rows_at_once, 16))
    return kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
