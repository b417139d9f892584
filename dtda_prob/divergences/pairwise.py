"""Distances between all draws of two sample sets, a few pairs of sets at a time."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dtda_prob.divergences.divergence import Draws

BLOCK = 2**23
"""Distances held in memory at once."""


class Distances(NamedTuple):
    """Euclidean distances between the draws of two arms, for several pairs of sets.

    Attributes:
        old: between draws of the old arm; the leading axis is 1 where all pairs share it.
        new: between draws of the new arm.
        between: from old draws to new ones.
        coupled: whether draw i of both arms shares its key, so that the diagonal of `between` holds
            distances of draws that are not independent.
    """

    old: Float[np.ndarray, "pair old old"]
    new: Float[np.ndarray, "pair new new"]
    between: Float[np.ndarray, "pair old new"]
    coupled: bool


def over_pairs(
    function: Callable[[Distances], tuple[np.ndarray, ...]],
    old: Draws,
    new: Draws,
    coupled: bool,
) -> tuple[np.ndarray, ...]:
    """Apply a function of distances to every pair of sets, block by block.

    Args:
        function: returns arrays with a leading `pair`; further axes (draws) are moved to the front.
        old: draws of the old arm, vectors.
        new: draws of the new arm, vectors.
        coupled: whether draws share keys.
    """
    shape = np.broadcast_shapes(old.shape[1:-1], new.shape[1:-1])
    parts = [function(block) for block in _blocks(old, new, shape, coupled)]
    return tuple(
        np.moveaxis(np.concatenate(part), 0, -1).reshape((*part[0].shape[1:], *shape))
        for part in zip(*parts, strict=True)
    )


def means(
    matrices: Float[np.ndarray, "pair first second"], without_own: bool, axis: int
) -> Float[np.ndarray, "pair draw"]:
    """Average over one side of each matrix, without the diagonal if asked."""
    total, count = matrices.sum(axis, dtype=float), matrices.shape[axis]
    if not without_own:
        return total / count
    return (total - np.diagonal(matrices, axis1=1, axis2=2)) / (count - 1)


def _blocks(old: Draws, new: Draws, shape: tuple[int, ...], coupled: bool) -> Iterator[Distances]:
    """Yield blocks of the last axis, so that pairs of a block share what they have in common."""
    rows = shape[-1] if shape else 1
    old, new = (_rows(arm, shape) for arm in (old, new))
    step = max(1, BLOCK // (max(len(old), len(new)) ** 2 * old.shape[-1]))
    for row in range(new.shape[1]):
        for first in range(0, rows, step):
            some = slice(first, first + step)
            yield _distances(_some(old[:, row], some), _some(new[:, row], some), coupled)


def _rows(arm: Draws, shape: tuple[int, ...]) -> Float[np.ndarray, "draw row last coordinate"]:
    """Flatten all axes before the last two."""
    own = arm.reshape(len(arm), *(1,) * (not shape), *arm.shape[1:])
    whole = np.broadcast_to(own, (len(arm), *shape[:-1], *own.shape[-2:]))
    return whole.reshape(len(arm), -1, *own.shape[-2:])


def _some(
    row: Float[np.ndarray, "draw last coordinate"], some: slice
) -> Float[np.ndarray, "pair draw coordinate"]:
    chosen = row if row.shape[1] == 1 else row[:, some]
    return np.ascontiguousarray(np.moveaxis(chosen, 1, 0))


def _distances(
    old: Float[np.ndarray, "pair old coordinate"],
    new: Float[np.ndarray, "pair new coordinate"],
    coupled: bool,
) -> Distances:
    return Distances(_between(old, old), _between(new, new), _between(old, new), coupled)


def _between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    gaps = first[:, :, None] - second[:, None]
    return np.abs(gaps[..., 0]) if gaps.shape[-1] == 1 else np.linalg.norm(gaps, axis=-1)
