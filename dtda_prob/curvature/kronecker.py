"""Kronecker factors of every matrix-shaped parameter."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dtda_prob.curvature.curvature import Curvature, Spectrum
from dtda_prob.curvature.factors import Factors, Rotation, Side, Whole
from dtda_prob.curvature.filters import Filter, Scalar
from dtda_prob.curvature.gradients import gradients
from dtda_prob.curvature.layouts import Layout
from dtda_prob.curvature.matrices import MatrixLike, num_features
from dtda_prob.curvature.quadratic import Quadratic
from dtda_prob.module import Module
from dtda_prob.program import Program
from dtda_prob.typing import Params


class kronecker(Curvature):
    """Approximate the block of each layer in a Kronecker basis: EK-FAC, or K-FAC.

    Let G be a parameter's part of a row of B, H = B'B, laid out as a matrix: its rows are summed over
    in the product that the parameter enters, as the inputs of a layer are. A bias that is added to this
    product, and nowhere else, is one row more. The basis holds the eigenvectors of sum G G' and
    sum G'G (Martens and Grosse, arXiv 1503.05671); in it the diagonal of the block is taken exactly
    (George et al., arXiv 1806.03884), and so is the prior's, which must be diagonal. The block of a
    vector by itself is exact. Each layer of a stack that a `jax.lax.scan` runs over has its own block.

    Of parameters that enter matrix products, convolutions and look-ups alone, G is a sum of outer
    products over positions, and is not formed if they are fewer than its rows and columns: this costs
    two backward passes and the squares of the sides for each position. Otherwise G is formed, and
    multiplied from both sides. Then the cubes of the sides; memory P, the squares of the sides and a
    block of rows. Where each parameter has a unit of its own (Adam), G that is not formed takes the
    outer product that is nearest to the units.

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
        found = gradients(h)
        groups = found.alike()
        sides = found.sum(lambda parts: [part.sides() for part in _stacked(parts, groups)])
        layouts = [tuple(found.layouts[k] for k in group) for group in groups]
        bases = [_basis(several, *both) for several, both in zip(layouts, sides, strict=True)]
        if self.corrected:
            values = found.sum(lambda parts: _moments(_stacked(parts, groups), bases))
            bases = [replace(b, values=v) for b, v in zip(bases, values, strict=True)]
        if h.program.has_prior:
            prior = jax.tree.leaves(h.prior_diagonal())
            bases = [replace(b, values=b.values + b.diagonal(prior)) for b in bases]
        return Kronecker(bases)

    def passes(self, program: Program, num_solves: int) -> float:
        return (1.0 + self.corrected) * num_features(self.matrix, program)


class Basis(Module):
    """Eigenvectors of both sides of the matrices of parameters of one shape, and eigenvalues."""

    layouts: tuple[Layout, ...] = eqx.field(static=True)
    left: Rotation
    right: Rotation
    values: Float[Array, "matrix row column"]

    def apply(self, function: Filter, largest: Scalar, leaves: list[Array]) -> dict[int, Array]:
        """Return f(block) v for the parameters of the blocks, by position."""
        each = [layout.matrices(leaves) for layout in self.layouts]
        g = self._turned(jnp.concatenate(each), self.left, self.right)
        g = function(self.values, largest) * g
        back = [jnp.swapaxes(side, 1, 2) for side in (self.left, self.right)]
        ends = np.cumsum([len(matrices) for matrices in each])
        parts = jnp.split(self._turned(g, *back), ends[:-1])
        found: dict[int, Array] = {}
        for layout, matrices in zip(self.layouts, parts, strict=True):
            found |= layout.parameters(matrices)
        return found

    def diagonal(self, leaves: list[Array]) -> Float[Array, "matrix row column"]:
        """Return the diagonal in the basis of a matrix that is diagonal for the parameters."""
        matrices = jnp.concatenate([layout.matrices(leaves) for layout in self.layouts])
        return self._turned(matrices, self.left**2, self.right**2)

    def _turned(self, g: Array, left: Rotation, right: Rotation) -> Float[Array, "matrix row column"]:
        g = g if right.size == 0 else g @ right
        return g if left.size == 0 else jnp.swapaxes(left, 1, 2) @ g


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
        found: dict[int, Array] = {}
        for basis in self.bases:
            found |= basis.apply(function, largest, leaves)
        return structure.unflatten([found[k] for k in range(len(leaves))])


def _basis(layouts: tuple[Layout, ...], left: Side, right: Side) -> Basis:
    (left_values, left_vectors), (right_values, right_vectors) = _eigh(left), _eigh(right)
    trace = jnp.maximum(left_values.sum(-1), jnp.finfo(left_values.dtype).tiny)
    values = left_values[:, :, None] * right_values[:, None, :] / trace[:, None, None]
    return Basis(layouts, left_vectors, right_vectors, values)


def _stacked(parts: list[Whole | Factors], groups: list[list[int]]) -> list[Whole | Factors]:
    """Join the matrices of each group of parameters, so that layers of one shape are compiled once."""

    def joined(*matrices: Array) -> Array:
        return jnp.concatenate(matrices, axis=1)

    return [jax.tree.map(joined, *(parts[k] for k in group)) for group in groups]


def _moments(parts: list[Whole | Factors], bases: list[Basis]) -> list[Array]:
    return [part.moments(b.left, b.right) for part, b in zip(parts, bases, strict=True)]


def _eigh(side: Side) -> tuple[Array, Array]:
    """Return non-negative eigenvalues and eigenvectors; a side kept as a vector is diagonal."""
    if side.ndim == 2:
        return side, jnp.ones((len(side), 0, 0), side.dtype)
    values, vectors = jnp.linalg.eigh(side, symmetrize_input=False)
    return jnp.maximum(values, 0.0), vectors
