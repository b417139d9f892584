"""Kronecker factors of every matrix-shaped parameter, from the rows of the curvature alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dtda_prob.curvature.curvature import Curvature, Spectrum
from dtda_prob.curvature.filters import Filter
from dtda_prob.curvature.matrices import MatrixLike, num_features
from dtda_prob.curvature.quadratic import Quadratic
from dtda_prob.module import Module
from dtda_prob.program import Program
from dtda_prob.typing import Params

LARGEST_SIDE = 4096
"""Longer sides of a parameter keep the standard basis, since the cost is cubic in their length."""


class kronecker(Curvature):
    """Approximate each parameter's block in a Kronecker basis: EK-FAC, or K-FAC.

    For a parameter of shape (..., columns), laid out as a matrix, let G be its part of a row of B,
    H = B'B. The basis holds the eigenvectors of sum G G' and sum G'G (Martens and Grosse, arXiv
    1503.05671, from gradients instead of layers' inputs and outputs, so that convolutions, attention
    and shared weights need no hooks); in it the diagonal of the block is taken exactly (George et al.,
    arXiv 1806.03884), and damped exactly. The block of a vector is exact. Weights and biases have
    their own blocks. Costs two passes over the rows (a backward pass each) and the cubes of the sides;
    memory P and a block of rows. The prior's Hessian must be diagonal.

    Attributes:
        matrix: any but the Hessian.
        damping: see `Curvature`.
        rtol: relative cutoff of the pseudo-inverse.
        corrected: take the diagonal in the basis (EK-FAC); else the product of the sides' eigenvalues
            over their trace (K-FAC), which saves a pass.
    """

    matrix: MatrixLike | None = "fisher"
    corrected: bool = eqx.field(default=True, kw_only=True)

    prior = "diagonal"

    def decompose(self, h: Quadratic) -> Spectrum:
        bases = [_basis(*sides) for sides in h.sum_rows(_sides)]
        if self.corrected:
            second = h.sum_rows(lambda rows: _second_moments(rows, bases))
            bases = [Basis(b.left, b.right, values) for b, values in zip(bases, second, strict=True)]
        prior = [leaf.mean() for leaf in jax.tree.leaves(h.prior_diagonal())]
        return Kronecker(
            [Basis(b.left, b.right, b.values + p) for b, p in zip(bases, prior, strict=True)]
        )

    def passes(self, program: Program, num_solves: int) -> float:
        return (1.0 + self.corrected) * num_features(self.matrix, program)


class Basis(Module):
    """Eigenvectors of one parameter's sides (none for the standard basis), and eigenvalues."""

    left: Float[Array, "row row"]
    right: Float[Array, "column column"]
    values: Float[Array, "row column"]

    def rotate(self, g: Float[Array, "*example row column"]) -> Array:
        """Return matrices in this basis."""
        g = g if self.right.size == 0 else g @ self.right
        return g if self.left.size == 0 else jnp.einsum("ab,...ac->...bc", self.left, g)

    def rotate_back(self, g: Float[Array, "row column"]) -> Array:
        """Return a matrix in the standard basis."""
        g = g if self.right.size == 0 else g @ self.right.T
        return g if self.left.size == 0 else self.left @ g


class Kronecker(Spectrum):
    """A diagonal in a basis of each parameter's own."""

    bases: list[Basis]

    @property
    def mean(self) -> Float[Array, ""]:
        total = jnp.stack([basis.values.sum() for basis in self.bases]).sum()
        return total / sum(basis.values.size for basis in self.bases)

    def apply(self, function: Filter, vector: Params) -> Params:
        leaves, structure = jax.tree.flatten(vector)
        largest = jnp.max(jnp.stack([basis.values.max() for basis in self.bases]))

        def solve(leaf: Array, basis: Basis) -> Array:
            g = basis.rotate(_as_matrix(leaf[None])[0]) * function(basis.values, largest)
            return basis.rotate_back(g).reshape(leaf.shape)

        return structure.unflatten([solve(*pair) for pair in zip(leaves, self.bases, strict=True)])


def _sides(rows: Params) -> list[tuple[Array, Array]]:
    matrices = [_as_matrix(leaf) for leaf in jax.tree.leaves(rows)]
    return [(_left(g), _left(jnp.swapaxes(g, 1, 2))) for g in matrices]


def _left(g: Float[Array, "example row column"]) -> Array:
    if g.shape[1] == 1 or g.shape[1] > LARGEST_SIDE:
        return jnp.sum(g**2, axis=(0, 2))
    side = jnp.moveaxis(g, 1, 0).reshape(g.shape[1], -1)
    return side @ side.T


def _basis(left: Array, right: Array) -> Basis:
    (left_values, left_vectors), (right_values, right_vectors) = _eigh(left), _eigh(right)
    trace = jnp.maximum(left_values.sum(), jnp.finfo(left_values.dtype).tiny)
    return Basis(left_vectors, right_vectors, jnp.outer(left_values, right_values) / trace)


def _eigh(side: Array) -> tuple[Array, Array]:
    """Return non-negative eigenvalues and eigenvectors; a side kept as a vector is diagonal."""
    if side.ndim == 1:
        return side, jnp.ones((0, 0), side.dtype)
    values, vectors = jnp.linalg.eigh(side, symmetrize_input=False)
    return jnp.maximum(values, 0.0), vectors


def _second_moments(rows: Params, bases: list[Basis]) -> list[Array]:
    matrices = [_as_matrix(leaf) for leaf in jax.tree.leaves(rows)]
    return [jnp.sum(b.rotate(g) ** 2, axis=0) for g, b in zip(matrices, bases, strict=True)]


def _as_matrix(leaf: Float[Array, "example ..."]) -> Float[Array, "example row column"]:
    """Return a parameter as a matrix whose columns are its last axis; a vector is one column."""
    columns = leaf.shape[-1] if leaf.ndim > 2 else 1
    return leaf.reshape(leaf.shape[0], -1, columns)
