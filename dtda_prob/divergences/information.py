"""Kullback-Leibler and Jensen-Shannon divergences, in nats, by fitted normals.

A divergence of zero is where a square is least, so that noise in either arm raises the textbook
estimates, and most where it is smallest. Each is corrected to second order in that noise, and can fall
below 0. Draws that share a key are never compared.
"""

from functools import partial

import numpy as np
from jaxtyping import Float

from dtda_prob.divergences.divergence import Draws, SumOfMeans, Value, VectorDivergence, centred
from dtda_prob.divergences.normals import (
    Normal,
    Residuals,
    fit,
    inner,
    log_det_without,
    log_ratios,
    rows,
    squares_without,
)

Array = np.ndarray


class kullback_leibler(VectorDivergence):
    """Kullback-Leibler divergence KL(mu_D || mu_D') of the fitted normals, in nats.

    It is 1/2 [log det T / S + tr(T^-1 S) + d' T^-1 d - k], with means d apart and covariances S and T,
    its bias removed by the jackknife. Where the distributions are posteriors, KL(mu_D || mu_D') is the
    information gained from the removed examples.

    Args:
        reverse: compute KL(mu_D' || mu_D) instead.
    """

    reverse: bool = False
    squared = True
    unit = "nats"

    @property
    def name(self) -> str:
        return "kullback_leibler" + "_reverse" * self.reverse

    def statistic(self, old: Draws, new: Draws, coupled: bool) -> Value:
        value, parts = _kl_and_without(*self._turned(old, new), coupled)
        return value - sum((len(part) - 1) * (part.mean(0) - value) for part in parts)

    def contributions(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        _, parts = _kl_and_without(*self._turned(old, new), coupled)
        terms = [-(len(part) - 1) * centred(part) for part in parts]
        both = (terms[0], np.zeros_like(terms[0])) if coupled else (terms[0], terms[1])
        return self._turned(*both)

    def _turned(self, old: Array, new: Array) -> tuple[Array, Array]:
        return (new, old) if self.reverse else (old, new)


class jensen_shannon(SumOfMeans, VectorDivergence):
    """Jensen-Shannon divergence of the fitted normals, in nats: 0 to log 2.

    It is the information that one draw has about its arm: half the mean of log 2 p/(p + q) over old
    draws and half the mean of log 2 q/(p + q) over new ones. For densities that are not normal the
    result is less than the truth, as for any classifier (Goodfellow et al., 2014). Noise in p and q
    raises the mean over the draws that they were fitted to as much as it lowers the mean over draws
    left out, and the estimate is halfway.
    """

    squared = True
    unit = "nats"

    def terms(self, old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        fits = [log_ratios(old, new, coupled, left_out=out) for out in (False, True)]
        by_old, by_new = (
            np.mean([log_posterior_odds(sign * ratios[arm]) for ratios in fits], axis=0) / 2
            for arm, sign in ((0, 1), (1, -1))
        )
        return by_old, by_new


def log_posterior_odds(ratio: Array) -> Array:
    """Compute log 2 p/(p + q) from log p/q."""
    return np.log(2.0) - np.logaddexp(0.0, -ratio)


def _kl_and_without(
    old: Draws, new: Draws, coupled: bool
) -> tuple[Value, list[Float[Array, "draw ..."]]]:
    """Compute KL of the fitted normals, and without each pair, or without each draw of each arm."""
    first, second = fit(rows(old)), fit(rows(new))
    evaluate = partial(_kl, second.seen(rows(old)), first, second)
    out = [(True, True)] if coupled else [(True, False), (False, True)]
    without = [np.moveaxis(evaluate(*arms), -1, 0) for arms in out]
    return evaluate(False, False)[..., 0], without


def _kl(
    seen: Residuals, old: Normal, new: Normal, out_old: bool, out_new: bool
) -> Float[Array, "... draw"]:
    """Compute KL of the fitted normals in the new one's coordinates, leaving out draw i of arms."""
    shift = seen.mean(-2, keepdims=True)
    gaps, n, m = seen - shift, seen.shape[-2], new.residuals.shape[-2]
    own, share = (gaps / (n - 1), n) if out_old else (0 * shift, 0)
    left, log_new = (new.residuals, log_det_without(new)) if out_new else (0 * shift, new.log_det)
    log_old = log_det_without(old) if out_old else old.log_det
    moved = shift - own + left / (m - 1)
    square = squares_without(moved, left) if out_new else inner(moved, moved)
    trace = _trace(np.swapaxes(gaps, -1, -2) @ gaps / (n - 1), own, share, left, m)
    trace *= ((n - 1) / (n - 2) if out_old else 1) * ((m - 2) / (m - 1) if out_new else 1)
    return (log_new - log_old + trace + square - seen.shape[-1]) / 2


def _trace(
    covariance: Float[Array, "... coordinate coordinate"],
    own: Residuals,
    share: int,
    left: Residuals,
    num_new: int,
) -> Float[Array, "... draw"]:
    """Compute tr[(1 - c left left')^-1 (covariance - share own own')]."""
    of_left = num_new / (num_new - 1) ** 2
    plain = np.trace(covariance, axis1=-2, axis2=-1)[..., None] - share * inner(own, own)
    along = inner(left @ covariance, left) - share * inner(left, own) ** 2
    return plain + of_left * along / (1 - of_left * inner(left, left))
