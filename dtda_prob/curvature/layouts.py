"""How parameters are laid out as matrices: by the products that they enter, with their biases."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dtda_prob.curvature.views import Step, Tape, Use, arranged

MOST_POSITIONS = 1.0
"""Positions up to which factors are kept, over the largest rank of a gradient; 0 for none."""

Leaves = Sequence[Array] | Mapping[int, Array]
"""Parameters by position."""


class Part(NamedTuple):
    """How a parameter is laid out as matrices.

    Attributes:
        leaf: its position among the parameters.
        shape: of the parameter.
        steps: on its way to its first product, or to the result of one that it is added to; None for
            one matrix whose columns are the last axis of the parameter, and for a vector one column.
    """

    leaf: int
    shape: tuple[int, ...]
    steps: tuple[Step, ...] | None = None

    def matrices(self, leaf: Array) -> Float[Array, "matrix row column"]:
        """Return the matrices of the parameter."""
        if self.steps is None:
            return leaf.reshape(1, -1, self.shape[-1] if len(self.shape) > 1 else 1)
        return arranged(leaf, self.steps)

    def parameter(self, matrices: Float[Array, "matrix row column"]) -> Array:
        """Return the parameter of its matrices."""
        if self.steps is None:
            return matrices.reshape(self.shape)
        leaf = jax.ShapeDtypeStruct(self.shape, matrices.dtype)
        return jax.linear_transpose(self.matrices, leaf)(matrices)[0]


class Layout(NamedTuple):
    """How a parameter is laid out as matrices, in whose products their rows are summed over.

    Attributes:
        own: the parameter itself.
        bias: what is added to its products: one row more of each matrix.
        turned: the steps to the products in which columns are summed over.
    """

    own: Part
    bias: Part | None = None
    turned: frozenset[tuple[Step, ...]] = frozenset()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parameters that it holds."""
        return (self.own,) if self.bias is None else (self.own, self.bias)

    def matrices(self, leaves: Leaves) -> Float[Array, "matrix row column"]:
        """Return the matrices, given all parameters."""
        return jnp.concatenate([part.matrices(leaves[part.leaf]) for part in self.parts], axis=1)

    def parameters(self, matrices: Float[Array, "matrix row column"]) -> dict[int, Array]:
        """Return the parameters of matrices, by position."""
        if self.bias is None:
            return {self.own.leaf: self.own.parameter(matrices)}
        pairs = zip(self.parts, (matrices[:, :-1], matrices[:, -1:]), strict=True)
        return {part.leaf: part.parameter(each) for part, each in pairs}


def layouts_of(leaves: Sequence[Array], tape: Tape) -> list[Layout]:
    """Return the layouts of parameters that have been followed to their products."""
    alone = [_layout(k, leaf, _uses(k, tape)) for k, leaf in enumerate(leaves)]
    found = [layout._replace(bias=_bias(layout, leaves, tape)) for layout in alone]
    taken = {layout.bias.leaf for layout in found if layout.bias is not None}
    return [layout for layout in found if layout.own.leaf not in taken]


def is_factored(layout: Layout, tape: Tape) -> bool:
    """Return whether the factors of gradients are smaller than gradients."""
    uses = _uses(layout.own.leaf, tape)
    smallest = min([MOST_POSITIONS * min(use.rows, use.columns) for use in uses], default=0)
    return layout.own.steps is not None and sum(use.positions for use in uses) < smallest


def _uses(leaf: int, tape: Tape) -> list[Use]:
    """Return the products of a parameter, none if it enters anything else."""
    return [] if leaf in tape.plain else [use for use in tape.uses if use.leaf == leaf]


def _layout(k: int, leaf: Array, uses: list[Use]) -> Layout:
    """Return the layout of a parameter by its products, if they agree."""
    whole = Layout(Part(k, leaf.shape))
    if not uses:
        return whole
    steps, *others = dict.fromkeys(use.steps for use in uses)
    own = Layout(Part(k, leaf.shape, steps))
    if not others:
        return own
    each = {key: _numbered(leaf.shape, key) for key in (steps, *others)}
    numbers = each[steps]
    same = {key for key, own in each.items() if np.array_equal(own, numbers)}
    turned = {key for key, own in each.items() if np.array_equal(own.swapaxes(1, 2), numbers)} - same
    agree = len(same | turned) == len(each)
    return own._replace(turned=frozenset(turned)) if agree else whole


def _bias(layout: Layout, leaves: Sequence[Array], tape: Tape) -> Part | None:
    """Return what is added to every product of a parameter, if neither enters anything else."""
    own = [number for number, use in enumerate(tape.uses) if use.leaf == layout.own.leaf]
    is_simple = layout.own.steps is not None and not layout.turned
    if not is_simple or any(tape.uses[number].looks_up or number in tape.spread for number in own):
        return None
    added = [(view.leaf, view.steps) for number, view in tape.biases if number in own]
    if len(added) != len(own) or len(set(added)) > 1:
        return None
    leaf, steps = added[0]
    once = sum(view.leaf == leaf for _, view in tape.biases) == len(own)
    used = leaf in tape.plain or any(use.leaf == leaf for use in tape.uses)
    return Part(leaf, leaves[leaf].shape, steps) if once and not used else None


def _numbered(shape: tuple[int, ...], steps: tuple[Step, ...]) -> np.ndarray:
    """Return where the numbers of a parameter are after these steps."""
    with jax.ensure_compile_time_eval():
        return np.asarray(arranged(jnp.arange(math.prod(shape)).reshape(shape), steps))
