"""Curvatures that ignore coupling between arrays of parameters, between scalars, or all curvature."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dtda_prob.curvature.curvature import Curvature, Diagonal, Eigen, Spectrum
from dtda_prob.curvature.filters import Filter, Scalar
from dtda_prob.curvature.gradients import gradients
from dtda_prob.curvature.matrices import MatrixLike, num_features
from dtda_prob.curvature.quadratic import Quadratic, flat
from dtda_prob.program import Program
from dtda_prob.typing import Params


class block_diagonal(Curvature):
    """Keep the block of each array of parameters, and no coupling between arrays.

    Costs a pass over the rows and the cube of each array's size; memory the squares of the sizes. The
    prior's Hessian must be diagonal, and the matrix any but the Hessian; see `Curvature`.
    """

    prior = "diagonal"

    def decompose(self, h: Quadratic) -> Spectrum:
        squares = h.sum_rows(lambda rows: jax.tree.map(_outer, rows))
        whole = jax.tree.map(lambda b, p: b + jnp.diag(p.ravel()), squares, h.prior_diagonal())
        return Blocks([Eigen(*jnp.linalg.eigh(block)) for block in jax.tree.leaves(whole)])

    def passes(self, program: Program, num_solves: int) -> float:
        return float(num_features(self.matrix, program))


class diagonal(Curvature):
    """Keep the diagonal alone. Costs a backward pass for each feature; memory P.

    The prior's Hessian must be diagonal, and the matrix any but the Hessian; see `Curvature`.
    """

    prior = "diagonal"

    def decompose(self, h: Quadratic) -> Spectrum:
        found, standard = gradients(h), jnp.ones((1, 0, 0))
        squares = found.sum(lambda parts: [part.moments(standard, standard) for part in parts])
        leaves: dict[int, Array] = {}
        for layout, matrices in zip(found.layouts, squares, strict=True):
            leaves |= layout.parameters(matrices)
        values = jax.tree.structure(h.point).unflatten([leaves[k] for k in range(len(leaves))])
        return Diagonal(optax.tree.add(values, h.prior_diagonal()))

    def passes(self, program: Program, num_solves: int) -> float:
        return float(num_features(self.matrix, program))


class identity(Curvature):
    """H = damping * I: the response is a multiple of the gradient.

    With damping="auto" it is the response of gradient descent over the time of training on a flat
    objective. The damping must be above 0.
    """

    matrix: MatrixLike | None = eqx.field(default=None, init=False, repr=False)
    rtol: Scalar | None = eqx.field(default=None, init=False, repr=False)

    @property
    def inverse_only(self) -> bool:
        return True

    def decompose(self, h: Quadratic) -> Spectrum:
        return Flat()

    def passes(self, program: Program, num_solves: int) -> float:
        return 0.0


class Blocks(Spectrum):
    """A spectrum for each array of parameters."""

    each: list[Eigen]

    @property
    def mean(self) -> Float[Array, ""]:
        sizes = jnp.array([len(block.values) for block in self.each])
        means = jnp.stack([block.mean for block in self.each])
        return (means * sizes).sum() / sizes.sum()

    def apply(self, function: Filter, vector: Params) -> Params:
        leaves, structure = jax.tree.flatten(vector)
        return structure.unflatten(
            [block.apply(function, leaf) for block, leaf in zip(self.each, leaves, strict=True)]
        )


class Flat(Spectrum):
    """No curvature; its mean eigenvalue counts as 1, so that `relative` damping is a number."""

    @property
    def mean(self) -> Float[Array, ""]:
        return jnp.ones(())

    def apply(self, function: Filter, vector: Params) -> Params:
        return optax.tree.scale(function(jnp.zeros(()), 0.0), vector)


def _outer(leaf: Float[Array, "row ..."]) -> Array:
    rows = flat(leaf)
    return rows.T @ rows
