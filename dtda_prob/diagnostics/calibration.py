"""Does the predicted distribution match retraining: PIT values, their bands, coverage of intervals."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.diagnostics.pit import Ranks, differences, rank, share_within, spread_of_null
from dtda_prob.studies.tree import draws_of

LEVELS = (0.5, 0.8, 0.9, 0.95)
BLOCK = 2**24
"""Array elements that resampling holds at once."""
Cells = Float[np.ndarray, "draw cell"]


class Uniformity(NamedTuple):
    """How uniform PIT values are, compared with permutations.

    Attributes:
        difference: ECDF minus the uniform's, at each place.
        band: simultaneous 95 % bound on its size, if the arms are alike.
        p_value: share of permutations that deviate as far.
    """

    difference: Float[np.ndarray, "place cell"]
    band: Float[np.ndarray, "place cell"]
    p_value: Float[np.ndarray, " cell"]


def calibration(
    predicted: xr.DataTree | xr.DataArray,
    retrained: xr.DataTree | xr.DataArray,
    *,
    levels: Sequence[float] = LEVELS,
    num_permutations: int = 199,
    num_resamples: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Compare the predicted with the retrained distribution of each measured value.

    The PIT value of a retrained draw is the share of the predicted distribution below it. Only n draws
    of it are known, so with r of them below, the PIT value is drawn uniformly between r
    / (n + 1) and (r + 1) / (n + 1): exactly uniform if the two arms are independent and alike, however
    few the draws. The test permutes which draws are called predicted, in the same way for all queries:
    it is exact as well, and accounts for queries that share the seeds of their draws. The statistic is
    the largest distance between the ECDF of PIT values and the uniform, in standard deviations of the
    permutations at each place, which gives simultaneous bands (in the manner of Saeilynoja, Buerkner
    and Vehtari, arXiv 2103.10522).

    Coverage is the share of retrained draws inside the central intervals of the prediction. Its
    standard error is the bootstrap's over draws of both arms, all queries together.

    Args:
        predicted: a sample set of the prediction, or values with dimension `draw`.
        retrained: a sample set of retraining on the same perturbed data, with other keys.
        levels: probabilities of central intervals.
        num_permutations: permutations; the smallest p-value is 1 / (1 + `num_permutations`).
        num_resamples: resamples for the errors.
        seed: seed of both, and of PIT values inside their rank.

    Returns:
        For each query (and perturbation, output): `pit` of each retrained draw, `coverage` and
        `coverage_error` per `level`, `p_value`, and `difference`, the ECDF of the PIT values minus
        `probability`, with its `band`. The same for all of them together, as `pooled_...`. NaN where a
        draw is NaN.

    Raises:
        ValueError: if the arms share a key, differ in queries or perturbations, or hold fewer than 3
            draws.
    """
    if isinstance(predicted, xr.DataTree) and isinstance(retrained, xr.DataTree):
        check_apart(keys_of(predicted), keys_of(retrained))
    first, second = _aligned(draws_of(predicted), draws_of(retrained))
    arms = [arm.values.reshape(len(arm), -1) for arm in (first, second)]
    rng, ranks, n = np.random.default_rng(seed), rank(*arms), len(first)
    pit = (ranks.below + rng.random(ranks.below.shape) * (ranks.tied + 1)) / (n + 1)
    covered = np.stack([share_within(ranks, n, *_ends(level)).mean(0) for level in levels])
    cells, pooled = _test(*arms, num_permutations, rng)
    errors, pooled_error = _errors(*arms, levels, num_resamples, rng)
    spoilt = np.isnan(np.concatenate(arms)).any(0)
    apart = {"pit": (("draw",), pit)} | _fields(cells, covered, errors)
    alone = Uniformity(*(field[..., 0] for field in pooled))
    together = _fields(alone, covered.mean(1), pooled_error, "pooled_")
    known = {k: (lead, np.where(spoilt, np.nan, x)) for k, (lead, x) in apart.items()}
    result = _laid_out(first, known).assign(xr.Dataset(together).where(not spoilt.any()))
    return result.assign_coords(level=list(levels), probability=np.arange(1, n + 1) / (n + 1))


def _fields(
    test: Uniformity, coverage: np.ndarray, errors: np.ndarray, prefix: str = ""
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return the fields of a result by name, with their leading dimensions."""
    fields = {
        "coverage": (("level",), coverage),
        "coverage_error": (("level",), errors),
        "p_value": ((), test.p_value),
        "difference": (("probability",), test.difference),
        "band": (("probability",), test.band),
    }
    return {prefix + name: field for name, field in fields.items()}


def _laid_out(like: xr.DataArray, fields: dict[str, tuple[tuple[str, ...], np.ndarray]]) -> xr.Dataset:
    """Restore the dimensions of arrays whose last axis runs over cells."""
    shape, dims = like.shape[1:], like.dims[1:]
    return xr.Dataset(
        {
            name: ((*lead, *dims), values.reshape(*values.shape[:-1], *shape))
            for name, (lead, values) in fields.items()
        },
        {dim: like[dim].values for dim in dims if dim in like.coords},
    )


def _test(
    predicted: Cells, observed: Cells, num_permutations: int, rng: np.random.Generator
) -> tuple[Uniformity, Uniformity]:
    """Test each cell, and the mean over cells."""
    difference, nulls = differences(predicted, observed, rng)
    spread = spread_of_null(len(predicted), len(observed))[:, None]
    strays, pooled = [], [difference.mean(1, keepdims=True)]
    for null in itertools.islice(nulls, num_permutations):
        strays.append((np.abs(null) / spread).max(0))
        pooled.append(null.mean(1, keepdims=True))
    pooled_spread = np.sqrt(np.mean(np.square(pooled), axis=0))
    pooled_strays = (np.abs(pooled) / pooled_spread).max(1)
    together = _against(pooled[0], pooled_spread, pooled_strays[1:])
    return _against(difference, spread, np.stack(strays)), together


def _against(
    difference: Float[np.ndarray, "place cell"],
    spread: Float[np.ndarray, "place #cell"],
    strays: Float[np.ndarray, "null cell"],
) -> Uniformity:
    """Compare a difference with permuted ones, by its largest size in standard deviations."""
    beyond = (strays >= (np.abs(difference) / spread).max(0) - 1e-9).sum(0)
    band = np.quantile(strays, 0.95, axis=0) * spread
    return Uniformity(difference, band, (1 + beyond) / (1 + len(strays)))


def _errors(
    predicted: Cells,
    observed: Cells,
    levels: Sequence[float],
    num_resamples: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap the errors of coverage `(level, cell)` and of its mean over cells `(level,)`."""
    times = [
        rng.multinomial(len(arm), np.full(len(arm), 1 / len(arm)), num_resamples).T
        for arm in (predicted, observed)
    ]
    step = max(1, BLOCK // (len(observed) * (len(predicted) + num_resamples)))
    parts = [
        _resampled(predicted[:, a : a + step], observed[:, a : a + step], *times, levels)
        for a in range(0, predicted.shape[1], step)
    ]
    covered = np.concatenate(parts, axis=1)
    return covered.std(-1), covered.mean(1).std(-1)


def _resampled(
    predicted: Cells,
    observed: Cells,
    times_predicted: np.ndarray,
    times_observed: np.ndarray,
    levels: Sequence[float],
) -> Float[np.ndarray, "level cell resample"]:
    """Compute the coverage of every resample, in which draws count as often as they were drawn."""
    own, others = observed.T[:, :, None], predicted.T[:, None, :]
    below, tied = (each.astype(float) @ times_predicted for each in (others < own, others == own))
    weight = times_observed / len(observed)
    shares = (share_within(Ranks(below, tied), len(predicted), *_ends(level)) for level in levels)
    return np.stack([(share * weight).sum(1) for share in shares])


def _ends(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _aligned(predicted: xr.DataArray, retrained: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    if _labels(predicted) != _labels(retrained):
        raise ValueError(
            f"predicted and retrained must have the same queries and perturbations; got "
            f"{dict(predicted.sizes)} and {dict(retrained.sizes)}, or other labels"
        )
    if min(len(predicted), len(retrained)) < 3:
        raise ValueError(
            f"at least 3 draws an arm are needed, got {len(predicted)} and {len(retrained)}"
        )
    return predicted, retrained.transpose(*predicted.dims)


def _labels(arm: xr.DataArray) -> dict[str, list]:
    return {str(dim): arm[dim].values.tolist() for dim in arm.dims if dim != "draw"}


def keys_of(tree: xr.DataTree) -> np.ndarray:
    """Return the key of each draw of a sample set, `(draw, word)`."""
    keys = tree.children["sample_stats"].to_dataset()["key"].values
    return keys.reshape(-1, keys.shape[-1])


def check_apart(first: np.ndarray, second: np.ndarray) -> None:
    """Check that two arms share no key.

    Raises:
        ValueError: if they share one.
    """
    if {*map(tuple, first)} & {*map(tuple, second)}:
        raise ValueError("predicted and retrained share a key: retrain with another one")
