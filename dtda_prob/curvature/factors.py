"""Gradients of parameters, example by example, as they are or as sums of outer products.

Both have what a Kronecker basis needs: the second moments of the two sides of the matrices G that the
gradients are, sum G G' and sum G'G, and the squares of their entries in a basis, summed. From the
factors of G = sum_p a_p g_p' over T positions neither needs G.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dtda_prob.module import Module

LARGEST_SIDE = 4096
"""Longer sides of a parameter keep the standard basis, since the cost is cubic in their length."""

Rotation = Float[Array, "matrix side side"]
"""Eigenvectors of one side; empty for the standard basis."""
Side = Float[Array, "matrix side side"] | Float[Array, "matrix side"]
"""Second moments of one side; of the standard basis alone, where that is kept."""
Positions = Float[Array, "example matrix feature position side"]


class Units(NamedTuple):
    """The unit of each number of matrices, and its best outer product, which factors can take.

    Attributes:
        whole: the units, 0 for numbers that do not move.
        left: the factor of each row.
        right: the factor of each column.
    """

    whole: Float[Array, "matrix row column"]
    left: Float[Array, "matrix row"]
    right: Float[Array, "matrix column"]

    @classmethod
    def of(cls, whole: Float[Array, "matrix row column"]) -> "Units":
        """Return the outer product of geometric means."""
        logs = jnp.where(whole > 0, jnp.log(whole), jnp.nan)
        rows = jnp.nanmean(logs, 2)
        columns = jnp.nanmean(logs, 1) - jnp.nanmean(logs, (1, 2))[:, None]
        return cls(whole, *(jnp.nan_to_num(jnp.exp(side)) for side in (rows, columns)))

    def turned(self) -> "Units":
        """Return the units of the transposed matrices."""
        return Units(jnp.swapaxes(self.whole, 1, 2), self.right, self.left)


class Whole(NamedTuple):
    """Gradients as they are; a matrix each."""

    rows: Float[Array, "example matrix feature row column"]

    @property
    def size(self) -> int:
        """The number of elements to hold for an example."""
        return math.prod(self.rows.shape[1:])

    def scaled(self, units: Units) -> "Whole":
        """Return the gradients in these units."""
        return Whole(self.rows * units.whole[:, None])

    def sides(self) -> tuple[Side, Side]:
        """Return sum G G' and sum G'G."""
        return _side(jnp.swapaxes(self.rows, -1, -2)), _side(self.rows)

    def moments(self, left: Rotation, right: Rotation) -> Float[Array, "matrix row column"]:
        """Return the sum of the squares of the entries of G in a basis."""
        rows = _rotated(self.rows, right)
        rows = rows if left.size == 0 else jnp.einsum("srk,esfrc->esfkc", left, rows)
        return jnp.sum(rows**2, (0, 2))


class OneHot(Module):
    """Vectors of which one entry is 1, so many that they are not formed."""

    places: Int[Array, "example matrix feature position"]
    length: int = eqx.field(static=True)

    def formed(self, dtype: Any) -> Positions:
        """Return the vectors."""
        return jax.nn.one_hot(self.places, self.length, dtype=dtype)

    def same(self) -> Bool[Array, "example matrix feature position position"]:
        """Return their products with each other."""
        return self.places[..., :, None] == self.places[..., None, :]

    def scattered(self, values: Positions) -> Float[Array, "matrix length side"]:
        """Return the sum of values at their places."""
        flat = jnp.moveaxis(self.places, 1, 0), jnp.moveaxis(values, 1, 0)
        zeros = jnp.zeros((self.length, values.shape[-1]), values.dtype)

        def scatter(places: Array, values: Array) -> Array:
            return zeros.at[places.ravel()].add(values.reshape(-1, values.shape[-1]))

        return jax.vmap(scatter)(*flat)


class Factors(NamedTuple):
    """Gradients as sums of outer products over positions; features may share one side."""

    left: Positions | OneHot
    right: Any

    @property
    def size(self) -> int:
        """The number of elements to hold for an example."""
        held = sum(math.prod(x.shape[1:]) for x in jax.tree.leaves(self))
        features, positions, columns = self.right.shape[-3:]
        if isinstance(self.left, OneHot) or positions == 1:
            return held
        return held + features * self.left.shape[-1] * columns

    def scaled(self, units: Units) -> "Factors":
        """Return the gradients of one example in these units: exactly, if rows are looked up."""
        if isinstance(self.left, OneHot):
            rows = jax.vmap(lambda each, places: each[places])(units.whole, self.left.places)
            return Factors(self.left, self.right * rows)
        left, right = (side[:, None, None] for side in (units.left, units.right))
        return Factors(self.left * left, self.right * right)

    def sides(self) -> tuple[Side, Side]:
        """Return sum G G' and sum G'G."""
        if isinstance(self.left, OneHot):
            same = self.left.same().astype(self.right.dtype)
            both = (same * _products(self.right).sum(2, keepdims=True)).sum(-1, keepdims=True)
            return self.left.scattered(both)[..., 0], _side(self.right, same)
        return _side(self.left, _products(self.right)), _side(self.right, _products(self.left))

    def moments(self, left: Rotation, right: Rotation) -> Float[Array, "matrix row column"]:
        """Return the sum of the squares of the entries of G in a basis."""
        second = _rotated(self.right, right)
        if isinstance(self.left, OneHot):
            same = self.left.same().astype(second.dtype)
            rows = ((same @ second) ** 2).sum(2, keepdims=True) / same.sum(-1)[..., None]
            return self.left.scattered(rows)
        first = _rotated(self.left, left)
        if second.shape[-2] > 1:
            return ((jnp.swapaxes(first, -1, -2) @ second) ** 2).sum((0, 2))
        first, second = _alike(first[..., 0, :] ** 2, second[..., 0, :] ** 2)
        return jnp.einsum("esfr,esfc->src", first, second)


def joined(parts: list[Factors]) -> Factors:
    """Join the gradients of a parameter that is used several times."""
    if len(parts) == 1:
        return parts[0]
    features = max(part.right.shape[-3] for part in parts)
    return Factors(*(_end_to_end(sides, features) for sides in zip(*parts, strict=True)))


def _end_to_end(sides: tuple[Any, ...], features: int) -> Positions:
    """Join positions of sides, some of which features share."""
    whole = [jnp.broadcast_to(x, (*x.shape[:-3], features, *x.shape[-2:])) for x in sides]
    return jnp.concatenate(whole, axis=-2)


def _products(x: Positions) -> Float[Array, "example matrix feature position position"]:
    """Return the products of positions with each other."""
    return jnp.sum(x**2, -1, keepdims=True) if x.shape[-2] == 1 else x @ jnp.swapaxes(x, -1, -2)


def _side(x: Positions, products: Array | None = None) -> Side:
    """Return the sum of x' K x, with K the products of the other side; the identity if None."""
    weighted = x
    if products is not None:
        products = products if x.shape[2] > 1 else products.sum(2, keepdims=True)
        weighted = products * x if x.shape[-2] == 1 else products @ x
    if x.shape[-1] == 1 or x.shape[-1] > LARGEST_SIDE:
        return jnp.sum(weighted * x, (0, 2, 3))
    return jnp.einsum("esftk,esftl->skl", weighted, x)


def _rotated(x: Positions, basis: Rotation) -> Positions:
    return x if basis.size == 0 else jnp.einsum("esftk,skl->esftl", x, basis)


def _alike(first: Array, second: Array) -> tuple[Array, Array]:
    """Return factors of products that are summed over features, where only one side may have them."""
    if first.shape[2] == second.shape[2]:
        return first, second
    one = first.shape[2] == 1
    return (first, second.sum(2, keepdims=True)) if one else (first.sum(2, keepdims=True), second)
