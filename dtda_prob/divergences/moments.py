"""Divergences of moments: mean, variance, ratio of standard deviations."""

import numpy as np

from dtda_prob.divergences.divergence import (
    Divergence,
    Draws,
    Value,
    VectorDivergence,
    centred,
    signed_root,
)


class mean(Divergence):
    """Shift of the mean, E_D'[m] - E_D[m]; of vectors, its Euclidean norm.

    The norm is the root of an unbiased estimate of its square, which is negative where the shift is
    less than noise alone would give.
    """

    signed = True
    quantity = "the {measure}"

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return _shift(old, new)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return -centred(old.astype(float)), centred(new.astype(float))

    def vector(self) -> Divergence:
        return _norm_of_shift()


class _norm_of_shift(Divergence):
    squared = True

    @property
    def name(self) -> str:
        return "mean"

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        noise = variance_of(old - new) if coupled else variance_of(old)
        floor = noise / len(old) if coupled else noise / len(old) + variance_of(new) / len(new)
        return (_shift(old, new) ** 2 - floor).sum(-1)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        along = 2 * _shift(old, new)
        by_old, by_new = mean().contributions(old, new, coupled)
        return (along * by_old).sum(-1), (along * by_new).sum(-1)

    def report(self, value: Value) -> Value:
        return signed_root(value)


class variance(VectorDivergence):
    """Increase of the variance, Var_D'[m] - Var_D[m], unbiased; of the total variance for vectors."""

    signed = True
    verbs = ("widens", "narrows")
    quantity = "the distribution of the {measure}"
    unit = "{unit}²"

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return (variance_of(new) - variance_of(old)).sum(-1)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        by_old, by_new = (_left_out(variances_without(arm)).sum(-1) for arm in (old, new))
        return -by_old, by_new


class log_sd_ratio(VectorDivergence):
    """Logarithm of the ratio of standard deviations, log(sd_D'[m] / sd_D[m]).

    For vectors, of the roots of the total variances. Not finite where an arm does not vary.
    """

    signed = True
    verbs = ("widens", "narrows")
    quantity = "the distribution of the {measure}"
    unit = ""

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        return _half_log(variance_of(new).sum(-1)) - _half_log(variance_of(old).sum(-1))

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        by_old, by_new = (_left_out(_half_log(variances_without(arm).sum(-1))) for arm in (old, new))
        return -by_old, by_new


def variance_of(draws: Draws) -> Value:
    """Estimate the variance without bias."""
    return draws.var(0, ddof=1, dtype=float)


def variances_without(draws: Draws) -> Draws:
    """Estimate the variance with each draw left out in turn."""
    n, squares = len(draws), centred(draws.astype(float)) ** 2
    return (squares.sum(0) - n / (n - 1) * squares) / (n - 2)


def _shift(old: Draws, new: Draws) -> Value:
    return new.mean(0, dtype=float) - old.mean(0, dtype=float)


def _left_out(without: Draws) -> Draws:
    """Return the jackknife's contribution of each draw from the values without it."""
    return -(len(without) - 1) * centred(without)


def _half_log(variance: Value) -> Value:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(variance) / 2
