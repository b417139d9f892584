"""The Wasserstein distance W_2 of vectors, by optimal assignment between halves of the draws."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from dtda_prob.divergences.divergence import Draws, Functional, Value, halves

Array = np.ndarray
NUM_SPLITS = 4
"""Splits of the draws into halves that are averaged over."""


def squared_distance_of_vectors() -> Functional:
    """Half of W(old_A, new_B) + W(new_A, old_B) - W(old_A, old_B) - W(new_A, new_B), A and B halves.

    W is the mean squared distance of optimally assigned draws. Errors are the jackknife's, which are
    somewhat long: who is assigned to whom changes with each draw, and so do the dual potentials.
    """
    return Functional(_over_sets, signed=False, square=True)


def _over_sets(old: Draws, new: Draws, coupled: bool) -> Value:
    """Give the squared distance of every pair of `(draw, coordinate)` sets."""
    shape = np.broadcast_shapes(old.shape[1:-1], new.shape[1:-1])
    old, new = (np.broadcast_to(arm, (len(arm), *shape, arm.shape[-1])) for arm in (old, new))
    return np.array([_split(old[:, *i], new[:, *i]) for i in np.ndindex(shape)]).reshape(shape)


def _split(old: Float[Array, "draw coordinate"], new: Float[Array, "draw coordinate"]) -> float:
    """Average over splits; each leaves out one of an odd number of draws."""
    if len(old) != len(new):
        raise ValueError(
            f"wasserstein of vectors needs as many draws an arm, got {len(old)} and {len(new)}; "
            "use energy or sliced_wasserstein for arms of different length"
        )
    everything, n, total = np.concatenate([old, new]), len(old), 0.0
    costs = cdist(everything, everything) ** 2
    for split in range(NUM_SPLITS):
        a, b = halves(n, split, NUM_SPLITS)
        b = b[: len(a)]
        total += _assigned(costs, a, b + n) + _assigned(costs, a + n, b)
        total -= _assigned(costs, a, b) + _assigned(costs, a + n, b + n)
    return total / (2 * NUM_SPLITS)


def _assigned(costs: Float[Array, "draw draw"], first: Array, second: Array) -> float:
    """Give the mean cost of the optimal assignment."""
    chosen = costs[np.ix_(first, second)]
    return chosen[linear_sum_assignment(chosen)].mean()
