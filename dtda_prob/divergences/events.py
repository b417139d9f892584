"""How well one draw tells which distribution it is of: events and tests that the draws choose.

The largest difference of empirical probabilities is far from zero when nothing moves. Total variation
and the Kolmogorov-Smirnov distance choose the event by fitted normals, without the draw that is then
evaluated, so that the estimate is centred on zero when nothing moves (and can fall below it). It is
slightly low otherwise, as the event chosen is not quite the best; an event that is chosen with the draw
makes it about as much too high, so that half of their difference is part of the error.

A test of "this draw is of mu_D" against "it is of mu_D'" that rejects where the likelihood ratio p/q is
small has the least error of the second kind at its error of the first kind (Neyman and Pearson, 1933).
For N(0, 1) against N(mu, 1) the trade-off of both errors is the yardstick of Gaussian differential
privacy (Dong, Roth and Su, 2022). The ratio is of normals fitted to three quarters of the draws of each
arm, and the test is tried on the rest, so that its errors are the errors of a test that could be made.
"""

import abc
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, ndtri

from dtda_prob.divergences.divergence import Draws, SumOfMeans, Value, VectorDivergence, centred
from dtda_prob.divergences.moments import variance_of, variances_without
from dtda_prob.divergences.normals import Residuals, fit, log_density, log_ratios, rows

Array = np.ndarray
NUM_FOLDS = 4
"""Parts of the draws that the test is tried on, in turn."""


class _Supremum(SumOfMeans):
    """The difference of the probabilities of an event that the draws choose."""

    unit = ""

    @abc.abstractmethod
    def event(self, old: Draws, new: Draws, coupled: bool, left_out: bool) -> tuple[Draws, Draws]:
        """Return which draws are in the event, new ones negative."""

    def terms(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return self.event(old, new, coupled, left_out=True)

    def bias_bound(self, old: Draws, new: Draws, coupled: bool) -> Value:
        by_old, by_new = self.event(old, new, coupled, left_out=False)
        within = by_old.mean(0) + by_new.mean(0)
        return (within - self.statistic(old, new, coupled)) / 2


class total_variation(_Supremum, VectorDivergence):
    """Total variation sup_A P_D(A) - P_D'(A), between 0 and 1.

    The event is where the likelihood ratio p/q of normals, fitted without the draw at hand (and its
    partner), is above 1: for scalars two thresholds, for vectors a quadric. It is the total variation
    of the best classifier, 2 (accuracy) - 1, where the distributions are normal, and less otherwise.
    """

    def event(self, old: Draws, new: Draws, coupled: bool, left_out: bool) -> tuple[Draws, Draws]:
        by_old, by_new = log_ratios(old, new, coupled, left_out)
        return (1 + np.sign(by_old)) / 2, -(1 + np.sign(by_new)) / 2


class kolmogorov_smirnov(_Supremum):
    """Kolmogorov-Smirnov distance sup_t |P_D(m <= t) - P_D'(m <= t)| of scalars, between 0 and 1.

    The threshold is where the distribution functions of normals, fitted without the draw at hand (and
    its partner), are farthest apart. The supremum of the empirical ones moves so much with the draws
    that no interval about it covers.
    """

    def event(self, old: Draws, new: Draws, coupled: bool, left_out: bool) -> tuple[Draws, Draws]:
        if coupled or not left_out:
            at, sign = _farthest(_moments(old, left_out), _moments(new, left_out))
            return sign * (old <= at), -sign * (new <= at)
        at_old, sign_old = _farthest(_moments(old, True), _moments(new, False))
        at_new, sign_new = _farthest(_moments(old, False), _moments(new, True))
        return sign_old * (old <= at_old), -sign_new * (new <= at_new)


class trade_off(SumOfMeans, VectorDivergence):
    """Distance mu of the normals N(0, 1) and N(mu, 1) that are as hard to tell apart.

    That is the mu of Gaussian differential privacy, by the area above the trade-off curve: the
    probability A that, of an old and a new draw, the likelihood ratio says which is which. Then
    mu = sqrt(2) Phi^-1(A), with A averaged over pairs of draws that share no key. Below 0 where the
    test does worse than chance, infinite where the arms lie apart. Half of what A is higher by for a
    test that is tried on the draws it was fitted to is part of the error.
    """

    unit = ""

    def terms(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        placed = [_placements(fold, coupled) for fold in _folds(old, new)]
        by_old, by_new = (np.concatenate(arm, axis=-1) for arm in zip(*placed, strict=True))
        return np.moveaxis(by_old, -1, 0), centred(np.moveaxis(by_new, -1, 0))

    def bias_bound(self, old: Draws, new: Draws, coupled: bool) -> Value:
        arms = rows(old), rows(new)
        by_old, _ = _placements(_fold([(arm, arm) for arm in arms]), coupled)
        return (by_old.mean(-1) - self.terms(old, new, coupled)[0].mean(0)) / 2

    def report(self, value: Value) -> Value:
        """Return mu of A - 1/2."""
        return np.sqrt(2) * ndtri(np.clip(value + 0.5, 0.0, 1.0))


def _moments(draws: Draws, left_out: bool) -> tuple[Draws, Draws]:
    """Return mean and standard deviation, without each draw in turn if it is left out."""
    draws = draws.astype(float)
    mean = draws.mean(0)
    if not left_out:
        return mean, np.sqrt(variance_of(draws))
    return mean - (draws - mean) / (len(draws) - 1), np.sqrt(variances_without(draws))


def _farthest(old: tuple[Draws, Draws], new: tuple[Draws, Draws]) -> tuple[Draws, Draws]:
    """Return where two normal distribution functions are farthest apart, and the difference's sign.

    It is where their densities cross, a t^2 + 2 b t + c = 0; nowhere (NaN, 0) if they are equal.
    """
    (one, width), (other, span) = old, new
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = width**-2.0 - span**-2.0, other / span**2 - one / width**2
        c = (one / width) ** 2 - (other / span) ** 2 + 2 * np.log(width / span)
        root = b + np.where(b < 0, -1, 1) * np.sqrt(np.maximum(b * b - a * c, 0))
        first, second = -root / a, -c / root
        gaps = [ndtr((t - one) / width) - ndtr((t - other) / span) for t in (first, second)]
    gaps = np.nan_to_num(gaps)
    chosen = np.abs(gaps[0]) > np.abs(gaps[1])
    return np.where(chosen, first, second), np.sign(np.where(chosen, *gaps))


class Fold(NamedTuple):
    """log p/q at the draws of both arms that were held out."""

    old: Float[Array, "... held"]
    new: Float[Array, "... held"]


def _folds(old: Draws, new: Draws) -> Iterator[Fold]:
    arms = rows(old), rows(new)
    shape = np.broadcast_shapes(*(arm.shape[:-2] for arm in arms))
    arms = [np.broadcast_to(arm, (*shape, *arm.shape[-2:])) for arm in arms]
    if min(len(old), len(new)) < 2 * NUM_FOLDS:
        raise ValueError(
            f"a trade-off needs at least {2 * NUM_FOLDS} draws an arm, got {len(old)} and {len(new)}"
        )
    for which in range(NUM_FOLDS):
        held = [np.arange(arm.shape[-2]) * NUM_FOLDS // arm.shape[-2] == which for arm in arms]
        pairs = zip(arms, held, strict=True)
        yield _fold([(arm[..., ~out, :], arm[..., out, :]) for arm, out in pairs])


def _fold(parts: list[tuple[Residuals, Residuals]]) -> Fold:
    """Evaluate log p/q at the second part of each arm, fitted to the first."""
    (old, held_old), (new, held_new) = parts
    first, second = fit(old), fit(new)
    return Fold(
        *(
            log_density(first, at, left_out=False) - log_density(second, at, left_out=False)
            for at in (held_old, held_new)
        )
    )


def _placements(fold: Fold, coupled: bool) -> tuple[Array, Array]:
    """Return the share of draws of the other arm that each is on the right side of, less one half."""
    sides = np.sign(fold.old[..., :, None] - fold.new[..., None, :]) / 2
    if not coupled:
        return sides.mean(-1), sides.mean(-2)
    sides = np.where(np.eye(sides.shape[-1], dtype=bool), 0.0, sides)
    others = sides.shape[-1] - 1
    return sides.sum(-1) / others, sides.sum(-2) / others
