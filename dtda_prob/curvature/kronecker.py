"""Kronecker factors of every matrix-shaped parameter, from the rows of the curvature alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dtda_prob.curvature.curvature import Curvature, Decompose, Spectrum, num_params
from dtda_prob.curvature.factor import bind_factor, sum_rows
from dtda_prob.curvature.filters import Damping, Filter, check_damping, describe
from dtda_prob.curvature.matrices import (
    MatrixLike,
    check_prior,
    num_features,
    prior_diagonal,
    resolve,
)
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

LARGEST_SIDE = 4096
"""Sides of a parameter above this keep the standard basis, since they are cubed (those of 1 have no
other)."""


class Bases(NamedTuple):
    """Eigenvectors of one parameter's two sides, and the eigenvalues they came with."""

    left: Float[Array, "row row"]
    right: Float[Array, "column column"]
    values: Float[Array, "row column"]


def kronecker(
    matrix: MatrixLike = "fisher",
    *,
    damping: Damping = "auto",
    rtol: float | None = None,
    corrected: bool = True,
) -> Curvature:
    """Approximate each parameter's block in a Kronecker basis: EK-FAC, or K-FAC.

    For a parameter of shape (..., columns), laid out as a matrix, let G be its part of a row of B,
    H = B'B. The basis is that of sum G G' and sum G'G (Martens and Grosse, arXiv 1503.05671, from
    gradients instead of layers' inputs and outputs, so that convolutions, attention and shared weights
    need no hooks); in it the diagonal of the block is taken exactly (George et al., arXiv 1806.03884),
    and damped exactly. A vector's block is exact. Weights and biases are blocks of their own.

    Costs two passes over the rows (a backward pass each) and the cubes of the sides; memory P and a
    block of rows.

    Args:
        matrix: any but the Hessian.
        damping: see `Curvature`; 0 takes the pseudo-inverse.
        rtol: relative cutoff of the pseudo-inverse.
        corrected: take the diagonal in the basis (EK-FAC); else the product of the sides' eigenvalues
            over their trace (K-FAC), which saves a pass.

    Raises:
        ValueError: for bad damping; when bound, if the prior's Hessian is not diagonal.
    """
    check_damping(damping)
    chosen = resolve(matrix, factored=True)

    def bind(program: Program) -> Decompose:
        build = bind_factor(chosen, program)
        check_prior(program, "kronecker", isotropic=False)

        def decompose(key: PRNGKey, params: Params, weights: Weights) -> Spectrum:
            factor = build(key, params, weights)

            def summed(contribution: Callable) -> list[Array]:
                return jax.lax.stop_gradient(sum_rows(contribution, factor, program.num_data))

            bases = [_bases(*sides) for sides in summed(_sides)]
            if corrected:
                second = summed(lambda rows: _second_moments(rows, bases))
                bases = [b._replace(values=v) for b, v in zip(bases, second, strict=True)]
            prior = [leaf.mean() for leaf in jax.tree.leaves(prior_diagonal(program, params))]
            bases = [b._replace(values=b.values + p) for b, p in zip(bases, prior, strict=True)]
            mean = jnp.stack([base.values.sum() for base in bases]).sum() / num_params(params)
            return Spectrum(lambda function, vector: _apply(function, bases, vector), mean)

        return decompose

    def passes(program: Program, num_solves: int) -> float:
        return (1.0 + corrected) * num_features(chosen, program)

    kind = "kronecker" if corrected else "uncorrected kronecker"
    name = f"{kind}({chosen.name}, damping={describe(damping)})"
    return Curvature(name, chosen, damping, bind, passes, rtol)


def _sides(rows: Params) -> list[tuple[Array, Array]]:
    matrices = [_as_matrix(leaf) for leaf in jax.tree.leaves(rows)]
    return [(_left(g), _right(g)) for g in matrices]


def _left(g: Float[Array, "datum row column"]) -> Array:
    if g.shape[1] == 1 or g.shape[1] > LARGEST_SIDE:
        return jnp.sum(g**2, axis=(0, 2))
    flat = jnp.moveaxis(g, 1, 0).reshape(g.shape[1], -1)
    return flat @ flat.T


def _right(g: Float[Array, "datum row column"]) -> Array:
    return _left(jnp.swapaxes(g, 1, 2))


def _bases(left: Array, right: Array) -> Bases:
    (left_values, left_vectors), (right_values, right_vectors) = _eigh(left), _eigh(right)
    trace = jnp.maximum(left_values.sum(), jnp.finfo(left_values.dtype).tiny)
    return Bases(left_vectors, right_vectors, jnp.outer(left_values, right_values) / trace)


def _eigh(side: Array) -> tuple[Array, Array]:
    """Give non-negative eigenvalues and eigenvectors; a side kept as a vector is diagonal."""
    if side.ndim == 1:
        return side, jnp.ones((0, 0), side.dtype)
    values, vectors = jnp.linalg.eigh(side, symmetrize_input=False)
    return jnp.maximum(values, 0.0), vectors


def _second_moments(rows: Params, bases: list[Bases]) -> list[Array]:
    matrices = [_as_matrix(leaf) for leaf in jax.tree.leaves(rows)]
    rotated = [_rotate(g, base) for g, base in zip(matrices, bases, strict=True)]
    return [jnp.sum(g**2, axis=0) for g in rotated]


def _apply(function: Filter, bases: list[Bases], vector: Params) -> Params:
    leaves, structure = jax.tree.flatten(vector)
    largest = jnp.max(jnp.stack([base.values.max() for base in bases]))

    def solve(leaf: Array, base: Bases) -> Array:
        g = _rotate(_as_matrix(leaf[None])[0], base) * function(base.values, largest)
        return _rotate_back(g, base).reshape(leaf.shape)

    return structure.unflatten([solve(*pair) for pair in zip(leaves, bases, strict=True)])


def _rotate(g: Float[Array, "*datum row column"], base: Bases) -> Array:
    g = g if base.right.size == 0 else g @ base.right
    return g if base.left.size == 0 else jnp.einsum("ab,...ac->...bc", base.left, g)


def _rotate_back(g: Float[Array, "row column"], base: Bases) -> Array:
    g = g if base.right.size == 0 else g @ base.right.T
    return g if base.left.size == 0 else base.left @ g


def _as_matrix(leaf: Float[Array, "datum ..."]) -> Float[Array, "datum row column"]:
    """Lay a parameter out as a matrix whose columns are its last axis; a vector is one column."""
    columns = leaf.shape[-1] if leaf.ndim > 2 else 1
    return leaf.reshape(leaf.shape[0], -1, columns)
