"""First-order expansion of a statistic in the draws: its standard error and degrees of freedom."""

from typing import NamedTuple

import numpy as np

from dtda_prob.divergences.divergence import Divergence, Draws, Value


class Expansion(NamedTuple):
    """A statistic to first order in the draws: von Mises' expansion about the two sample sets.

    Attributes:
        value: the statistic.
        contributions: the contribution of each draw (or chain, see `of_runs`), for each independent
            arm: one array where arms are coupled, two where they are independent.
        bias_bound: bound of the bias that is not corrected.
    """

    value: Value
    contributions: tuple[Draws, ...]
    bias_bound: Value | float = 0.0

    def of_runs(self, num_states: int) -> "Expansion":
        """Average contributions over the states of each run; of R runs, draw i is of run i modulo R."""
        if num_states == 1:
            return self
        runs = (arm.reshape(num_states, -1, *arm.shape[1:]).mean(0) for arm in self.contributions)
        return self._replace(contributions=tuple(runs))

    def error(self) -> Value:
        """Compute the standard error of the statistic."""
        squares = [np.einsum("i...,i...->...", arm, arm) for arm in self.contributions]
        sizes = [len(arm) * (len(arm) - 1) for arm in self.contributions]
        noise = sum(square / size for square, size in zip(squares, sizes, strict=True))
        return np.sqrt(noise + self.bias_bound**2)

    def freedom(self) -> Value:
        """Compute the degrees of freedom of the error (Satterthwaite, 1946).

        An arm of n draws has 2 n / (kurtosis - 1): n for normal contributions, few where the estimate
        depends on few draws, as a high quantile does. At most n - 1, at least 1.
        """
        parts = [_squares_and_freedom(arm) for arm in self.contributions]
        whole = sum(square for square, _ in parts)
        uncertain = sum(square**2 / freedom for square, freedom in parts)
        return np.divide(whole**2, uncertain, out=np.ones_like(whole), where=uncertain > 0)


def expand(divergence: Divergence, old: Draws, new: Draws, coupled: bool) -> Expansion:
    """Compute the statistic of a divergence with the contribution of each draw."""
    by_old, by_new = divergence.contributions(old, new, coupled)
    arms = (by_old + by_new,) if coupled else (by_old, by_new)
    bound = divergence.bias_bound(old, new, coupled)
    return Expansion(divergence.statistic(old, new, coupled), arms, bound)


def _squares_and_freedom(contributions: Draws) -> tuple[Value, Value]:
    """Return the squared error that an arm adds, and its degrees of freedom."""
    n, squares = len(contributions), np.square(contributions)
    second, fourth = squares.mean(0), np.square(squares).mean(0)
    excess = fourth - second**2
    freedom = np.divide(2 * n * second**2, excess, out=np.ones_like(excess), where=excess > 0)
    return second / (n - 1), freedom.clip(1, n - 1)
