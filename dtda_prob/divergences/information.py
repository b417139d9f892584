"""Kullback-Leibler and Jensen-Shannon divergences, in nats, by fitted normals or by nearest neighbours.

A divergence of zero is where a square is least, so that noise in either arm raises the textbook
estimates, and most where it is smallest. Each is corrected to second order in that noise, and can fall
below 0. Draws that share a key are never compared.
"""

from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from dtda_prob.divergences.divergence import (
    Divergence,
    Draws,
    Functional,
    Value,
    centred,
    of_means,
)
from dtda_prob.divergences.neighbours import noisy_ratios
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
Method = Literal["gaussian", "neighbours"]


def kullback_leibler(
    method: Method = "gaussian", num_neighbours: int | None = None, reverse: bool = False
) -> Divergence:
    """Kullback-Leibler divergence KL(mu_D || mu_D'): what the removed data tell, in nats.

    Where the distributions are posteriors this is the information gained from the data. By
    `"gaussian"`, that between the fitted normals, 1/2 [log det T / S + tr(T^-1 S) + d' T^-1 d - k],
    with means d apart and covariances S and T, its bias taken off by the jackknife; by
    `"neighbours"`, (k/n) sum_i log(nu_i / rho_i) with the distances from each old draw to its nearest
    neighbours among new and among old draws (Wang, Kulkarni and Verdu, 2009).

    Args:
        method: `"gaussian"`, exact for normals; or `"neighbours"`, for any density, with larger errors.
        num_neighbours: which neighbour is meant; half the root of the number of draws if None.
        reverse: give KL(mu_D' || mu_D) instead.

    Raises:
        ValueError: for another method, or neighbours asked for of normals.
    """
    _check(method, num_neighbours)
    make = _normal_kl if method == "gaussian" else partial(_neighbour_kl, num_neighbours)
    name = "kullback_leibler" + "_reverse" * reverse + "_neighbours" * (method == "neighbours")
    return Divergence(name, *(_turned(make(vector), reverse) for vector in (False, True)))


def jensen_shannon(method: Method = "gaussian", num_neighbours: int | None = None) -> Divergence:
    """Jensen-Shannon divergence, in nats: 0 to log 2, what one draw tells about its arm.

    It is half the mean of log 2 p/(p + q) over old draws and half that of log 2 q/(p + q) over new
    ones. By `"gaussian"`, p and q are the fitted normals, of numbers or of vectors, and for any other
    density the result is less than the truth, as that of any classifier is (Goodfellow et al., 2014).
    Noise in them raises the mean over the draws that they were fitted to as much as it lowers that
    over draws left out, and the estimate is halfway.

    By `"neighbours"`, p/q is that of `kullback_leibler`, and the effect of its noise, whose variance is
    2 psi'(k) where arms are independent and less by the share of neighbours in common where they are
    coupled, is taken off to second order.

    Args:
        method: `"gaussian"` or `"neighbours"`.
        num_neighbours: which neighbour is meant; half the root of the number of draws if None.

    Raises:
        ValueError: for another method, or neighbours asked for of normals.
    """
    _check(method, num_neighbours)
    make = _normal_js if method == "gaussian" else partial(_neighbour_js, num_neighbours)
    name = "jensen_shannon" + "_neighbours" * (method == "neighbours")
    return Divergence(name, make(False), make(True))


def _check(method: str, num_neighbours: int | None) -> None:
    if method not in ("gaussian", "neighbours"):
        raise ValueError(f"method={method!r} must be 'gaussian' or 'neighbours'")
    if num_neighbours is not None and (method == "gaussian" or num_neighbours < 1):
        raise ValueError(
            f"num_neighbours={num_neighbours} must be at least 1, and goes with method='neighbours'"
        )


def _turned(functional: Functional, reverse: bool) -> Functional:
    if not reverse:
        return functional
    find = functional.influences
    assert find is not None

    def statistic(old: Draws, new: Draws, coupled: bool) -> Value:
        return functional.statistic(new, old, coupled)

    def influences(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        by_new, by_old = find(new, old, coupled)
        return by_old, by_new

    return functional._replace(statistic=statistic, influences=influences)


def _normal_kl(vector: bool) -> Functional:
    def statistic(old: Draws, new: Draws, coupled: bool) -> Value:
        value, parts = _kl_and_without(old, new, coupled, vector)
        return value - sum((len(part) - 1) * (part.mean(0) - value) for part in parts)

    def influences(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        _, parts = _kl_and_without(old, new, coupled, vector)
        found = [-(len(part) - 1) * centred(part) for part in parts]
        return (found[0], np.zeros_like(found[0])) if coupled else (found[0], found[1])

    return Functional(statistic, signed=False, influences=influences, square=True)


def _kl_and_without(
    old: Draws, new: Draws, coupled: bool, vector: bool
) -> tuple[Value, list[Float[Array, "draw ..."]]]:
    """Give KL of the fitted normals, and without each pair, or without each draw of each arm."""
    first, second = fit(rows(old, vector)), fit(rows(new, vector))
    find = partial(_kl, second.seen(rows(old, vector)), first, second)
    out = [(True, True)] if coupled else [(True, False), (False, True)]
    return find(False, False)[..., 0], [np.moveaxis(find(*arms), -1, 0) for arms in out]


def _kl(
    seen: Residuals, old: Normal, new: Normal, out_old: bool, out_new: bool
) -> Float[Array, "... draw"]:
    """Give KL of the fitted normals in the coordinates of the new one, leaving out draw i of arms."""
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
    """Give tr[(1 - c left left')^-1 (covariance - share own own')]."""
    of_left = num_new / (num_new - 1) ** 2
    plain = np.trace(covariance, axis1=-2, axis2=-1)[..., None] - share * inner(own, own)
    along = inner(left @ covariance, left) - share * inner(left, own) ** 2
    return plain + of_left * along / (1 - of_left * inner(left, left))


def _normal_js(vector: bool) -> Functional:
    def told(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        fits = [log_ratios(old, new, coupled, vector, left_out=out) for out in (False, True)]
        by_old, by_new = (
            np.mean([surely(sign * ratios[arm]) for ratios in fits], axis=0) / 2
            for arm, sign in ((0, 1), (1, -1))
        )
        return by_old, by_new

    return of_means(told)._replace(square=True)


def _neighbour_kl(num_neighbours: int | None, vector: bool) -> Functional:
    def told(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        found = noisy_ratios(old, new, coupled, vector, num_neighbours)
        return found.old, 1 - np.exp(found.new - found.noise_new / 2)

    return of_means(told)


def _neighbour_js(num_neighbours: int | None, vector: bool) -> Functional:
    def told(old: Draws, new: Draws, coupled: bool) -> tuple[Draws, Draws]:
        found = noisy_ratios(old, new, coupled, vector, num_neighbours)
        by_old = surely(found.old) + _curvature(found.old) * found.noise_old / 2
        by_new = surely(-found.new) + _curvature(found.new) * found.noise_new / 2
        return by_old / 2, by_new / 2

    return of_means(told)


def _curvature(ratio: Array) -> Array:
    """Give minus the second derivative of `surely`."""
    return expit(ratio) * expit(-ratio)


def surely(ratio: Array) -> Array:
    """Give log 2 p/(p + q) of log p/q."""
    return np.log(2.0) - np.logaddexp(0.0, -ratio)
