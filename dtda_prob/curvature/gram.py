"""The dual: a curvature through the Gram matrix of its rows, exact for wide models on small data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dtda_prob.blocks import map_blocks
from dtda_prob.curvature.curvature import Curvature, Decompose, Spectrum, num_params
from dtda_prob.curvature.dense import (
    Factorization,
    Square,
    by_cholesky,
    check_factorization,
)
from dtda_prob.curvature.factor import Factor, bind_factor, rows_at_once
from dtda_prob.curvature.filters import (
    Damped,
    Damping,
    Filter,
    Scalar,
    check_damping,
    describe,
)
from dtda_prob.curvature.matrices import MatrixLike, check_prior, num_features, prior_scale, resolve
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

Solve = Callable[[Filter, Array], tuple[Array, Array]]


def gram(
    matrix: MatrixLike = "gauss_newton",
    *,
    damping: Damping = "auto",
    rtol: float | None = None,
    factorization: Factorization = "eigen",
) -> Curvature:
    """Invert H = B'B + d I through K = B B', which has a row per datum and feature and never is P x P.

    f(H) = f(d) I + B' g(K) B with g(k) = (f(k + d) - f(d)) / k; exact. Costs (N C)^2 P operations to
    form and (N C)^3 to factorise; memory (N C)^2, and P times a block of rows.

    Args:
        matrix: any but the Hessian.
        damping: see `Curvature`; 0 takes the pseudo-inverse.
        rtol: relative cutoff of the pseudo-inverse.
        factorization: "eigen", or "cholesky", some twenty times faster, where damped.

    Raises:
        ValueError: for bad options; when bound, if the prior's Hessian is no multiple of the identity.
    """
    check_damping(damping)
    check_factorization(factorization, damping)
    chosen = resolve(matrix, factored=True)

    def bind(program: Program) -> Decompose:
        build = bind_factor(chosen, program)
        check_prior(program, "gram", isotropic=True)

        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            factor = build(key, params, weights)
            shift = jax.lax.stop_gradient(prior_scale(program, params))
            kernel = jax.lax.stop_gradient(_kernel(factor, program.num_data))
            split = _by_eigen if factorization == "eigen" else _by_cholesky
            solve = split(kernel, shift)

            def apply(function: Filter, vector: Params) -> Params:
                coefficients = factor.forward(vector)
                moved, rest = solve(function, coefficients.ravel())
                back = factor.backward(moved.reshape(coefficients.shape))
                return optax.tree.add_scale(back, rest, vector)

            return Spectrum(apply, jnp.trace(kernel) / num_params(params) + shift)

        return decompose

    def passes(program: Program, num_solves: int) -> float:
        return float(num_features(chosen, program) * (1 + program.num_data) + 2 * num_solves)

    name = f"gram({chosen.name}, damping={describe(damping)})"
    return Curvature(name, chosen, damping, bind, passes, rtol, factorization == "cholesky")


def _by_eigen(kernel: Square, shift: Scalar) -> Solve:
    """Give `(f, c) -> (g(K) c, f(d))`; g is 0 where an eigenvalue is nothing but rounding."""
    values, vectors = jnp.linalg.eigh(kernel)
    kept = values > jnp.finfo(values.dtype).eps * values[-1]
    safe, largest = jnp.where(kept, values, 1.0), values[-1] + shift

    def solve(function: Filter, coefficients: Array) -> tuple[Array, Array]:
        rest = function(shift, largest)
        excess = jnp.where(kept, (function(safe + shift, largest) - rest) / safe, 0.0)
        return vectors @ (excess * (vectors.T @ coefficients)), rest

    return solve


def _by_cholesky(kernel: Square, shift: Scalar) -> Solve:
    """Give the same for damped inverses, where g(k) = -1 / (d (k + d)) with the damping in d."""
    multiply = by_cholesky(kernel)

    def solve(function: Filter, coefficients: Array) -> tuple[Array, Array]:
        assert isinstance(function, Damped)
        damped = Damped(function.damping + shift)
        rest = jnp.asarray(1 / damped.damping)
        return -rest * multiply(damped, coefficients), rest

    return solve


def _kernel(factor: Factor, num_data: int) -> Square:
    """Form B B' a block of rows at a time: each row is pushed through B, no other is held."""

    def block(index: Int[Array, ""]) -> Float[Array, "feature datum feature"]:
        rows = jax.tree.map(lambda leaf: leaf[0], factor.rows(index[None]))
        return jax.vmap(factor.forward)(rows)

    size = min(rows_at_once(factor), 16)
    kernel = map_blocks(block, num_data, size)
    return kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
