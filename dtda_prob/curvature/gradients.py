"""The gradients of every parameter, example by example, in factors wherever these are smaller."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dtda_prob.curvature import factors, quadratic
from dtda_prob.curvature.factors import Factors, OneHot, Units, Whole, joined
from dtda_prob.curvature.following import evaluate
from dtda_prob.curvature.layouts import Layout, is_factored, layouts_of
from dtda_prob.curvature.quadratic import Quadratic
from dtda_prob.curvature.views import Tape, Use, View, value_of

Examples = Int[Array, " example"]


_ONE_MORE = [(0, 0)] * 3 + [(0, 1)]


@dataclass(frozen=True, eq=False)
class Gradients:
    """Rows of B of each parameter that moves, example by example, in the units of H.

    Attributes:
        h: the matrix.
        traced: its features of an example, of the parameters and the example's position.
        layouts: of all parameters; each belongs to one.
        units: of each layout, None where parameters are their own.
        uses: the products of the parameters that are kept as factors.
        added: the shapes of what is added to their results; see `Tape`.
    """

    h: Quadratic
    traced: Any
    layouts: list[Layout]
    units: list[Units | None]
    uses: list[Use]
    added: list

    def sum(self, function: Callable[[list[Whole | Factors]], Any]) -> Any:
        """Return the sum of `function(gradients)` over blocks of examples."""
        of = jax.vmap(self._of_example)
        size = sum(gradient.size for gradient in jax.eval_shape(of, jnp.zeros(1, int)))
        return self.h.sum_examples(of, function, max(1, quadratic.BLOCK // size))

    def alike(self) -> list[list[int]]:
        """Return positions of layouts, together if gradients differ in the number of matrices alone."""
        groups: dict[Any, list[int]] = {}
        for k, gradient in enumerate(jax.eval_shape(self._of_example, jnp.zeros((), int))):
            shapes = tuple(leaf.shape[1:] for leaf in jax.tree.leaves(gradient))
            groups.setdefault((jax.tree.structure(gradient), shapes), []).append(k)
        return [*groups.values()]

    def _of_example(self, index: Int[Array, ""]) -> list[Whole | Factors]:
        leaves = jax.tree.leaves(self.h.point)
        followed = {use.leaf for use in self.uses}
        layouts = [layout for layout in self.layouts if layout.own.leaf in followed]
        views = {part.leaf for layout in layouts for part in layout.parts}
        plain = {k: leaf for k, leaf in enumerate(leaves) if k not in views}
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.added)

        def features(plain: dict[int, Array], added: list) -> tuple[Array, list[Array]]:
            inputs = [plain.get(k, View(k, (), (), leaf)) for k, leaf in enumerate(leaves)]
            tape = Tape(set(), added)
            (result,) = evaluate(self.traced, [*inputs, index], tape)
            return value_of(result), [use.other for use in tape.uses]

        result, pullback, others = jax.vjp(features, plain, zeros, has_aux=True)
        whole, added = jax.vmap(pullback)(jnp.eye(result.size, dtype=result.dtype))
        sides = list(zip(self.uses, others, jax.tree.leaves(added), strict=True))

        def gradient(layout: Layout, units: Units | None) -> Whole | Factors:
            if layout.own.leaf not in followed:
                found = Whole(jax.vmap(layout.matrices, out_axes=1)(whole))
                return found if units is None else found.scaled(units)
            own = [each for each in sides if each[0].leaf == layout.own.leaf]
            return joined([self._factors(layout, units, *each) for each in own])

        return [gradient(*pair) for pair in zip(self.layouts, self.units, strict=True)]

    def _factors(
        self, layout: Layout, units: Units | None, use: Use, other: Array, derivative: Array
    ) -> Factors:
        """Return the gradients of an example from what multiplies a parameter, and from derivatives.

        Args:
            layout: of the parameter.
            units: of the parameter.
            use: the product.
            other: what multiplies the parameter.
            derivative: of each feature, shape `(feature, *loops, matrix, position, column)`.
        """
        dtype = jax.tree.leaves(self.h.point)[use.leaf].dtype
        turned = use.steps in layout.turned
        units = units.turned() if units is not None and turned else units
        left, right = use.by_position(other[None]), use.by_position(derivative).astype(dtype)
        if use.looks_up:
            left = OneHot(left[..., 0], use.rows)
        else:
            left = left.astype(dtype)
            left = left if layout.bias is None else jnp.pad(left, _ONE_MORE, constant_values=1)
        found = Factors(left, right)
        found = found if units is None else found.scaled(units)
        several = sum(each.leaf == use.leaf for each in self.uses) > 1
        if isinstance(found.left, OneHot) and (several or use.rows <= factors.LARGEST_SIDE):
            found = found._replace(left=found.left.formed(dtype))
        return Factors(found.right, found.left) if turned else found


def gradients(h: Quadratic) -> Gradients:
    """Follow parameters to the products that they enter in the outputs of an example."""
    leaves, structure = jax.tree.flatten(h.point)

    def features(leaves: list[Array], index: Int[Array, ""]) -> Float[Array, " feature"]:
        return h.features(structure.unflatten(leaves), index)

    traced = jax.make_jaxpr(features)(leaves, jnp.zeros((), int))
    tape = _taped(traced, leaves, set())
    layouts = layouts_of(leaves, tape)
    plain = {part.leaf for each in layouts if not is_factored(each, tape) for part in each.parts}
    tape = _taped(traced, leaves, plain)
    scales = None if h.scale is None else jax.tree.leaves(h.scale)
    units = [None if scales is None else Units.of(each.matrices(scales)) for each in layouts]
    return Gradients(h, traced, layouts, units, tape.uses, tape.shapes)


def _taped(traced: Any, leaves: list[Array], plain: set[int]) -> Tape:
    """Return the products of parameters other than plain ones; the arrays on the tape are abstract."""
    tapes: list[Tape] = []

    def run(leaves: list[Array], index: Int[Array, ""]) -> None:
        tapes.append(Tape(set(plain)))
        inputs = [x if k in plain else View(k, (), (), x) for k, x in enumerate(leaves)]
        (result,) = evaluate(traced, [*inputs, index], tapes[-1])
        tapes[-1].value(result)

    jax.eval_shape(run, leaves, jnp.zeros((), int))
    tapes[-1].uses = [use.abstract() for use in tapes[-1].uses]
    return tapes[-1]
