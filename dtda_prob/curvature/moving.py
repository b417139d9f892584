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
        mask: a tree like the parameters, of booleans for whole arrays or of arrays of booleans; None
            where all move.
    """

    mask: PyTree | None = None

    def part(self, tree: Params) -> Params:
        """Return what moves of a tree like the parameters: None for an array of which nothing moves."""
        if self.mask is None:
            return tree
        return jax.tree.map(_part, self.mask, tree)

    def whole(self, part: Params, params: Params) -> Params:
        """Return `params` with this in place of what moves of them."""
        if self.mask is None:
            return part
        return jax.tree.map(_put, self.mask, part, params)


EVERYTHING = Moving()


def _part(mask: Any, leaf: Any) -> Any:
    if not np.any(mask):
        return None
    return leaf if np.all(mask) else jnp.where(mask, leaf, 0)


def _put(mask: Any, new: Any, old: Any) -> Any:
    if not np.any(mask):
        return old
    return new if np.all(mask) else jnp.where(mask, new, old)
