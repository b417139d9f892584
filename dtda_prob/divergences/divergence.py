"""What a divergence is: a functional of two sample sets, and what each draw contributes to it.

Arrays have draws first, `(draw, ...)`, and every other axis is treated alike, broadcasting between
the arms; where outcomes are vectors, the last axis holds the coordinates of one outcome. Draw i of both
arms shares its key where the arms are coupled. All of it runs on the host, in NumPy.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Draws = Float[np.ndarray, "draw ..."]
Value = Float[np.ndarray, "..."]
Statistic = Callable[[Draws, Draws, bool], Value]
Influences = Callable[[Draws, Draws, bool], tuple[Draws, Draws]]
MOST_GROUPS = 32
"""Groups of draws that the jackknife leaves out in turn, at most."""


def identity(value: Value) -> Value:
    """Report the statistic itself."""
    return value


def signed_root(value: Value) -> Value:
    """Report the square root, negative where the statistic is."""
    return np.sign(value) * np.sqrt(np.abs(value))


class Functional(NamedTuple):
    """A functional of two distributions, estimated from draws of both.

    Attributes:
        statistic: `(old, new, coupled) -> value`, over the leading axis, on the scale on which its
            errors are about normal (a squared distance).
        signed: whether it takes both signs, and is zero when nothing moves.
        influences: `(old, new, coupled) -> (old, new)`, the first-order influence of each draw of each
            arm on the statistic: shapes `(draw, ...)`, with mean zero over draws. None leaves it to the
            jackknife.
        report: from the statistic to what is reported (a distance), increasing.
        doubt: `(old, new, coupled) -> value`, what the statistic may be off by beside its noise, where
            it cannot be corrected; added to the error in quadrature.
        square: whether it is about the square of something normal, so that its error grows with it.
    """

    statistic: Statistic
    signed: bool
    influences: Influences | None = None
    report: Callable[[Value], Value] = identity
    doubt: Statistic | None = None
    square: bool = False


class Divergence(NamedTuple):
    """A discrepancy between two sample sets.

    Attributes:
        name: what it is called in results.
        numbers: what it is where outcomes are numbers; None where it is of vectors alone.
        vectors: what it is where outcomes are vectors; None where it is of numbers alone.
    """

    name: str
    numbers: Functional | None = None
    vectors: Functional | None = None

    def of(self, vector: bool) -> Functional:
        """Give the functional of vectors, or of numbers.

        Raises:
            ValueError: if there is none.
        """
        found = self.vectors if vector else self.numbers
        if found is None:
            kinds = ("vectors", "numbers") if vector else ("numbers", "vectors")
            raise ValueError(
                f"divergence {self.name!r} is not defined for {kinds[0]}, which the measure gives for "
                f"each query: measure {kinds[1]}, or choose another divergence"
            )
        return found


class Expansion(NamedTuple):
    """A statistic to first order in the draws: von Mises' expansion about the two sample sets.

    Attributes:
        value: the statistic.
        influences: the influence of each draw (or run, see `of_runs`), for each independent arm: one
            array where arms are coupled, two where they are independent.
        doubt: what the statistic may be off by beside its noise.
    """

    value: Value
    influences: tuple[Draws, ...]
    doubt: Value | float = 0.0

    def of_runs(self, num_states: int) -> "Expansion":
        """Average influences over the states of each run; of R runs, draw i is of run i modulo R."""
        if num_states == 1:
            return self
        runs = (arm.reshape(num_states, -1, *arm.shape[1:]).mean(0) for arm in self.influences)
        return self._replace(influences=tuple(runs))

    def error(self) -> Value:
        """Give the standard error of the statistic."""
        squares = [np.einsum("i...,i...->...", arm, arm) for arm in self.influences]
        sizes = [len(arm) * (len(arm) - 1) for arm in self.influences]
        noise = sum(square / size for square, size in zip(squares, sizes, strict=True))
        return np.sqrt(noise + self.doubt**2)

    def freedom(self) -> Value:
        """Count the degrees of freedom of the error (Satterthwaite, 1946).

        An arm of n draws has 2 n / (kurtosis - 1) of them: n for normal influences, few where the
        estimate hangs on a few draws, as that of a high quantile does. At most n - 1, at least 1.
        """
        parts = [_squares_and_freedom(arm) for arm in self.influences]
        whole = sum(square for square, _ in parts)
        uncertain = sum(square**2 / freedom for square, freedom in parts)
        return np.divide(whole**2, uncertain, out=np.ones_like(whole), where=uncertain > 0)


def _squares_and_freedom(influences: Draws) -> tuple[Value, Value]:
    """Give the squared error that an arm adds, and its degrees of freedom."""
    n, squares = len(influences), np.square(influences)
    second, fourth = squares.mean(0), np.square(squares).mean(0)
    excess = fourth - second**2
    freedom = np.divide(2 * n * second**2, excess, out=np.ones_like(excess), where=excess > 0)
    return second / (n - 1), freedom.clip(1, n - 1)


def expand(functional: Functional, old: Draws, new: Draws, coupled: bool) -> Expansion:
    """Give a statistic with the influence of each draw on it."""
    find = functional.influences or jackknife(functional.statistic)
    by_old, by_new = find(old, new, coupled)
    arms = (by_old + by_new,) if coupled else (by_old, by_new)
    doubt = functional.doubt(old, new, coupled) if functional.doubt else 0.0
    return Expansion(functional.statistic(old, new, coupled), arms, doubt)


def jackknife(statistic: Statistic) -> Influences:
    """Give influences by leaving out groups of draws, of any statistic (Efron and Stein, 1981).

    Where arms are of one length, draw i is left out of both, which is right whether or not they share
    keys, and the old one is given the whole influence.
    """

    def influences(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        if len(old) == len(new):
            both = _leave_out(lambda kept: statistic(old[kept], new[kept], coupled), len(old))
            return both, np.zeros_like(both)
        return (
            _leave_out(lambda kept: statistic(old[kept], new, coupled), len(old)),
            _leave_out(lambda kept: statistic(old, new[kept], coupled), len(new)),
        )

    return influences


def of_function(function: Callable[[Draws, Draws], Any]) -> Divergence:
    """Make a divergence of a function `(old, new) -> value`, taken to be non-negative."""

    def statistic(old: Draws, new: Draws, coupled: bool) -> Value:
        return np.asarray(function(old, new))

    functional = Functional(statistic, signed=False)
    return Divergence(getattr(function, "__name__", "divergence"), functional, functional)


def of_means(told: Callable[[Draws, Draws, bool], tuple[Draws, Draws]]) -> Functional:
    """Make a functional of what each draw tells: the mean over old draws plus that over new ones.

    What a draw tells is its influence, where whatever else the draws decide (an event, a density ratio)
    is decided so well that a small change of it has no first-order effect.
    """

    def statistic(old: Draws, new: Draws, coupled: bool) -> Value:
        by_old, by_new = told(old, new, coupled)
        return by_old.mean(0) + by_new.mean(0)

    def influences(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        by_old, by_new = told(old, new, coupled)
        return centred(by_old), centred(by_new)

    return Functional(statistic, signed=False, influences=influences)


def centred(influences: Draws) -> Draws:
    """Take off the mean over draws."""
    return influences - influences.mean(0)


def halves(num_draws: int, split: int, num_splits: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the places of draws in each half, the first one being shorter if their number is odd.

    Neighbours in the order of draws stay together, so that leaving out a draw moves few others.
    """
    rolled = np.roll(np.arange(num_draws), split * num_draws // (2 * num_splits))
    return rolled[: num_draws // 2], rolled[num_draws // 2 :]


def _leave_out(statistic_of: Callable[[np.ndarray], Value], num_draws: int) -> Draws:
    groups = np.array_split(np.arange(num_draws), min(num_draws, MOST_GROUPS))
    without = np.stack([statistic_of(kept) for kept in _others(groups)])
    influence = (len(groups) - 1) * (without.mean(0) - without)
    share = np.sqrt((num_draws - 1) / (len(groups) - 1))
    return np.repeat(share * influence, [len(group) for group in groups], axis=0)


def _others(groups: list[np.ndarray]) -> Iterator[np.ndarray]:
    everything = np.concatenate(groups)
    return (np.setdiff1d(everything, group) for group in groups)
