"""Curvatures that need only products with vectors."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import matfree.decomp
import matfree.eig
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dtda_prob.curvature.curvature import Curvature, Eigen, Spectrum
from dtda_prob.curvature.filters import Damped, Damping, Filter, Scalar, as_damping
from dtda_prob.curvature.matrices import MatrixLike
from dtda_prob.curvature.moving import EVERYTHING, Moving
from dtda_prob.curvature.quadratic import Quadratic, num_params, params_of
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey

Product = Callable[[Params], Params]
PROBES = 16
"""Number of random sign vectors that estimate a mean eigenvalue."""
POWER_STEPS = 20
"""Number of products that estimate a largest eigenvalue."""


class Iterative(Curvature):
    """A curvature that solves damped systems by products, and applies no other filter."""

    damping: Damping = eqx.field(converter=as_damping, kw_only=True)
    rtol: Scalar | None = eqx.field(default=None, init=False, repr=False)

    factored = False

    @property
    def inverse_only(self) -> bool:
        return True


class Preconditioned(Iterative):
    """A curvature that solves damped systems by products and the inverse of a simpler curvature."""

    preconditioner: Curvature | None = eqx.field(default=None, kw_only=True)

    def check(self, program: Program, moving: Moving = EVERYTHING) -> None:
        super().check(program, moving)
        if self.preconditioner is not None:
            self.preconditioner.check(program, moving)

    def near(self, h: Quadratic) -> Spectrum | None:
        """Return the spectrum of the simpler curvature, if there is one."""
        if self.preconditioner is None:
            return None
        return self.preconditioner.decompose(h.of(self.preconditioner.matrix))

    def passes(self, program: Program, num_solves: int) -> float:
        return self.preconditioner.passes(program, 0) if self.preconditioner else 0.0


class conjugate_gradient(Preconditioned):
    """Solve (H + damping I) x = v by conjugate gradients; H is never formed.

    The damped matrix must be positive definite. A solution whose residual stays above ten times the
    tolerance is returned as NaN, so that it cannot be mistaken for a solution.

    Attributes:
        matrix: any; see `curvature.matrices`.
        damping: see `Curvature`; above 0.
        preconditioner: any other curvature; its inverse, equally damped, preconditions the solve.
        tolerance: norm of the residual relative to the norm of v.
        max_steps: largest number of products with H per solve.
    """

    matrix: MatrixLike | None = "hessian"
    tolerance: float = eqx.field(default=1e-4, kw_only=True)
    max_steps: int = eqx.field(default=200, kw_only=True)

    def decompose(self, h: Quadratic) -> Spectrum:
        return Solves(h, self.near(h), self.tolerance, self.max_steps)

    def passes(self, program: Program, num_solves: int) -> float:
        return super().passes(program, num_solves) + 2.0 * self.max_steps * num_solves


class neumann(Iterative):
    """Sum the Neumann series of (H + damping I)^-1, as LiSSA does (Agarwal et al., arXiv 1602.03943).

    Each step is x <- x + a (v - (H + damping I) x), with a one over the largest eigenvalue, found by
    power iteration. The series converges for positive matrices; stopped after few steps it damps
    further, as gradient descent of that many steps would. A series that diverges is returned as NaN.

    Attributes:
        matrix: any; see `curvature.matrices`.
        damping: see `Curvature`; above 0.
        num_steps: products with H per solve.
    """

    num_steps: int = eqx.field(default=1000, kw_only=True)

    def decompose(self, h: Quadratic) -> Spectrum:
        return Series(h, largest_eigenvalue(h, h.product), self.num_steps)

    def passes(self, program: Program, num_solves: int) -> float:
        return 2.0 * self.num_steps * num_solves


class lanczos(Curvature):
    """Keep the Ritz pairs of a Krylov space (matfree's Lanczos, reorthogonalised).

    For a symmetric matrix it equals Arnoldi's iteration (Schioppa et al., arXiv 2112.03052). Costs
    `rank` products; memory `rank` times P. The prior's Hessian must be a multiple of the identity.

    Attributes:
        matrix: any; see `curvature.matrices`.
        rank: dimension of the space, at most the number of parameters.
        damping: see `Curvature`.
        rtol: relative cutoff of the pseudo-inverse.
    """

    rank: int = eqx.field(kw_only=True)

    prior = "isotropic"
    factored = False

    def check(self, program: Program, moving: Moving = EVERYTHING) -> None:
        super().check(program, moving)
        size = num_params(params_of(program, moving))
        if not 1 <= self.rank <= size:
            raise ValueError(
                f"rank={self.rank} must lie between 1 and the {size} parameters of the program"
            )

    def decompose(self, h: Quadratic) -> Spectrum:
        start, unravel = ravel_pytree(optax.tree.random_like(h.key, h.point, jax.random.normal))

        def product(x: Array) -> Array:
            return ravel_pytree(h.data_product(unravel(x)))[0]

        eigh = matfree.eig.eigh_partial(matfree.decomp.tridiag_sym(self.rank))
        values, vectors = eigh(product, start / jnp.linalg.norm(start))
        shift = h.prior_scale()
        return Eigen(values + shift, vectors.T, shift)

    def passes(self, program: Program, num_solves: int) -> float:
        return 2.0 * self.rank


class Products(Spectrum):
    """H, represented by its products with vectors."""

    h: Quadratic

    @property
    def mean(self) -> Float[Array, ""]:
        """Estimate the trace by Hutchinson's random signs, over the number of parameters."""

        def quadratic(key: PRNGKey) -> Float[Array, ""]:
            signs = optax.tree.random_like(key, self.h.point, jax.random.rademacher)
            return jnp.asarray(optax.tree.vdot(signs, self.h.product(signs)))

        keys = jax.random.split(self.h.key, PROBES)
        return jax.lax.map(quadratic, keys).mean() / self.h.num_params

    def damped(self, function: Filter, vector: Params) -> Params:
        """Return (H + damping I) v."""
        assert isinstance(function, Damped)
        return optax.tree.add_scale(self.h.product(vector), function.damping, vector)


class Solves(Products):
    """Damped inverses by conjugate gradients."""

    near: Spectrum | None
    tolerance: Scalar
    max_steps: int

    def apply(self, function: Filter, vector: Params) -> Params:
        prepare = None if self.near is None else partial(self.near.apply, function)

        def solve(product: Product, vector: Params) -> Params:
            solution, _ = jax.scipy.sparse.linalg.cg(
                product, vector, tol=self.tolerance, maxiter=self.max_steps, M=prepare
            )
            return _unless_off(solution, product, vector, 10 * self.tolerance)

        product = partial(self.damped, function)
        return jax.lax.custom_linear_solve(product, vector, solve, symmetric=True)


class Series(Products):
    """Damped inverses by a truncated Neumann series."""

    largest: Float[Array, ""]
    num_steps: int

    def apply(self, function: Filter, vector: Params) -> Params:
        assert isinstance(function, Damped)
        step = 1 / (1.1 * self.largest + function.damping)

        def solve(product: Product, vector: Params) -> Params:
            def body(_: int, solution: Params) -> Params:
                residual = optax.tree.sub(vector, product(solution))
                return optax.tree.add_scale(solution, step, residual)

            start = optax.tree.zeros_like(vector)
            solution = jax.lax.fori_loop(0, self.num_steps, body, start)
            return _unless_off(solution, product, vector, 1.0)

        product = partial(self.damped, function)
        return jax.lax.custom_linear_solve(product, vector, solve, symmetric=True)


def _unless_off(solution: Params, product: Product, vector: Params, tolerance: Scalar) -> Params:
    """Return NaN where the residual is above the tolerance, relative to the vector."""
    residual = optax.tree.norm(optax.tree.sub(product(solution), vector))
    solved = residual <= tolerance * optax.tree.norm(vector)
    return jax.tree.map(lambda x: jnp.where(solved, x, jnp.nan), solution)


def largest_eigenvalue(h: Quadratic, product: Product) -> Float[Array, ""]:
    """Estimate the largest eigenvalue of a matrix, given by its products with vectors of H."""

    def body(_: int, vector: Params) -> Params:
        moved = product(vector)
        return optax.tree.scale(1 / optax.tree.norm(moved), moved)

    start = optax.tree.random_like(h.key, h.point, jax.random.normal)
    last = jax.lax.fori_loop(0, POWER_STEPS, body, start)
    return jnp.asarray(optax.tree.norm(product(last)))
