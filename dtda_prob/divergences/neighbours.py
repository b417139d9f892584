"""Ratios of densities by nearest neighbours.

At draw x_i, with rho and nu its distances to the k-th nearest other draw of the old arm and of the new,
log p/q = d log(nu / rho) + log(m / n), d being the number of coordinates and n and m the numbers of
draws that could be neighbours (Wang, Kulkarni and Verdu, 2009). A draw is no neighbour of itself, nor,
where arms are coupled, of its partner: the nearest new draw to x_i would be y_i.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import polygamma

from dtda_prob.divergences.divergence import Draws
from dtda_prob.divergences.pairwise import Distances, over_pairs

Array = np.ndarray


class Nearest(NamedTuple):
    """The nearest neighbours of each draw among those of an arm.

    Attributes:
        log_distance: to the k-th nearest.
        among: which are the k nearest.
        number: how many there were to choose from.
    """

    log_distance: Float[Array, "pair draw"]
    among: Bool[Array, "pair draw other"]
    number: int


class NoisyRatios(NamedTuple):
    """log p/q at each draw, and the variance of its noise.

    The noise of one distance has variance psi'(k) / d^2, so that of log p/q has 2 psi'(k) where the
    neighbours in both arms are independent; those that share keys move both distances alike.
    """

    old: Draws
    new: Draws
    noise_old: Draws
    noise_new: Draws


def noisy_ratios(
    old: Draws, new: Draws, coupled: bool, vector: bool, num_neighbours: int | None
) -> NoisyRatios:
    """Give log p/q at each draw of both arms, from its nearest neighbours.

    Args:
        old: draws of the old arm.
        new: draws of the new arm.
        coupled: whether draws share keys.
        vector: whether the last axis holds coordinates.
        num_neighbours: k; half the root of the number of draws if None.

    Raises:
        ValueError: if there are not k neighbours.
    """
    k = _number(num_neighbours, min(len(old), len(new)))
    dimension = old.shape[-1] if vector else 1
    return NoisyRatios(*over_pairs(partial(_ratios, k, dimension), old, new, coupled, vector))


def _number(asked: int | None, num_draws: int) -> int:
    k = max(1, round(0.5 * num_draws**0.5)) if asked is None else asked
    if k > num_draws - 1:
        raise ValueError(f"num_neighbours={k} needs more draws than the {num_draws} of an arm")
    return k


def _ratios(k: int, dimension: int, distances: Distances) -> tuple[Array, ...]:
    old, new, between, coupled = distances
    of_old = _nearest(old, k, True), _nearest(between, k, coupled)
    of_new = _nearest(np.swapaxes(between, 1, 2), k, coupled), _nearest(new, k, True)
    ratios = (_ratio(*sides, dimension) for sides in (of_old, of_new))
    return *ratios, *(_noise(*sides, k, coupled) for sides in (of_old, of_new))


def _ratio(to_old: Nearest, to_new: Nearest, dimension: int) -> Float[Array, "pair draw"]:
    with np.errstate(invalid="ignore"):
        gap = to_new.log_distance - to_old.log_distance
    return dimension * gap + np.log(to_new.number / to_old.number)


def _noise(to_old: Nearest, to_new: Nearest, k: int, coupled: bool) -> Float[Array, "pair draw"]:
    shared = (to_old.among & to_new.among).sum(2) / k if coupled else 0.0
    most = np.broadcast_shapes(to_old.log_distance.shape, to_new.log_distance.shape)
    return np.broadcast_to(2 * polygamma(1, k) * (1 - shared), most)


def _nearest(distances: Array, k: int, without_own: bool) -> Nearest:
    if without_own:
        distances = np.where(np.eye(distances.shape[1], dtype=bool), np.inf, distances)
    farthest = np.partition(distances, k - 1, axis=2)[:, :, k - 1]
    with np.errstate(divide="ignore"):
        logs = np.log(farthest.astype(float))
    return Nearest(logs, distances <= farthest[:, :, None], distances.shape[2] - without_own)
