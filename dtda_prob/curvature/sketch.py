"""Curvatures approximated by their action on random directions."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dtda_prob.blocks import map_rows
from dtda_prob.curvature.curvature import Curvature, Eigen, Spectrum
from dtda_prob.curvature.filters import Filter
from dtda_prob.curvature.matrices import MatrixLike, num_features
from dtda_prob.curvature.moving import EVERYTHING, Moving
from dtda_prob.curvature.quadratic import Quadratic, flat, num_params, params_of
from dtda_prob.program import Program
from dtda_prob.typing import Params

COLUMNS = 16
"""Number of directions that are multiplied at once."""


class nystroem(Curvature):
    """Approximate H by its products with random directions O, as H O (O' H O)^-1 (H O)'.

    The computation takes the stable form of Frangella, Tropp and Udell (arXiv 2110.02820). Costs `rank`
    products; memory `rank` times P. The prior's Hessian must be a multiple of the identity.

    Attributes:
        matrix: any but the Hessian.
        rank: number of directions, at most the rank that the matrix can have.
        damping: see `Curvature`.
        rtol: relative cutoff of the pseudo-inverse.
    """

    rank: int = eqx.field(kw_only=True)

    prior = "isotropic"

    def check(self, program: Program, moving: Moving = EVERYTHING) -> None:
        super().check(program, moving)
        check_rank("rank", self.rank, self.matrix, program, moving)

    def decompose(self, h: Quadratic) -> Spectrum:
        theta, unravel = ravel_pytree(h.point)
        directions = jax.random.normal(h.key, (theta.size, self.rank), theta.dtype)
        directions = jnp.linalg.qr(directions)[0]

        def column(direction: Array) -> Array:
            return ravel_pytree(h.data_product(unravel(direction)))[0]

        image = map_rows(column, directions.T, COLUMNS).T
        nudge = jnp.finfo(theta.dtype).eps * jnp.linalg.norm(image)
        image = image + nudge * directions
        core = directions.T @ image
        values, vectors = jnp.linalg.eigh((core + core.T) / 2)
        root = image @ (vectors / jnp.sqrt(jnp.maximum(values, nudge)))
        left, singular, _ = jnp.linalg.svd(root, full_matrices=False)
        shift = h.prior_scale()
        return Eigen(jnp.maximum(singular**2 - nudge, 0.0) + shift, left, shift)

    def passes(self, program: Program, num_solves: int) -> float:
        return 2.0 * self.rank


class projection(Curvature):
    """Invert the curvature between random directions, O f(O' H O) O', as TRAK does (arXiv 2303.14186).

    O is P x `dimension` with entries of variance 1 / `dimension`. Unlike in `nystroem`, a vector
    orthogonal to the directions has no response at all. Costs a pass over the rows; memory `dimension`
    times P. The prior's Hessian must be a multiple of the identity.

    Attributes:
        matrix: any but the Hessian.
        dimension: number of directions, at most the rank that the matrix can have.
        damping: see `Curvature`.
        rtol: relative cutoff of the pseudo-inverse.
    """

    dimension: int = eqx.field(kw_only=True)

    prior = "isotropic"

    def check(self, program: Program, moving: Moving = EVERYTHING) -> None:
        super().check(program, moving)
        check_rank("dimension", self.dimension, self.matrix, program, moving)

    def decompose(self, h: Quadratic) -> Spectrum:
        theta, _ = ravel_pytree(h.point)
        shape = theta.size, self.dimension
        directions = jax.random.normal(h.key, shape, theta.dtype) / self.dimension**0.5

        def outer(rows: Params) -> Array:
            projected = flat(rows) @ directions
            return projected.T @ projected

        kernel = h.sum_rows(outer) + h.prior_scale() * directions.T @ directions
        values, vectors = jnp.linalg.eigh(kernel)
        return Projected(directions, jnp.maximum(values, 0.0), vectors)

    def passes(self, program: Program, num_solves: int) -> float:
        return float(num_features(self.matrix, program))


class Projected(Spectrum):
    """O V diag(values) V' O' for directions O."""

    directions: Float[Array, "parameter direction"]
    values: Float[Array, " direction"]
    vectors: Float[Array, "direction direction"]

    @property
    def mean(self) -> Float[Array, ""]:
        return self.values.sum() / len(self.directions)

    def apply(self, function: Filter, vector: Params) -> Params:
        flat_vector, unravel = ravel_pytree(vector)
        inside = self.vectors.T @ (self.directions.T @ flat_vector)
        solved = self.vectors @ (function(self.values, self.values[-1]) * inside)
        return unravel(self.directions @ solved)


def check_rank(
    name: str, rank: int, matrix: MatrixLike | None, program: Program, moving: Moving
) -> None:
    """Check that a sketch is no larger than the rank of its matrix; raise ValueError otherwise."""
    assert matrix is not None
    size, features = num_params(params_of(program, moving)), num_features(matrix, program)
    largest = min(size, features * program.num_rows)
    if not 1 <= rank <= largest:
        raise ValueError(
            f"{name}={rank} must lie between 1 and {largest}: the curvature has {size} parameters and "
            f"{features * program.num_rows} rows ({program.num_rows} examples, {features} features), "
            "so a larger sketch would be rank-deficient"
        )
