"""The curvature matrix H of a program at given parameters and weights: its products, rows and prior."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from dtda_prob.blocks import blocks, map_blocks, map_rows
from dtda_prob.curvature.matrices import (
    BATCH_SIZE,
    Features,
    Matrix,
    MatrixLike,
    features_at,
    hessian,
    resolve,
)
from dtda_prob.curvature.moving import EVERYTHING, Moving
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

BLOCK = 2**20
"""Number of array elements in a block of rows."""
SIGNS = 3
"""Number of random sign vectors that test whether a prior's Hessian is diagonal."""

Coefficients = Float[Array, "example feature"]
Square = Float[Array, "parameter parameter"]


@dataclass(frozen=True, eq=False)
class Quadratic:
    """H = B'B + prior at a point, where B has one row per example and feature. H is never formed.

    Labels of a sampled Fisher matrix are drawn once, on construction. Products are traced once, however
    often a solver calls them, and act on the parameters that move.

    Attributes:
        program: the model and its data.
        matrix: which H.
        key: randomness of sampled labels and sketches.
        params: where H is evaluated.
        weights: one per example.
        moving: which parameters move.
        scale: a positive number for each of them, a tree like `point`: vectors and H are then in the
            coordinates u of params + scale * u, so that H is S H S. None for the parameters themselves.
        point: the parameters that move; vectors have the same structure.
    """

    program: Program
    matrix: Matrix
    key: PRNGKey
    params: Params
    weights: Weights
    moving: Moving = EVERYTHING
    scale: Params | None = None
    point: Params = field(init=False)
    _features: Features | None = field(init=False)

    def __post_init__(self) -> None:
        still = {name: jax.lax.stop_gradient(getattr(self, name)) for name in ("params", "weights")}
        still["point"] = self.moving.part(still["params"])
        features = None
        if self.matrix.factored:
            features = features_at(self.matrix, self.program, self.key, still["params"])
        for name, value in (still | {"_features": features}).items():
            object.__setattr__(self, name, value)

    def of(self, matrix: MatrixLike | None) -> "Quadratic":
        """Return another matrix at the same point; the Hessian for None."""
        return replace(self, matrix=resolve("hessian" if matrix is None else matrix))

    def product(self, vector: Params) -> Params:
        """Return H v."""
        if not self.matrix.factored:
            return self._objective_product(vector)
        return optax.tree.add(self.data_product(vector), self.prior_product(vector))

    def data_product(self, vector: Params) -> Params:
        """Return (H - prior) v."""
        if not self.matrix.factored:
            return optax.tree.sub(self._objective_product(vector), self.prior_product(vector))
        return self.backward(self.forward(vector))

    def prior_product(self, vector: Params) -> Params:
        """Return the product with the Hessian of -log prior / n."""
        return self._prior_product(vector) if self.program.has_prior else optax.tree.zeros_like(vector)

    def prior_diagonal(self) -> Params:
        """Return the diagonal of the prior's Hessian, which must be diagonal; see `check_prior`."""
        return self.prior_product(jax.tree.map(jnp.ones_like, self.point))

    def prior_scale(self) -> Float[Array, ""]:
        """Return the multiple of the identity that the prior's Hessian must be; see `check_prior`.

        0 in other units: it is then a part of them, see `Stationary.shortened`.
        """
        if self.scale is not None:
            return jnp.zeros((), jnp.result_type(*jax.tree.leaves(self.point)))
        sums = [jnp.sum(leaf) for leaf in jax.tree.leaves(self.prior_diagonal())]
        return jnp.stack(sums).sum() / self.num_params

    def output(self, point: Params, index: Int[Array, ""]) -> Float[Array, " feature"]:
        """Return the features of an example, whose Jacobian is its rows of B."""
        return self.features(self._unscaled(point), index)

    def features(self, point: Params, index: Int[Array, ""]) -> Float[Array, " feature"]:
        """Return the features of an example at parameters that are their own units."""
        assert self._features is not None
        scale = jnp.sqrt(self.weights[index] / self.program.num_rows)
        return scale * self._features(self.moving.whole(point, self.params), index)

    @cached_property
    def rows(self) -> Callable[[Int[Array, " example"]], Params]:
        """Return rows of B, a tree like the parameters with leading `(example, feature)`."""
        return jax.jit(jax.vmap(lambda index: jax.jacrev(self.output)(self.point, index)))

    @cached_property
    def forward(self) -> Callable[[Params], Coefficients]:
        """Return B v."""
        return jax.jit(lambda vector: jax.jvp(self._outputs, (self.point,), (vector,))[1])

    @cached_property
    def backward(self) -> Callable[[Coefficients], Params]:
        """Return B' c."""
        return jax.jit(lambda coefficients: jax.vjp(self._outputs, self.point)[1](coefficients)[0])

    def sum_rows(self, function: Callable[[Params], Any]) -> Any:
        """Return the sum of `function(rows)` over blocks; rows have one leading axis."""

        def merged(rows: Params) -> Any:
            return function(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows))

        return self.sum_examples(self.rows, merged, self.rows_at_once)

    def sum_examples(
        self, of: Callable[[Int[Array, " example"]], Any], function: Callable[[Any], Any], at_once: int
    ) -> Any:
        """Return the sum of `function(of(examples))` over blocks.

        Args:
            of: returns a tree for some examples, which are the leading axis of its arrays.
            function: takes such a tree; it is 0 for examples that only fill a block.
            at_once: number of examples in a block.
        """
        positions, present = blocks(self.program.num_data, at_once)

        def block(indices: Int[Array, " example"], here: Bool[Array, " example"]) -> Any:
            def kept(leaf: Array) -> Array:
                return jnp.where(here.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

            return function(jax.tree.map(kept, of(indices)))

        def add(total: Any, xs: tuple) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, block(*xs)), None

        shapes = jax.eval_shape(block, positions[0], present[0])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (positions, present))[0]

    @property
    def rows_at_once(self) -> int:
        """Return the number of examples whose rows fill a block."""
        shapes = jax.eval_shape(self.rows, jnp.zeros(1, int))
        return max(1, BLOCK // num_params(shapes))

    @property
    def num_params(self) -> int:
        """Return the number of parameters that move."""
        return num_params(self.point)

    @cached_property
    def _objective_product(self) -> Callable[[Params], Params]:
        return self._hessian_product(self.weights)

    @cached_property
    def _prior_product(self) -> Callable[[Params], Params]:
        # Kept between calls: an array of JAX would belong to the trace that first asks for it.
        dtype = jnp.result_type(*jax.tree.leaves(self.point))
        nothing: Any = np.zeros(self.program.num_data, dtype)
        return self._hessian_product(nothing)

    def _hessian_product(self, weights: Weights) -> Callable[[Params], Params]:
        def objective(point: Params) -> Float[Array, ""]:
            return self.program.evaluated.objective(self._whole(point), weights)

        return jax.jit(lambda vector: jax.jvp(jax.grad(objective), (self.point,), (vector,))[1])

    def _outputs(self, point: Params) -> Coefficients:
        one = jax.checkpoint(lambda index: self.output(point, index))
        return map_blocks(one, self.program.num_data, BATCH_SIZE)

    def _unscaled(self, point: Params) -> Params:
        if self.scale is None:
            return point
        return jax.tree.map(lambda s, x, x0: x0 + s * (x - x0), self.scale, point, self.point)

    def _whole(self, point: Params) -> Params:
        return self.moving.whole(self._unscaled(point), self.params)


def num_params(params: Params) -> int:
    """Return the number of scalar parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def params_of(program: Program, moving: Moving = EVERYTHING) -> Params:
    """Return shapes and types of a program's parameters that move."""
    return jax.eval_shape(lambda key: moving.part(program.init(key)), jax.random.key(0))


def flat(rows: Params) -> Float[Array, "row parameter"]:
    """Return rows as a matrix."""
    return jax.vmap(lambda row: ravel_pytree(row)[0])(rows)


def columns(product: Callable[[Params], Params], params: Params, at_once: int = 64) -> Square:
    """Form a symmetric matrix from its products with the columns of the identity."""
    theta, unravel = ravel_pytree(params)
    basis = jnp.eye(theta.size, dtype=theta.dtype)
    whole = map_rows(lambda e: ravel_pytree(product(unravel(e)))[0], basis, at_once)
    return (whole + whole.T) / 2


def check_prior(program: Program, method: str, moving: Moving, *, isotropic: bool) -> None:
    """Check that a method supports the prior.

    Raises:
        ValueError: if the Hessian of the log prior is not diagonal or, where `isotropic`, not a
            multiple of the identity.
    """
    if not program.has_prior:
        return
    key = jax.random.key(0)
    params = program.init(key)
    h = Quadratic(program, hessian(), key, params, program.full_weights(), moving)
    diagonal = h.prior_diagonal()
    if isotropic:
        mean = float(h.prior_scale())
        diagonal = jax.tree.map(lambda x: jnp.full_like(x, mean), diagonal)
    for sign_key in jax.random.split(key, SIGNS):
        signs = optax.tree.random_like(sign_key, h.point, jax.random.rademacher)
        pairs = zip(*map(jax.tree.leaves, (h.prior_product(signs), signs, diagonal)), strict=True)
        if not all(np.allclose(got, sign * d, rtol=1e-3, atol=1e-8) for got, sign, d in pairs):
            kind = "a multiple of the identity" if isotropic else "diagonal"
            raise ValueError(
                f"curvature.{method} needs a prior whose Hessian is {kind}, and this program's is "
                "not; use dense or conjugate_gradient"
            )
