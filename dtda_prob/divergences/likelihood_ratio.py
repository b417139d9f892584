"""How hard it is to tell the two distributions apart by the best test of one draw.

A test of "this draw is of mu_D" against "it is of mu_D'" that rejects where the likelihood ratio p/q is
small has the least error of the second kind at its error of the first kind (Neyman and Pearson, 1933).
For N(0, 1) against N(mu, 1) the trade-off of both errors is the yardstick of Gaussian differential
privacy (Dong, Roth and Su, 2022).

The ratio is of normals fitted to three quarters of the draws of each arm, and the test is tried on the
rest, so that its errors are the errors of a test that could be made.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from dtda_prob.divergences.divergence import Draws, SumOfMeans, Value, VectorDivergence, centred
from dtda_prob.divergences.normals import Residuals, fit, log_density, rows

Array = np.ndarray
NUM_FOLDS = 4
"""Parts of the draws that the test is tried on, in turn."""


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
