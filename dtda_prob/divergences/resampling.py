"""Parts of the draws: the jackknife, and splits into halves."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Array = np.ndarray
MOST_GROUPS = 32
"""Largest number of groups of draws that the jackknife leaves out in turn."""


def leave_out(statistic_of: Callable[[Array], Array], num_draws: int) -> Float[Array, "draw ..."]:
    """Return the jackknife's contribution of each draw to a statistic (Efron and Stein, 1981).

    Args:
        statistic_of: from the positions of the draws that are kept to the statistic.
        num_draws: number of draws; they are left out in at most `MOST_GROUPS` groups.
    """
    everything = np.arange(num_draws)
    groups = np.array_split(everything, min(num_draws, MOST_GROUPS))
    without = np.stack([statistic_of(np.setdiff1d(everything, group)) for group in groups])
    contribution = (len(groups) - 1) * (without.mean(0) - without)
    share = np.sqrt((num_draws - 1) / (len(groups) - 1))
    return np.repeat(share * contribution, [len(group) for group in groups], axis=0)


def halves(num_draws: int, split: int, num_splits: int) -> tuple[Array, Array]:
    """Return the positions of the draws in each half; the first is shorter if their number is odd.

    Draws that follow each other stay together, so that leaving one out moves few others.
    """
    rolled = np.roll(np.arange(num_draws), split * num_draws // (2 * num_splits))
    return rolled[: num_draws // 2], rolled[num_draws // 2 :]
