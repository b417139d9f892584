"""Scores from draws: every divergence of every pair, with errors, p-values and ranks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob.attribution.arms import Arms, Draws
from dtda_prob.attribution.ranks import rank_pairs
from dtda_prob.divergences import Divergence
from dtda_prob.divergences.estimates import expand_and_permute, summarise
from dtda_prob.training import Training

BLOCK = 2**22
"""Numbers per block of pairs that are compared at once."""


class Options(NamedTuple):
    """How scores are estimated; see `attribute`."""

    level: float = 0.9
    num_permutations: int = 20
    num_resamples: int = 100
    top: int = 10
    keep_influences: bool = False


def score_arms(
    arms: Arms,
    divergences: Sequence[Divergence],
    training: Training,
    *,
    coupled: bool,
    options: Options,
    queries: np.ndarray,
) -> xr.Dataset:
    """Estimate divergences from draws of both arms, which hold these queries; see `attribute`."""
    scored = [_of_divergence(d, arms, training, coupled, options) for d in divergences]
    coords = {"divergence": [divergence.name for divergence in divergences], "query": queries}
    found = xr.concat(scored, "divergence").assign_coords(coords)
    spread = arms.old.std(0, ddof=1)[:, 0]
    return found.assign(sd=(("query", "output")[: spread.ndim], spread)).assign_attrs(
        measure=training.measure.name,
        coupled=int(coupled),
        num_draws=len(arms.old),
        level=options.level,
        top=options.top,
    )


def _of_divergence(
    divergence: Divergence, arms: Arms, training: Training, coupled: bool, options: Options
) -> xr.Dataset:
    """Estimate a few queries at a time, so that memory stays bounded."""
    step = max(1, BLOCK * arms.new.shape[1] // arms.new.size)
    num_states = training.kernel.num_states
    blocks = [
        _of_block(divergence, arms.old[:, some], arms.new[:, some], coupled, options, num_states)
        for some in (slice(i, i + step) for i in range(0, arms.new.shape[1], step))
    ]
    fields = {name: np.concatenate([b[name] for b in blocks], axis=-2) for name in blocks[0]}
    return _to_dataset(fields, arms.weights)


def _of_block(
    divergence: Divergence, old: Draws, new: Draws, coupled: bool, options: Options, num_states: int
) -> dict[str, np.ndarray]:
    functional = divergence.of(old.ndim == 4)
    expansion, permuted = expand_and_permute(
        functional,
        old,
        new,
        coupled=coupled,
        num_permutations=options.num_permutations,
        num_states=num_states,
    )
    estimate = summarise(functional, expansion, permuted, options.level)
    ranking = rank_pairs(expansion, options.top, options.level, options.num_resamples, seed=0)
    fields = {"score": estimate.value} | estimate._asdict() | ranking._asdict()
    fields["q_value"] = q_values(estimate.p_value)
    del fields["value"]
    if options.keep_influences:
        error = expansion.error()
        scale = np.divide(estimate.error, error, out=np.zeros_like(error), where=error != 0)
        fields["influence"] = np.stack([scale * arm for arm in expansion.influences])
    return fields


def q_values(p_values: np.ndarray) -> np.ndarray:
    """Give the false discovery rate at which each would be discovered, along the last axis.

    By Benjamini and Hochberg (1995); NaN where there is no p-value, which counts as no discovery.
    """
    missing = np.isnan(p_values)
    adjusted = scipy.stats.false_discovery_control(np.where(missing, 1.0, p_values), axis=-1)
    return np.where(missing, np.nan, adjusted)


def _to_dataset(fields: dict[str, np.ndarray], weights: xr.DataArray) -> xr.Dataset:
    last = str(weights.dims[0])
    dims = ("arm", "draw", "query", last)
    coords: dict[str, Any] = {last: weights[last].values}
    if "influence" in fields:
        coords["arm"] = ["both"] if len(fields["influence"]) == 1 else ["old", "new"]
    return xr.Dataset({k: (dims[-v.ndim :], v) for k, v in fields.items()}, coords)
