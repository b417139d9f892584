"""Estimates of divergences: values with errors, intervals, null levels and p-values."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.stats

from dtda_prob.divergences.discrepancy import energy, mmd
from dtda_prob.divergences.divergence import (
    Divergence,
    Draws,
    Expansion,
    Functional,
    Value,
    expand,
    of_function,
)
from dtda_prob.divergences.entropic_transport import sinkhorn
from dtda_prob.divergences.information import jensen_shannon, kullback_leibler
from dtda_prob.divergences.likelihood_ratio import trade_off
from dtda_prob.divergences.moments import log_sd_ratio, mean, variance
from dtda_prob.divergences.quantiles import quantile
from dtda_prob.divergences.suprema import kolmogorov_smirnov, total_variation
from dtda_prob.divergences.transport import sliced_wasserstein, wasserstein
from dtda_prob.divergences.uncertainty import (
    expected_entropy,
    mutual_information,
    predictive_entropy,
)

LEVEL = 0.9
"""Probability that an interval covers, unless another is asked for."""

available = {
    divergence.name: divergence
    for divergence in (
        mean(),
        variance(),
        log_sd_ratio(),
        quantile(),
        wasserstein(order=1),
        wasserstein(),
        sliced_wasserstein(),
        sinkhorn(),
        energy(),
        mmd(),
        kullback_leibler(),
        jensen_shannon(),
        total_variation(),
        kolmogorov_smirnov(),
        trade_off(),
        predictive_entropy(),
        expected_entropy(),
        mutual_information(),
    )
}
"""The divergences known by name; `wasserstein` is W_2."""


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

    Errors come from the influence of each draw, paired over keys where coupled; of functions that are
    given, by the jackknife with at most 32 groups of draws. Intervals are Student's, on the scale on
    which the statistic is about normal (for W_2, that of its square); where the statistic is a square,
    they hold the values whose own error, not the estimate's, would reach it (Wilson, 1927).

    The null permutes: it swaps old and new inside random pairs where coupled, and shuffles the pooled
    draws where independent. The p-value of a signed divergence is that of Student's test, two-sided. Of
    any other it is a permutation test: each value is standardised by its own permutations, itself among
    them, and compared with those of all along the last axis (the data of a query, say), so that few
    permutations of many data resolve small probabilities (Storey and Tibshirani, 2003, pool so).

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
            of run i modulo R. States of a run are correlated, so that influences are averaged over a
            run, and runs are permuted whole.

    Raises:
        ValueError: for unknown names, fewer than 3 runs, coupled arms of different length, a level out
            of range, or a divergence that is not defined for numbers (or vectors).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1, both excluded")
    functional = resolve(divergence).of(vector)
    expansion, permuted = expand_and_permute(
        functional,
        old,
        new,
        coupled=coupled,
        num_permutations=num_permutations,
        seed=seed,
        num_states=num_states,
    )
    return summarise(functional, expansion, permuted, level)


def expand_and_permute(
    functional: Functional,
    old: Draws,
    new: Draws,
    *,
    coupled: bool,
    num_permutations: int,
    seed: int = 0,
    num_states: int = 1,
) -> tuple[Expansion, Draws]:
    """Give all that an estimate is made of: the statistic with its influences, and permuted.

    Raises:
        ValueError: for fewer than 3 runs, or coupled arms of different length.
    """
    old, new = np.asarray(old), np.asarray(new)
    _check(old, new, coupled, num_states)
    expansion = expand(functional, old, new, coupled).of_runs(num_states)
    if functional.signed or not num_permutations:
        return expansion, np.empty((0, *np.shape(expansion.value)))
    arms = _permutations(old, new, coupled, num_permutations, num_states, np.random.default_rng(seed))
    return expansion, np.stack([functional.statistic(*arm, coupled) for arm in arms])


def summarise(functional: Functional, expansion: Expansion, permuted: Draws, level: float) -> Estimate:
    """Turn an expansion, and the statistic under permutations, into an estimate."""
    value, error, freedom = expansion.value, expansion.error(), expansion.freedom()
    quantile = scipy.stats.t.ppf((1 + level) / 2, freedom)
    lower, upper = (_of_square if functional.square else _either_way)(value, error, quantile)
    low, high = functional.report(value - error), functional.report(value + error)
    with np.errstate(invalid="ignore"):
        half = (high - low) / 2
    return Estimate(
        functional.report(value),
        half,
        functional.report(lower),
        functional.report(upper),
        functional.report(_upper(permuted, value)),
        _two_sided(value, error, freedom) if functional.signed else _one_sided(value, permuted),
    )


def _either_way(value: Value, error: Value, quantile: Value) -> tuple[Value, Value]:
    return value - quantile * error, value + quantile * error


def _of_square(value: Value, error: Value, quantile: Value) -> tuple[Value, Value]:
    """Give the values v whose own error 4 u v + 2 u^2 leaves the estimate within its quantile.

    The estimate is Z^2 - u for a normal Z of variance u, found from error^2 = 4 u Z^2. An interval of
    its own error either way would be empty where it is least, and too short where it is low by chance.
    """
    noise = (np.hypot(value, error) - value) / 2
    centre = value + 2 * quantile**2 * noise
    reach = quantile * np.sqrt(4 * noise * (value + noise) + (4 * quantile**2 - 2) * noise**2)
    return centre - reach, centre + reach


def resolve(divergence: str | Divergence | Callable) -> Divergence:
    """Give a divergence by name, or make one of a function `(old, new) -> value`.

    The function gets draws first and reduces that axis alone. Its values are taken to be
    non-negative, so that they get a null level.

    Raises:
        ValueError: for unknown names.
    """
    if isinstance(divergence, Divergence):
        return divergence
    if isinstance(divergence, str):
        if divergence not in available:
            raise ValueError(f"divergence={divergence!r} must be a function or among {[*available]}")
        return available[divergence]
    return of_function(divergence)


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


def _permutations(
    old: Draws, new: Draws, coupled: bool, number: int, num_states: int, rng: np.random.Generator
) -> Iterator[tuple[Draws, Draws]]:
    """Swap, or shuffle, whole runs."""
    old, new = np.broadcast_arrays(old, new) if coupled else _alike(old, new)
    num_old, num_new = len(old) // num_states, len(new) // num_states
    for _ in range(number):
        if coupled:
            swap = np.tile(rng.random(num_old) < 0.5, num_states)
            swap = swap.reshape(-1, *(1,) * (old.ndim - 1))
            yield np.where(swap, new, old), np.where(swap, old, new)
        else:
            order = rng.permutation(num_old + num_new)
            runs = np.concatenate([_in_runs(old, num_old), _in_runs(new, num_new)], axis=1)[:, order]
            yield _in_draws(runs[:, :num_old]), _in_draws(runs[:, num_old:])


def _in_runs(draws: Draws, num_runs: int) -> Draws:
    return draws.reshape(-1, num_runs, *draws.shape[1:])


def _in_draws(runs: Draws) -> Draws:
    return runs.reshape(-1, *runs.shape[2:])


def _alike(old: Draws, new: Draws) -> tuple[Draws, Draws]:
    shape = np.broadcast_shapes(old.shape[1:], new.shape[1:])
    return np.broadcast_to(old, (len(old), *shape)), np.broadcast_to(new, (len(new), *shape))


def _upper(permuted: Draws, value: Value) -> Value:
    return np.quantile(permuted, 0.95, axis=0) if len(permuted) else np.full(np.shape(value), np.nan)


def _two_sided(value: Value, error: Value, freedom: Value) -> Value:
    """Give the p-value of Student's test; 1 where nothing moved in any draw."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2 * scipy.stats.t.sf(np.abs(value / error), freedom)
    return np.where((value == 0) & (error == 0), 1.0, p_value)


def _one_sided(value: Value, permuted: Draws) -> Value:
    """Compare each standardised value with those of all permutations along the last axis."""
    if not len(permuted):
        return np.full(np.shape(value), np.nan)
    everything = np.concatenate([np.asarray(value)[None], permuted])
    spread = everything.std(0)
    deviations = everything - everything.mean(0)
    standard = np.divide(deviations, spread, out=np.zeros_like(deviations), where=spread != 0)
    return _share_above(standard[0], _pooled(standard[1:]))


def _pooled(permuted: Draws) -> Draws:
    """Lay permutations out as `(..., number)`, those of the last axis together."""
    if permuted.ndim == 1:
        return np.sort(permuted)
    return np.sort(np.moveaxis(permuted, 0, -2).reshape(*permuted.shape[1:-1], -1), axis=-1)


def _share_above(found: Value, reference: Draws) -> Value:
    """Give the share of each sorted row that is not below, of what is finite."""
    rows = reference.reshape(-1, reference.shape[-1])
    values = found.reshape(len(rows), -1)
    known = np.isfinite(rows).sum(-1)[:, None]
    below = [np.searchsorted(row, value) for row, value in zip(rows, values, strict=True)]
    shares = (1 + known - np.stack(below)) / (1 + known)
    return np.where(np.isnan(found), np.nan, shares.reshape(found.shape))
