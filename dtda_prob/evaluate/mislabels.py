"""How well scores identify examples whose labels are known to be wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Bool, Float

Scores = Float[np.ndarray, "score example"]


def mislabels(
    scores: Mapping[str, Any], wrong: Bool[np.ndarray, " example"] | Any, counts: Sequence[int] = ()
) -> xr.Dataset:
    """Measure how well each score separates wrong labels from right ones.

    The area under the receiver operating characteristic is the share of pairs (one wrong, one right
    label) in which the wrong one has the higher score, ties counting half (Mann and Whitney). Its
    error, and the error of the difference between two scores, are DeLong's (Biometrics 44, 1988).

    Args:
        scores: by name, one number per example, higher where the label is more suspect.
        wrong: whether each example's label is wrong.
        counts: numbers of most suspect examples at which precision is computed; the number of wrong
            labels by default.

    Returns:
        A dataset with `auc` and `auc_error`, `(score,)`; `difference` (of the score minus the other)
        and `difference_error`, `(score, other)`; `precision`, the share of wrong labels among the most
        suspect data (ties in the order of data), and its binomial `precision_error`, `(score, count)`.

    Raises:
        ValueError: if a score does not fit the data or is not finite, all labels are wrong or right, or
            a count is out of range.

    >>> result = mislabels({"loss": [0.1, 3.0, 0.2, 0.4]}, [False, True, False, True])
    >>> float(result["auc"][0])
    1.0
    """
    wrong = np.asarray(wrong, bool)
    table = np.stack([_check_score(name, score, wrong) for name, score in scores.items()])
    if not 0 < wrong.sum() < len(wrong):
        raise ValueError(f"wrong marks {wrong.sum()} of {len(wrong)} examples; mark some, not all")
    auc, covariance = _areas(table[:, wrong], table[:, ~wrong])
    variance = np.diag(covariance)
    between = np.maximum(variance[:, None] + variance - 2 * covariance, 0.0)
    counts = [*counts] or [int(wrong.sum())]
    precision = _precision(table, wrong, counts)
    return xr.Dataset(
        {
            "auc": ("score", auc),
            "auc_error": ("score", np.sqrt(variance)),
            "difference": (("score", "other"), auc[:, None] - auc),
            "difference_error": (("score", "other"), np.sqrt(between)),
            "precision": (("score", "count"), precision),
            "precision_error": (("score", "count"), np.sqrt(precision * (1 - precision) / counts)),
        },
        coords={"score": list(scores), "other": list(scores), "count": counts},
        attrs={"num_data": len(wrong), "num_wrong": int(wrong.sum())},
    )


def _areas(
    wrong: Float[np.ndarray, "score wrong"], right: Float[np.ndarray, "score right"]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the areas and their covariance, from how each example compares with the other kind."""
    ranks = scipy.stats.rankdata(np.concatenate([wrong, right], 1), axis=1)
    num_wrong, num_right = wrong.shape[1], right.shape[1]
    above = (ranks[:, :num_wrong] - scipy.stats.rankdata(wrong, axis=1)) / num_right
    below = 1 - (ranks[:, num_wrong:] - scipy.stats.rankdata(right, axis=1)) / num_wrong
    covariance = np.atleast_2d(np.cov(above)) / num_wrong + np.atleast_2d(np.cov(below)) / num_right
    return above.mean(1), covariance


def _precision(table: Scores, wrong: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    if min(counts) < 1 or max(counts) > len(wrong):
        raise ValueError(f"counts={[*counts]} must lie between 1 and the {len(wrong)} data")
    order = np.argsort(-table, axis=1, kind="stable")
    return np.stack([wrong[order[:, :count]].mean(1) for count in counts], 1)


def _check_score(name: str, score: Any, wrong: np.ndarray) -> np.ndarray:
    score = np.asarray(score, float)
    if score.shape != wrong.shape:
        raise ValueError(
            f"score {name!r} must be one number per example, {wrong.shape}; got {score.shape}"
        )
    if not np.isfinite(score).all():
        raise ValueError(f"score {name!r} is not finite for {(~np.isfinite(score)).sum()} examples")
    return score
