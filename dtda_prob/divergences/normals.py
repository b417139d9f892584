"""Normals fitted to both arms: their densities at each draw, and the same with that draw left out.

Everything here has shape `(..., draw, coordinate)` and comes from one fit to an arm: leaving draw i out
changes the mean by a step and the covariance S by a matrix of rank one,

    mean_-i = mean - r_i / (n - 1),      S_-i = (n - 1) / (n - 2) (S - c r_i r_i'),   c = n / (n - 1)^2,

r_i being its distance from the mean; so inverses and determinants follow in closed form.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dtda_prob.divergences.divergence import Draws

Array = np.ndarray
Residuals = Float[Array, "... draw coordinate"]


class Normal(NamedTuple):
    """A normal fitted to draws.

    Attributes:
        mean: shape `(..., 1, coordinate)`.
        whiten: turns residuals (rows) into standard normal ones, `(..., coordinate, coordinate)`.
        log_det: of the covariance.
        residuals: the draws themselves, in the coordinates where the normal is standard.
    """

    mean: Float[Array, "... 1 coordinate"]
    whiten: Float[Array, "... coordinate coordinate"]
    log_det: Float[Array, "... 1"]
    residuals: Residuals

    def seen(self, draws: Residuals) -> Residuals:
        """Return draws in the coordinates where the normal is standard."""
        return (draws - self.mean) @ self.whiten


def rows(draws: Draws) -> Residuals:
    """Move the draws of vectors before their coordinates: `(..., draw, coordinate)`."""
    return np.moveaxis(draws, 0, -2).astype(float)


def fit(draws: Residuals) -> Normal:
    """Fit a normal by moments, its covariance without bias.

    Raises:
        ValueError: if vectors lie in a plane, or are too few to tell.
    """
    mean = draws.mean(-2, keepdims=True)
    gaps = draws - mean
    covariance = np.swapaxes(gaps, -1, -2) @ gaps / (draws.shape[-2] - 1)
    _check(draws, covariance)
    with np.errstate(divide="ignore", invalid="ignore"):
        values, vectors = np.linalg.eigh(covariance)
        whiten = vectors / np.sqrt(values)[..., None, :]
        return Normal(mean, whiten, np.log(values).sum(-1)[..., None], gaps @ whiten)


class LogRatios(NamedTuple):
    """log p/q at each draw of the old arm and of the new, draws first."""

    old: Draws
    new: Draws


def log_ratios(old: Draws, new: Draws, coupled: bool, left_out: bool) -> LogRatios:
    """Compute log p/q at each draw, p and q being normals fitted to the old arm and to the new.

    Args:
        old: draws of the old arm, vectors.
        new: draws of the new arm, vectors.
        coupled: whether draws share keys.
        left_out: fit without the draw, and without the one that shares its key.
    """
    arms = rows(old), rows(new)
    fits = [fit(arm) for arm in arms]
    ratios = [
        log_density(fits[0], arm, left_out and (coupled or own == 0))
        - log_density(fits[1], arm, left_out and (coupled or own == 1))
        for own, arm in enumerate(arms)
    ]
    return LogRatios(*(np.moveaxis(ratio, -1, 0) for ratio in ratios))


def log_density(normal: Normal, draws: Residuals, left_out: bool) -> Float[Array, "... draw"]:
    """Compute the log-density at each draw, up to a constant of the dimension.

    Args:
        normal: the fit.
        draws: where to evaluate it.
        left_out: whether draw i of the arm that was fitted has no part in the density at `draws[i]`.
    """
    seen = normal.seen(draws)
    if not left_out:
        return -0.5 * (inner(seen, seen) + normal.log_det)
    n, residuals = normal.residuals.shape[-2], normal.residuals
    seen = seen + residuals / (n - 1)
    return -0.5 * (squares_without(seen, residuals) + log_det_without(normal))


def squares_without(seen: Residuals, residuals: Residuals) -> Float[Array, "... draw"]:
    """Compute seen' S_-i^-1 seen, in the coordinates where S is one."""
    n = residuals.shape[-2]
    own, along = _share(n) * inner(residuals, residuals), inner(seen, residuals)
    return (n - 2) / (n - 1) * (inner(seen, seen) + _share(n) * along**2 / (1 - own))


def log_det_without(normal: Normal) -> Float[Array, "... draw"]:
    """Compute the logarithm of the determinant of S_-i."""
    n, dimension = normal.residuals.shape[-2:]
    own = _share(n) * inner(normal.residuals, normal.residuals)
    return dimension * np.log((n - 1) / (n - 2)) + normal.log_det + np.log1p(-own)


def inner(first: Residuals, second: Residuals) -> Float[Array, "... draw"]:
    """Multiply rows with each other."""
    return np.einsum("...k,...k->...", first, second)


def _share(num_draws: int) -> float:
    return num_draws / (num_draws - 1) ** 2


def _check(draws: Residuals, covariance: Array) -> None:
    num_draws, dimension = draws.shape[-2:]
    if num_draws < dimension + 3:
        raise ValueError(
            f"{num_draws} draws of {dimension} coordinates do not settle a normal: at least "
            f"{dimension + 3} are needed; take more draws"
        )
    if dimension > 1 and (np.linalg.matrix_rank(covariance, hermitian=True) < dimension).any():
        raise ValueError(
            "draws lie in a plane, so that no normal has a density there (class probabilities sum to "
            "one): measure all coordinates but one, or logits"
        )
