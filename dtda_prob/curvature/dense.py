"""Curvatures as whole matrices, for small models: exact, and the truth for all others."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dtda_prob.curvature.curvature import Curvature, Decompose, Spectrum, num_params, params_of
from dtda_prob.curvature.factor import bind_factor, flat, sum_rows
from dtda_prob.curvature.filters import (
    Damped,
    Damping,
    Filter,
    check_damping,
    describe,
)
from dtda_prob.curvature.matrices import (
    Matrix,
    MatrixLike,
    num_features,
    objective_product,
    prior_product,
    resolve,
)
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

Factorization = Literal["eigen", "cholesky"]
Square = Float[Array, "parameter parameter"]
COLUMNS = 64
"""Columns of a matrix that are made at once from its products."""


def dense(
    matrix: MatrixLike = "hessian",
    *,
    damping: Damping = 0.0,
    rtol: float | None = None,
    factorization: Factorization = "eigen",
) -> Curvature:
    """Form the P x P matrix and factorise it.

    Costs N C P^2 operations to form (P passes over the data for the Hessian) and P^3 to factorise;
    memory P^2.

    Args:
        matrix: which one, see `curvature.matrices`.
        damping: added to it; 0 takes the pseudo-inverse.
        rtol: relative cutoff of the pseudo-inverse; P times the machine epsilon if None.
        factorization: "eigen" (any damping, indefinite matrices too), or "cholesky", some twenty
            times faster, for positive definite matrices: a damped Gauss-Newton or Fisher.

    Raises:
        ValueError: for bad damping, an unknown matrix or factorization, or "cholesky" undamped.
    """
    check_damping(damping)
    chosen = resolve(matrix)
    check_factorization(factorization, damping)

    def bind(program: Program) -> Decompose:
        form = _bind_matrix(chosen, program)

        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            whole = jax.lax.stop_gradient(form(key, params, weights))
            unravel = ravel_pytree(params)[1]
            multiply = by_eigen(whole) if factorization == "eigen" else by_cholesky(whole)

            def apply(function: Filter, vector: Params) -> Params:
                return unravel(multiply(function, ravel_pytree(vector)[0]))

            return Spectrum(apply, jnp.trace(whole) / len(whole))

        return decompose

    def passes(program: Program, num_solves: int) -> float:
        if chosen.root is None:
            return 2.0 * num_params(params_of(program))
        return float(num_features(chosen, program) + num_params(params_of(program)) / 2)

    name = f"dense({chosen.name}, damping={describe(damping)})"
    return Curvature(name, chosen, damping, bind, passes, rtol, factorization == "cholesky")


def check_factorization(factorization: str, damping: Damping) -> None:
    """Refuse unknown factorizations, and an undamped Cholesky.

    Raises:
        ValueError: for either.
    """
    if factorization not in ("eigen", "cholesky"):
        raise ValueError(f"factorization={factorization!r} must be 'eigen' or 'cholesky'")
    if factorization == "cholesky":
        check_damping(damping, "factorization='cholesky'")


def by_eigen(matrix: Square):
    """Give `(filter, vector) -> f(matrix) vector` by its eigenvalues."""
    values, vectors = jnp.linalg.eigh(matrix)
    largest = jnp.max(jnp.abs(values))
    return lambda function, vector: vectors @ (function(values, largest) * (vectors.T @ vector))


def by_cholesky(matrix: Square):
    """Give `(filter, vector) -> f(matrix) vector` for damped inverses, which is all that it can do."""

    def multiply(function: Filter, vector: Array) -> Array:
        assert isinstance(function, Damped)
        root = jnp.linalg.cholesky(matrix + function.damping * jnp.eye(len(matrix), dtype=matrix.dtype))
        return jax.scipy.linalg.cho_solve((root, True), vector)

    return multiply


def _bind_matrix(matrix: Matrix, program: Program):
    if matrix.root is None:

        def form(key: PRNGKey, params: Params, weights: Weights) -> Square:
            return columns(objective_product(program, params, weights), params)

        return form
    build = bind_factor(matrix, program)

    def form_from_rows(key: PRNGKey, params: Params, weights: Weights) -> Square:
        def outer(rows: Params) -> Square:
            return flat(rows).T @ flat(rows)

        squares = sum_rows(outer, build(key, params, weights), program.num_data)
        return squares + columns(prior_product(program, params), params)

    return form_from_rows


def columns(product, params: Params) -> Square:
    """Make a matrix from its products with the columns of the identity."""
    theta, unravel = ravel_pytree(params)
    basis = jnp.eye(theta.size, dtype=theta.dtype)
    rows = jax.lax.map(lambda e: ravel_pytree(product(unravel(e)))[0], basis, batch_size=COLUMNS)
    return (rows + rows.T) / 2
