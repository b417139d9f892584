"""Curvatures through their products with vectors alone."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import matfree.decomp
import matfree.eig
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dtda_prob.curvature.curvature import Curvature, Decompose, Spectrum, num_params
from dtda_prob.curvature.factor import bind_factor
from dtda_prob.curvature.filters import Damped, Damping, Filter, Scalar, check_damping, describe
from dtda_prob.curvature.low_rank import low_rank
from dtda_prob.curvature.matrices import (
    Matrix,
    MatrixLike,
    check_prior,
    objective_product,
    prior_product,
    prior_scale,
    resolve,
)
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

Product = Callable[[Params], Params]
PROBES = 16
"""Random signs by which a mean eigenvalue is estimated."""
POWER_STEPS = 20
"""Products by which a largest eigenvalue is estimated."""


def conjugate_gradient(
    matrix: MatrixLike = "hessian",
    *,
    damping: Damping,
    preconditioner: Curvature | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 200,
) -> Curvature:
    """Solve (H + damping I) x = v by conjugate gradients, never forming H.

    The damped matrix must be positive definite. A solution whose residual stays above ten times the
    tolerance is returned as NaN, so that it cannot pass for one.

    Args:
        matrix: which one, see `curvature.matrices`.
        damping: see `Curvature`; above 0.
        preconditioner: any other curvature; its inverse, with this damping, stands in for H's.
        tolerance: norm of the residual relative to that of v.
        max_steps: products with H at most, per solve.

    Raises:
        ValueError: if `damping` is not positive.
    """
    check_damping(damping, "conjugate_gradient")
    chosen = resolve(matrix)

    def bind(program: Program) -> Decompose:
        multiply = bind_product(chosen, program)
        near = None if preconditioner is None else preconditioner.bind(program)

        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            product = multiply(key, params, weights)
            approximation = None if near is None else near(key, params, weights)

            def apply(function: Filter, vector: Params) -> Params:
                assert isinstance(function, Damped)
                prepare = approximation and partial(approximation.apply, function)
                damped = _damp(product, function.damping)
                return _solve(damped, vector, prepare, tolerance, max_steps)

            return Spectrum(apply, _mean_eigenvalue(product, params, key))

        return decompose

    def passes(program: Program, num_solves: int) -> float:
        first = preconditioner.passes(program, 0) if preconditioner else 0.0
        return first + 2.0 * max_steps * num_solves

    near_name = f", preconditioner={preconditioner.name}" if preconditioner else ""
    name = f"conjugate_gradient({chosen.name}, damping={describe(damping)}{near_name})"
    return Curvature(name, chosen, damping, bind, passes, inverse_only=True)


def neumann(
    matrix: MatrixLike = "gauss_newton",
    *,
    damping: Damping,
    num_steps: int = 1000,
) -> Curvature:
    """Sum the Neumann series of (H + damping I)^-1, as LiSSA does (Agarwal et al., arXiv 1602.03943).

    Each step is x <- x + a (v - (H + damping I) x), with a one over the largest eigenvalue, found by
    power iteration. The series converges for positive matrices; stopped after few steps it damps
    further, as gradient descent of that many steps would. A series that diverges is returned as NaN.

    Args:
        matrix: which one, see `curvature.matrices`.
        damping: see `Curvature`; above 0.
        num_steps: products with H per solve.

    Raises:
        ValueError: if `damping` is not positive.
    """
    check_damping(damping, "neumann")
    chosen = resolve(matrix)

    def bind(program: Program) -> Decompose:
        multiply = bind_product(chosen, program)

        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            product = multiply(key, params, weights)
            largest = jax.lax.stop_gradient(_largest_eigenvalue(product, params, key))

            def apply(function: Filter, vector: Params) -> Params:
                assert isinstance(function, Damped)
                step = 1 / (1.1 * largest + function.damping)
                return _series(_damp(product, function.damping), vector, step, num_steps)

            return Spectrum(apply, _mean_eigenvalue(product, params, key))

        return decompose

    name = f"neumann({chosen.name}, damping={describe(damping)}, num_steps={num_steps})"
    return Curvature(
        name,
        chosen,
        damping,
        bind,
        lambda program, num_solves: 2.0 * num_steps * num_solves,
        inverse_only=True,
    )


def lanczos(
    matrix: MatrixLike = "gauss_newton",
    *,
    rank: int,
    damping: Damping = "auto",
    rtol: float | None = None,
) -> Curvature:
    """Keep the Ritz pairs of a Krylov space of `rank` products (matfree's Lanczos, reorthogonalised).

    For a symmetric matrix it is what Arnoldi's iteration gives (Schioppa et al., arXiv 2112.03052).
    Memory `rank` times P.

    Args:
        matrix: which one, see `curvature.matrices`.
        rank: dimension of the space, no more than parameters.
        damping: see `Curvature`; 0 takes the pseudo-inverse.
        rtol: relative cutoff of the pseudo-inverse.

    Raises:
        ValueError: for bad damping; when bound, if the prior's Hessian is no multiple of the identity
            or `rank` exceeds the parameters.
    """
    check_damping(damping)
    chosen = resolve(matrix)

    def bind(program: Program) -> Decompose:
        multiply = bind_product(chosen, program, prior=False)
        check_prior(program, "lanczos", isotropic=True)
        _check_rank(program, rank)
        decompose_flat = matfree.eig.eigh_partial(matfree.decomp.tridiag_sym(rank))

        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            product = multiply(key, params, weights)
            start, unravel = ravel_pytree(optax.tree.random_like(key, params, jax.random.normal))

            def flat_product(x: Array) -> Array:
                return ravel_pytree(product(unravel(x)))[0]

            pairs = decompose_flat(flat_product, start / jnp.linalg.norm(start))
            return low_rank(*jax.lax.stop_gradient(pairs), prior_scale(program, params), params)

        return decompose

    name = f"lanczos({chosen.name}, rank={rank}, damping={describe(damping)})"
    return Curvature(name, chosen, damping, bind, lambda program, num_solves: 2.0 * rank, rtol)


def bind_product(
    matrix: Matrix, program: Program, *, prior: bool = True
) -> Callable[[PRNGKey, Params, Weights], Product]:
    """Give `(key, params, weights) -> product with H`, with the prior's Hessian or without."""
    build = None if matrix.root is None else bind_factor(matrix, program)

    def make(key: PRNGKey, params: Params, weights: Weights) -> Product:
        of_prior = prior_product(program, params)
        if build is None:
            whole = objective_product(program, params, weights)
            return whole if prior else lambda v: optax.tree.sub(whole(v), of_prior(v))
        factor = build(key, params, weights)

        def squares(vector: Params) -> Params:
            return factor.backward(factor.forward(vector))

        return (lambda v: optax.tree.add(squares(v), of_prior(v))) if prior else squares

    return make


def _damp(product: Product, damping: Scalar) -> Product:
    return lambda vector: optax.tree.add_scale(product(vector), damping, vector)


def _solve(
    product: Product, vector: Params, near: Product | None, tolerance: float, max_steps: int
) -> Params:
    def checked(product: Product, vector: Params) -> Params:
        found, _ = jax.scipy.sparse.linalg.cg(product, vector, tol=tolerance, maxiter=max_steps, M=near)
        return _unless_off(found, product, vector, 10 * tolerance)

    return jax.lax.custom_linear_solve(product, vector, checked, symmetric=True)


def _series(product: Product, vector: Params, step: Scalar, num_steps: int) -> Params:
    def solve(product: Product, vector: Params) -> Params:
        def body(_: int, found: Params) -> Params:
            residual = optax.tree.sub(vector, product(found))
            return optax.tree.add_scale(found, step, residual)

        found = jax.lax.fori_loop(0, num_steps, body, optax.tree.zeros_like(vector))
        return _unless_off(found, product, vector, 1.0)

    return jax.lax.custom_linear_solve(product, vector, solve, symmetric=True)


def _unless_off(found: Params, product: Product, vector: Params, tolerance: float) -> Params:
    """Give NaN where the residual is above the tolerance, relative to the vector."""
    residual = optax.tree.norm(optax.tree.sub(product(found), vector))
    solved = residual <= tolerance * optax.tree.norm(vector)
    return jax.tree.map(lambda x: jnp.where(solved, x, jnp.nan), found)


def _mean_eigenvalue(product: Product, params: Params, key: PRNGKey) -> Float[Array, ""]:
    """Estimate the trace by Hutchinson's random signs, over the number of parameters."""

    def quadratic(key: PRNGKey) -> Float[Array, ""]:
        signs = optax.tree.random_like(key, params, jax.random.rademacher)
        return jnp.asarray(optax.tree.vdot(signs, product(signs)))

    return jax.lax.map(quadratic, jax.random.split(key, PROBES)).mean() / num_params(params)


def _largest_eigenvalue(product: Product, params: Params, key: PRNGKey) -> Float[Array, ""]:
    def body(_: int, vector: Params) -> Params:
        moved = product(vector)
        return optax.tree.scale(1 / optax.tree.norm(moved), moved)

    start = optax.tree.random_like(key, params, jax.random.normal)
    vector = jax.lax.fori_loop(0, POWER_STEPS, body, start)
    return optax.tree.norm(product(vector))


def _check_rank(program: Program, rank: int) -> None:
    size = num_params(jax.eval_shape(program.init, jax.random.key(0)))
    if not 1 <= rank <= size:
        raise ValueError(f"rank={rank} must lie between 1 and the {size} parameters of the program")
