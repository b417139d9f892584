"""The gradients of every parameter, example by example, in factors wherever these are smaller."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dtda_prob.curvature import factors, quadratic
from dtda_prob.curvature.factors import Factors, OneHot, Whole, joined
from dtda_prob.curvature.following import evaluate
from dtda_prob.curvature.quadratic import Quadratic
from dtda_prob.curvature.views import Step, Tape, Use, View, arranged

MOST_POSITIONS = 1.0
"""Positions up to which factors are kept, over the largest rank of a gradient; 0 for none."""

Examples = Int[Array, " example"]


class Layout(NamedTuple):
    """How a parameter is laid out as matrices.

    Attributes:
        shape: of the parameter.
        steps: on the way to its first product, in which its rows are summed over; None for one
            matrix whose columns are the last axis of the parameter, and for a vector one column.
        turned: the steps to the products in which its columns are summed over.
    """

    shape: tuple[int, ...]
    steps: tuple[Step, ...] | None = None
    turned: frozenset[tuple[Step, ...]] = frozenset()

    def matrices(self, leaf: Array) -> Float[Array, "matrix row column"]:
        """Return the matrices of a parameter."""
        if self.steps is None:
            return leaf.reshape(1, -1, self.shape[-1] if len(self.shape) > 1 else 1)
        return arranged(leaf, self.steps)

    def parameter(self, matrices: Float[Array, "matrix row column"]) -> Array:
        """Return the parameter of its matrices."""
        if self.steps is None:
            return matrices.reshape(self.shape)
        leaf = jax.ShapeDtypeStruct(self.shape, matrices.dtype)
        return jax.linear_transpose(self.matrices, leaf)(matrices)[0]


@dataclass(frozen=True, eq=False)
class Gradients:
    """Rows of B of each parameter that moves, example by example.

    Attributes:
        h: the matrix.
        traced: its features of an example, of the parameters and the example's position.
        layouts: of each parameter.
        uses: the products of the parameters that are kept as factors.
        added: the shapes of what is added to their results; see `Tape`.
    """

    h: Quadratic
    traced: Any
    layouts: list[Layout]
    uses: list[Use]
    added: list

    def sum(self, function: Callable[[list[Whole | Factors]], Any]) -> Any:
        """Return the sum of `function(gradients)` over blocks of examples."""
        of = jax.vmap(self._of_example)
        size = sum(gradient.size for gradient in jax.eval_shape(of, jnp.zeros(1, int)))
        return self.h.sum_examples(of, function, max(1, quadratic.BLOCK // size))

    def _of_example(self, index: Int[Array, ""]) -> list[Whole | Factors]:
        leaves, factored = jax.tree.leaves(self.h.point), {use.leaf for use in self.uses}
        plain = {k: leaf for k, leaf in enumerate(leaves) if k not in factored}
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.added)

        def features(plain: dict[int, Array], added: list) -> tuple[Array, list[Array]]:
            inputs = [plain.get(k, View(k, (), (), leaf)) for k, leaf in enumerate(leaves)]
            tape = Tape(set(), added)
            (result,) = evaluate(self.traced, [*inputs, index], tape)
            return result, [use.other for use in tape.uses]

        result, pullback, others = jax.vjp(features, plain, zeros, has_aux=True)
        whole, added = jax.vmap(pullback)(jnp.eye(result.size, dtype=result.dtype))
        sides = zip(self.uses, others, jax.tree.leaves(added), strict=True)
        found = [(use.leaf, self._factors(use, *pair)) for use, *pair in sides]
        return [
            joined([each for leaf, each in found if leaf == k])
            if k in factored
            else Whole(jax.vmap(layout.matrices, out_axes=1)(whole[k]))
            for k, layout in enumerate(self.layouts)
        ]

    def _factors(self, use: Use, other: Array, derivative: Array) -> Factors:
        """Return the gradients of an example from what multiplies a parameter, and from derivatives.

        Args:
            use: the product.
            other: what multiplies the parameter.
            derivative: of each feature, shape `(feature, *loops, matrix, position, column)`.
        """
        dtype = jax.tree.leaves(self.h.point)[use.leaf].dtype
        left, right = use.by_position(other[None]), use.by_position(derivative).astype(dtype)
        if use.looks_up:
            left = OneHot(left[..., 0], use.rows)
            several = sum(each.leaf == use.leaf for each in self.uses) > 1
            left = left.formed(dtype) if several or use.rows <= factors.LARGEST_SIDE else left
        else:
            left = left.astype(dtype)
        turned = use.steps in self.layouts[use.leaf].turned
        return Factors(right, left) if turned else Factors(left, right)


def gradients(h: Quadratic) -> Gradients:
    """Follow parameters to the products that they enter in the outputs of an example."""
    leaves, structure = jax.tree.flatten(h.point)

    def features(leaves: list[Array], index: Int[Array, ""]) -> Float[Array, " feature"]:
        return h.output(structure.unflatten(leaves), index)

    traced = jax.make_jaxpr(features)(leaves, jnp.zeros((), int))
    tape = _taped(traced, leaves, set())
    uses = [[use for use in tape.uses if use.leaf == k] for k in range(len(leaves))]
    followed = [[] if k in tape.plain else own for k, own in enumerate(uses)]
    layouts = [_layout(*pair) for pair in zip(leaves, followed, strict=True)]
    tape = _taped(traced, leaves, {k for k, each in enumerate(layouts) if each.steps is None})
    return Gradients(h, traced, layouts, tape.uses, tape.shapes)


def _taped(traced: Any, leaves: list[Array], plain: set[int]) -> Tape:
    """Return the products of parameters other than plain ones; the arrays on the tape are abstract."""
    tapes: list[Tape] = []

    def run(leaves: list[Array], index: Int[Array, ""]) -> None:
        tapes.append(Tape(set(plain)))
        inputs = [x if k in plain else View(k, (), (), x) for k, x in enumerate(leaves)]
        evaluate(traced, [*inputs, index], tapes[-1])

    jax.eval_shape(run, leaves, jnp.zeros((), int))
    tapes[-1].uses = [use.abstract() for use in tapes[-1].uses]
    return tapes[-1]


def _layout(leaf: Array, uses: list[Use]) -> Layout:
    """Return the layout of a parameter by its products, if they agree and its factors are smaller."""
    whole = Layout(leaf.shape)
    smallest = min([MOST_POSITIONS * min(use.rows, use.columns) for use in uses], default=0)
    if sum(use.positions for use in uses) >= smallest:
        return whole
    steps, *others = dict.fromkeys(use.steps for use in uses)
    if not others:
        return Layout(leaf.shape, steps)
    each = {key: _numbered(leaf.shape, key) for key in (steps, *others)}
    numbers = each[steps]
    same = {key for key, own in each.items() if np.array_equal(own, numbers)}
    turned = {key for key, own in each.items() if np.array_equal(own.swapaxes(1, 2), numbers)} - same
    return Layout(leaf.shape, steps, frozenset(turned)) if len(same | turned) == len(each) else whole


def _numbered(shape: tuple[int, ...], steps: tuple[Step, ...]) -> np.ndarray:
    """Return where the numbers of a parameter are after these steps."""
    with jax.ensure_compile_time_eval():
        return np.asarray(arranged(jnp.arange(math.prod(shape)).reshape(shape), steps))
