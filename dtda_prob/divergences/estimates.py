"""Estimates of divergences: values with errors, intervals, null levels and p-values.

Errors come from the first-order expansion of a statistic in the draws (von Mises).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats

from dtda_prob.divergences.divergence import Divergence, Draws, Value
from dtda_prob.divergences.registry import resolve
from dtda_prob.divergences.resampling import one_sided, permutations, upper_level

LEVEL = 0.9
"""Probability that an interval covers, unless another is asked for."""


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


class Estimate(NamedTuple):
    """A divergence estimated from draws.

    Attributes:
        value: the estimate.
        error: its standard error: half the length of the interval of one standard error either way.
        lower: lower end of its interval.
        upper: upper end of its interval.
        null: the level that it stays below 19 times in 20 if nothing moved, from permutations; NaN
            where the divergence is signed or no permutations were asked for.
        p_value: probability of a value as extreme if nothing moved; NaN where it needs permutations
            and none were asked for.
    """

    value: Value
    error: Value
    lower: Value
    upper: Value
    null: Value
    p_value: Value


def estimate(
    divergence: str | Divergence | Callable,
    old: Draws,
    new: Draws,
    *,
    coupled: bool = True,
    vector: bool = False,
    level: float = LEVEL,
    num_permutations: int = 40,
    seed: int = 0,
    num_states: int = 1,
) -> Estimate:
    """Estimate a divergence with its standard error, interval, null level and p-value.

    Errors come from the contribution of each draw, paired over keys where coupled; for a function,
    from the jackknife with at most 32 groups of draws. Intervals are Student's, on the scale on which
    the statistic is about normal (for W_2, its square); where the statistic is a square, they hold the
    values whose own error, not the estimate's, would reach it (Wilson, 1927).

    The null permutes: it swaps old and new inside random pairs where coupled, and shuffles the pooled
    draws where independent. The p-value of a signed divergence is from Student's test, two-sided. Of
    any other it is from a permutation test: each value is standardised by its own permutations, itself
    among them, and compared with all values along the last axis (the examples of a query, say), so that
    few permutations of many examples resolve small probabilities (Storey and Tibshirani, 2003).

    Args:
        divergence: a name from `available`, a `Divergence`, or any function `(old, new) -> value` that
            reduces the leading axis alone.
        old: draws of mu_D.
        new: draws of mu_D', with the other axes alike (or broadcastable).
        coupled: whether draw i of both arms shares its key.
        vector: whether the last axis holds the coordinates of one outcome.
        level: probability that the interval covers.
        num_permutations: permutations for the null, none where the divergence is signed.
        seed: seed of the permutations.
        num_states: draws of each run, where several states of a run are draws: of R runs, draw i is
            of run i modulo R. States of a run are correlated, so that contributions are averaged over a
            run, and runs are permuted whole.

    Raises:
        ValueError: for unknown names, fewer than 3 runs, coupled arms of different length, a level out
            of range, or a divergence that is not defined for scalars (or vectors).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1, both excluded")
    chosen = resolve(divergence).of(vector)
    expansion, permuted = expand_and_permute(
        chosen,
        old,
        new,
        coupled=coupled,
        num_permutations=num_permutations,
        seed=seed,
        num_states=num_states,
    )
    return summarise(chosen, expansion, permuted, level)


def expand(divergence: Divergence, old: Draws, new: Draws, coupled: bool) -> Expansion:
    """Compute the statistic of a divergence with the contribution of each draw."""
    by_old, by_new = divergence.contributions(old, new, coupled)
    arms = (by_old + by_new,) if coupled else (by_old, by_new)
    bound = divergence.bias_bound(old, new, coupled)
    return Expansion(divergence.statistic(old, new, coupled), arms, bound)


def expand_and_permute(
    divergence: Divergence,
    old: Draws,
    new: Draws,
    *,
    coupled: bool,
    num_permutations: int,
    seed: int = 0,
    num_states: int = 1,
) -> tuple[Expansion, Draws]:
    """Compute the statistic with its contributions, and the statistic under permutations.

    Raises:
        ValueError: for fewer than 3 runs, or coupled arms of different length.
    """
    old, new = np.asarray(old), np.asarray(new)
    _check(old, new, coupled, num_states)
    expansion = expand(divergence, old, new, coupled).of_runs(num_states)
    if divergence.signed or not num_permutations:
        return expansion, np.empty((0, *np.shape(expansion.value)))
    arms = permutations(old, new, coupled, num_permutations, num_states, np.random.default_rng(seed))
    return expansion, np.stack([divergence.statistic(*arm, coupled) for arm in arms])


def summarise(divergence: Divergence, expansion: Expansion, permuted: Draws, level: float) -> Estimate:
    """Summarise an expansion, and the statistic under permutations, in an estimate."""
    value, error, freedom = expansion.value, expansion.error(), expansion.freedom()
    reach = scipy.stats.t.ppf((1 + level) / 2, freedom)
    lower, upper = (_of_square if divergence.squared else _either_way)(value, error, reach)
    low, high = divergence.report(value - error), divergence.report(value + error)
    with np.errstate(invalid="ignore"):
        half = (high - low) / 2
    return Estimate(
        divergence.report(value),
        half,
        divergence.report(lower),
        divergence.report(upper),
        divergence.report(upper_level(permuted, value)),
        _two_sided(value, error, freedom) if divergence.signed else one_sided(value, permuted),
    )


def _either_way(value: Value, error: Value, quantile: Value) -> tuple[Value, Value]:
    return value - quantile * error, value + quantile * error


def _of_square(value: Value, error: Value, quantile: Value) -> tuple[Value, Value]:
    """Return the values v whose own error 4 u v + 2 u^2 leaves the estimate within its quantile.

    The estimate is Z^2 - u for a normal Z of variance u, found from error^2 = 4 u Z^2. An interval of
    its own error either way would be empty where it is least, and too short where it is low by chance.
    An estimate below -u/2 is not among these values, since no square has it: the interval then begins
    at the estimate, which adds no value that a square can have.
    """
    noise = (np.hypot(value, error) - value) / 2
    centre = value + 2 * quantile**2 * noise
    inside = 4 * noise * (value + noise) + (4 * quantile**2 - 2) * noise**2
    reach = quantile * np.sqrt(np.maximum(inside, 0.0))
    return np.minimum(centre - reach, value), centre + reach


def _check(old: Draws, new: Draws, coupled: bool, num_states: int) -> None:
    if num_states < 1 or len(old) % num_states or len(new) % num_states:
        raise ValueError(f"num_states={num_states} must divide {len(old)} and {len(new)} draws")
    if min(len(old), len(new)) < 3 * num_states:
        raise ValueError(
            f"at least 3 draws an arm are needed, got {len(old)} and {len(new)}"
            + (f" of {num_states} states a run, which count as one" if num_states > 1 else "")
        )
    if coupled and len(old) != len(new):
        raise ValueError(
            f"coupled arms must have as many draws, got {len(old)} and {len(new)}; "
            "pass coupled=False for independent ones"
        )


def _two_sided(value: Value, error: Value, freedom: Value) -> Value:
    """Return the p-value of Student's test; 1 where nothing moved in any draw."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2 * scipy.stats.t.sf(np.abs(value / error), freedom)
    return np.where((value == 0) & (error == 0), 1.0, p_value)


def _squares_and_freedom(contributions: Draws) -> tuple[Value, Value]:
    """Return the squared error that an arm adds, and its degrees of freedom."""
    n, squares = len(contributions), np.square(contributions)
    second, fourth = squares.mean(0), np.square(squares).mean(0)
    excess = fourth - second**2
    freedom = np.divide(2 * n * second**2, excess, out=np.ones_like(excess), where=excess > 0)
    return second / (n - 1), freedom.clip(1, n - 1)
