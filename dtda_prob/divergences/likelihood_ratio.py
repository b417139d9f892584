"""The trade-off between the errors of a test that tells the two distributions apart.

A test of "this draw is of mu_D" against "it is of mu_D'" that rejects where the likelihood ratio p/q is
small has the least error of the second kind at its error of the first kind (Neyman and Pearson, 1933).
The curve of the one against the other says how far apart the distributions are for any purpose; that of
N(0, 1) against N(mu, 1) is the yardstick of Gaussian differential privacy (Dong, Roth and Su, 2022).

The ratio is that of normals fitted to three quarters of the draws of each arm, and the test is tried on
the rest, so that its errors are those of a test that could be made: what is found lies above the curve
of the best test, and about on it where the distributions are normal.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from dtda_prob.divergences.divergence import (
    Divergence,
    Draws,
    Functional,
    Value,
    centred,
    expand,
    of_means,
)
from dtda_prob.divergences.normals import Residuals, fit, log_density, rows

Array = np.ndarray
NUM_FOLDS = 4
"""Parts of the draws that the test is tried on, in turn."""


class TradeOffCurve(NamedTuple):
    """Errors of likelihood-ratio tests between two sample sets.

    Attributes:
        level: the error of the first kind: the probability that an old draw is taken for a new one.
        type_two: the error of the second kind: the probability that a new draw is taken for an old one.
        error: standard error of `type_two`.
    """

    level: Float[Array, " level"]
    type_two: Float[Array, "level ..."]
    error: Float[Array, "level ..."]


def trade_off_curve(
    old: Draws, new: Draws, *, coupled: bool = True, vector: bool = False, num_levels: int = 19
) -> TradeOffCurve:
    """Measure the trade-off curve: the error of the second kind at each error of the first kind.

    The threshold for a level is a quantile of the ratio at draws that were fitted to. Where the share
    of held-out old draws below it is another, the error of the second kind is moved along the curve,
    whose slope is minus one over the ratio at the threshold.

    Args:
        old: draws of mu_D.
        new: draws of mu_D', with the other axes alike.
        coupled: whether draw i of both arms shares its key.
        vector: whether the last axis holds the coordinates of one outcome.
        num_levels: how many tests, evenly spaced in the error of the first kind.

    Raises:
        ValueError: for fewer than 8 draws, or too few to fit normals of that dimension.

    >>> old, new = np.random.default_rng(0).normal(size=(2, 64)) + np.array([[0.0], [1.0]])
    >>> trade_off_curve(old, new, coupled=False, num_levels=3).type_two.round(1)
    array([0.4, 0.1, 0. ])
    """
    level = np.arange(1, num_levels + 1) / (num_levels + 1)

    def told(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        return _joined([_mistakes(fold, level) for fold in _folds(old, new, vector)])

    found = expand(of_means(told), np.asarray(old), np.asarray(new), coupled)
    return TradeOffCurve(level, found.value, found.error())


def trade_off() -> Divergence:
    """Distance mu of the normals N(0, 1) and N(mu, 1) that are as hard to tell apart.

    That is the mu of Gaussian differential privacy, by the area above the trade-off curve: the
    probability A that, of an old and a new draw, the likelihood ratio tells which is which. Then
    mu = sqrt(2) Phi^-1(A), with A averaged over pairs of draws that share no key. Below 0 where the
    test does worse than chance, infinite where the arms lie apart. Half of what A is higher by for a
    test that is tried on the draws it was fitted to is part of the error.
    """
    return Divergence("trade_off", _excess(vector=False), _excess(vector=True))


def _excess(vector: bool) -> Functional:
    def told(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        by_old, by_new = _joined([_placements(fold, coupled) for fold in _folds(old, new, vector)])
        return by_old, centred(by_new)

    def doubt(old: Draws, new: Draws, coupled: bool) -> Value:
        arms = rows(old, vector), rows(new, vector)
        by_old, _ = _placements(_fold([(arm, arm) for arm in arms]), coupled)
        return (by_old.mean(-1) - told(old, new, coupled)[0].mean(0)) / 2

    return of_means(told)._replace(report=_distance, doubt=doubt)


def _distance(excess: Value) -> Value:
    """Give mu of A - 1/2."""
    return np.sqrt(2) * ndtri(np.clip(excess + 0.5, 0.0, 1.0))


class Fold(NamedTuple):
    """log p/q at draws that are held out, and at the old draws that it was fitted to."""

    old: Float[Array, "... held"]
    new: Float[Array, "... held"]
    fitted: Float[Array, "... draw"]


def _folds(old: Draws, new: Draws, vector: bool) -> Iterator[Fold]:
    arms = rows(old, vector), rows(new, vector)
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
    (old, held_old), (new, held_new) = parts
    first, second = fit(old), fit(new)
    return Fold(
        *(
            log_density(first, at, left_out=False) - log_density(second, at, left_out=False)
            for at in (held_old, held_new, old)
        )
    )


def _placements(fold: Fold, coupled: bool) -> tuple[Array, Array]:
    """Give the share of draws of the other arm that each is on the right side of, less one half."""
    sides = np.sign(fold.old[..., :, None] - fold.new[..., None, :]) / 2
    if not coupled:
        return sides.mean(-1), sides.mean(-2)
    sides = np.where(np.eye(sides.shape[-1], dtype=bool), 0.0, sides)
    others = sides.shape[-1] - 1
    return sides.sum(-1) / others, sides.sum(-2) / others


def _mistakes(fold: Fold, level: Float[Array, " level"]) -> tuple[Array, Array]:
    """Tell which held new draws are taken for old ones, and the surplus of old ones taken for new."""
    threshold = np.quantile(fold.fitted, level, axis=-1)[..., None]
    level = level.reshape(-1, *(1,) * fold.old.ndim)
    return np.exp(-threshold) * ((fold.old < threshold) - level), 1.0 * (fold.new >= threshold)


def _joined(found: list[tuple[Array, Array]]) -> tuple[Draws, Draws]:
    """Put folds one after another, draws first."""
    old, new = (np.concatenate(arm, axis=-1) for arm in zip(*found, strict=True))
    return np.moveaxis(old, -1, 0), np.moveaxis(new, -1, 0)
