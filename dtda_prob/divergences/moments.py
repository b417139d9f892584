"""Divergences by moments: mean, variance, ratio of standard deviations."""

import numpy as np

from dtda_prob.divergences.divergence import (
    Divergence,
    Draws,
    Functional,
    Value,
    centred,
    signed_root,
)


def mean() -> Divergence:
    """Shift of the mean, E_D'[m] - E_D[m].

    For vectors its Euclidean norm, by the unbiased estimate of the squared norm, which is negative
    where the shift is less than noise alone would give.
    """
    return Divergence(
        "mean",
        Functional(_shift, signed=True, influences=_of_shift),
        Functional(_squared_norm, False, _of_squared_norm, signed_root, square=True),
    )


def variance() -> Divergence:
    """Increase of the variance, Var_D'[m] - Var_D[m], unbiased; of the total variance for vectors."""
    return Divergence(
        "variance",
        Functional(_increase, signed=True, influences=_of_increase),
        Functional(_total_increase, signed=True, influences=_of_total_increase),
    )


def log_sd_ratio() -> Divergence:
    """Logarithm of the ratio of standard deviations, log(sd_D'[m] / sd_D[m]).

    For vectors, of the roots of the total variances. Not finite where an arm does not vary.
    """
    return Divergence(
        "log_sd_ratio",
        Functional(_log_ratio, signed=True, influences=_of_log_ratio),
        Functional(_total_log_ratio, signed=True, influences=_of_total_log_ratio),
    )


def _shift(old: Draws, new: Draws, coupled: bool) -> Value:
    return new.mean(0, dtype=float) - old.mean(0, dtype=float)


def _of_shift(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
    return -centred(old.astype(float)), centred(new.astype(float))


def _squared_norm(old: Draws, new: Draws, coupled: bool) -> Value:
    noise = variance_of(old - new) if coupled else variance_of(old)
    floor = noise / len(old) if coupled else noise / len(old) + variance_of(new) / len(new)
    return (_shift(old, new, coupled) ** 2 - floor).sum(-1)


def _of_squared_norm(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
    along = 2 * _shift(old, new, coupled)
    by_old, by_new = _of_shift(old, new, coupled)
    return (along * by_old).sum(-1), (along * by_new).sum(-1)


def _increase(old: Draws, new: Draws, coupled: bool) -> Value:
    return variance_of(new) - variance_of(old)


def _of_increase(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
    return -_left_out(variances_without(old)), _left_out(variances_without(new))


def _total_increase(old: Draws, new: Draws, coupled: bool) -> Value:
    return _increase(old, new, coupled).sum(-1)


def _of_total_increase(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
    by_old, by_new = _of_increase(old, new, coupled)
    return by_old.sum(-1), by_new.sum(-1)


def _log_ratio(old: Draws, new: Draws, coupled: bool) -> Value:
    return _half_log(variance_of(new)) - _half_log(variance_of(old))


def _of_log_ratio(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
    by_old, by_new = (_left_out(_half_log(variances_without(arm))) for arm in (old, new))
    return -by_old, by_new


def _total_log_ratio(old: Draws, new: Draws, coupled: bool) -> Value:
    return _half_log(variance_of(new).sum(-1)) - _half_log(variance_of(old).sum(-1))


def _of_total_log_ratio(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
    by_old, by_new = (_left_out(_half_log(variances_without(arm).sum(-1))) for arm in (old, new))
    return -by_old, by_new


def variance_of(draws: Draws) -> Value:
    """Estimate the variance without bias."""
    return draws.var(0, ddof=1, dtype=float)


def variances_without(draws: Draws) -> Draws:
    """Estimate the variance with each draw left out in turn."""
    n, squares = len(draws), centred(draws.astype(float)) ** 2
    return (squares.sum(0) - n / (n - 1) * squares) / (n - 2)


def _left_out(without: Draws) -> Draws:
    """Give the jackknife's influence of each draw from the values without it."""
    return -(len(without) - 1) * centred(without)


def _half_log(variance: Value) -> Value:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(variance) / 2
