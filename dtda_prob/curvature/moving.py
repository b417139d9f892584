"""The parameters that training moves: curvature, solves and responses are restricted to them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from dtda_prob.module import Module
from dtda_prob.typing import Params


class Moving(Module):
    """Which parameters move; the others stay where they started.

    Attributes:
        mask: a tree like the parameters, with a boolean or an array of booleans for each array; None
            if all move.
    """

    mask: PyTree | None = None

    def part(self, tree: Params) -> Params:
        """Return the moving part of a tree; arrays in which nothing moves become None."""
        if self.mask is None:
            return tree
        return jax.tree.map(_part, self.mask, tree)

    def whole(self, part: Params, params: Params) -> Params:
        """Return `params` with their moving part replaced."""
        if self.mask is None:
            return part
        return jax.tree.map(_put, self.mask, part, params)


EVERYTHING = Moving()


def moving_of(masks: PyTree) -> Moving:
    """Return which parameters move, from masks in a tree like theirs; see `Kernel.moves`.

    Raises:
        ValueError: if nothing moves.
    """
    leaves, structure = jax.tree.flatten(masks)
    if not any(np.any(mask) for mask in leaves):
        raise ValueError("training moves no parameter, so that nothing responds to the data")
    if all(np.all(mask) for mask in leaves):
        return EVERYTHING
    return Moving(structure.unflatten([_shortened(np.asarray(mask)) for mask in leaves]))


def _shortened(mask: np.ndarray) -> Any:
    return bool(mask.all()) if mask.all() or not mask.any() else mask


def _part(mask: Any, leaf: Any) -> Any:
    if isinstance(mask, bool):
        return leaf if mask else None
    return jnp.where(mask, leaf, 0)


def _put(mask: Any, new: Any, old: Any) -> Any:
    if isinstance(mask, bool):
        return new if mask else old
    return jnp.where(mask, new, old)
