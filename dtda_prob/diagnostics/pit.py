"""Ranks of one arm's draws among the other's, whose distribution is exact where both arms are alike."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Cells = Float[np.ndarray, "draw cell"]
Counts = Int[np.ndarray, "observed cell"]


class Ranks(NamedTuple):
    """Where each observed draw falls among n predicted ones, cell by cell.

    Attributes:
        below: number of predicted draws that are smaller.
        tied: number of predicted draws that are equal.
    """

    below: Counts
    tied: Counts


def rank(predicted: Cells, observed: Cells) -> Ranks:
    """Rank each observed draw among the predicted ones."""
    ordered = np.sort(predicted, axis=0)
    columns = range(observed.shape[1])
    below, at_most = (
        np.stack([np.searchsorted(ordered[:, c], observed[:, c], side) for c in columns], axis=1)
        for side in ("left", "right")
    )
    return Ranks(below, at_most - below)


def share_within(ranks: Ranks, num_predicted: int, low: float, high: float) -> Float[np.ndarray, "..."]:
    """Compute the probability that the PIT value of each draw lies between two levels.

    The PIT value of a draw with r of n predicted draws below it and t equal to it is uniform between
    r / (n + 1) and (r + t + 1) / (n + 1).
    """
    start, width = ranks.below / (num_predicted + 1), (ranks.tied + 1) / (num_predicted + 1)
    inside = np.minimum(start + width, high) - np.maximum(start, low)
    return np.clip(inside / width, 0.0, 1.0)


def differences(
    predicted: Cells, observed: Cells, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "place cell"], Iterator[Float[np.ndarray, "place cell"]]]:
    """Compute the ECDF of PIT values minus the uniform's at k / (n + 1), with an endless null sample.

    If both arms are independent draws of one distribution, their labels are exchangeable: each null
    permutes them, in the same way for all cells, since cells share the seeds of their draws. Ties are
    broken at random.
    """
    pooled = np.concatenate([predicted, observed])
    order = np.lexsort((rng.random(pooled.shape), pooled), axis=0)
    is_predicted = np.arange(len(pooled)) < len(predicted)

    def nulls() -> Iterator[Float[np.ndarray, "place cell"]]:
        while True:
            yield _difference(rng.permutation(is_predicted)[order])

    return _difference(is_predicted[order]), nulls()


def spread_of_null(num_predicted: int, num_observed: int) -> Float[np.ndarray, " place"]:
    """Compute the standard deviation of these differences under the null.

    The number of observed draws below the k-th of n predicted ones is beta-binomial with parameters k
    and n + 1 - k.
    """
    share = np.arange(1, num_predicted + 1) / (num_predicted + 1)
    excess = (num_predicted + num_observed + 1) / (num_predicted + 2)
    return np.sqrt(share * (1 - share) * excess / num_observed)


def _difference(is_predicted: Bool[np.ndarray, "draw cell"]) -> Float[np.ndarray, "place cell"]:
    """Evaluate the ECDF of the observed at each predicted draw, where it is known exactly."""
    num_draws, num_cells = is_predicted.shape
    position = np.nonzero(is_predicted.T)[1]
    places = position.reshape(num_cells, -1).T
    num_predicted = len(places)
    index = np.arange(num_predicted)[:, None]
    uniform = (index + 1) / (num_predicted + 1)
    return (places - index) / (num_draws - num_predicted) - uniform
