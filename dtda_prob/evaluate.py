"""Is the prediction right: predicted against retrained effects, for single data and for subsets."""

from typing import Any, Literal

import jax
import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob import perturbations as perturb
from dtda_prob.attribution import attribute
from dtda_prob.perturbations import Data, Removal
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey


def agreement(
    push_forward: PushForward,
    key: PRNGKey,
    retrain_key: PRNGKey,
    perturbations: Any,
    *,
    num_draws: int = 16,
    num_retrainings: int = 32,
    coupled: bool = True,
    direction: Literal["pull", "push"] = "pull",
    progress: bool = True,
) -> xr.Dataset:
    """Compare predicted with retrained shifts of the mean, E_D[m] - E_D'[m].

    Costs `num_retrainings` trainings per perturbation beside the prediction.

    Args:
        push_forward: what predicts.
        key: key of the draws that predict.
        retrain_key: key of the retrainings; another one, so that nothing is shared.
        perturbations: weights `(perturbation, datum)`.
        num_draws: draws that predict.
        num_retrainings: retrainings per perturbation, an even number: their two halves give the
            reliability of the truth.
        coupled: whether retrainings with and without the data share keys.
        direction: how shifts are predicted, see `attribute`.
        progress: show progress bars on a terminal.

    Returns:
        A dataset with `predicted`, `retrained` and their standard errors `predicted_error` and
        `retrained_error`, `(query, perturbation)`; and, per query, the correlations over
        perturbations `pearson` and `spearman` and the Spearman correlation `reliability` between
        the two halves of the retrainings. NaN where a query's shifts are all alike.

    Raises:
        ValueError: if the key is used on both sides or `num_retrainings` is not even.
    """
    _check_apart(key, retrain_key)
    if num_retrainings % 2:
        raise ValueError(f"num_retrainings={num_retrainings} must be even, for two halves")
    predicted = _mean_shift(
        push_forward, key, num_draws, perturbations, direction=direction, progress=progress
    )
    halves = [
        _mean_shift(
            push_forward.training,
            half,
            num_retrainings // 2,
            perturbations,
            new_key=None if coupled else jax.random.fold_in(half, 1),
            progress=progress,
        )
        for half in jax.random.split(retrain_key)
    ]
    retrained = (halves[0]["score"] + halves[1]["score"]) / 2
    error = np.hypot(halves[0]["error"], halves[1]["error"]) / 2
    return xr.Dataset(
        {
            "predicted": predicted["score"],
            "predicted_error": predicted["error"],
            "retrained": retrained,
            "retrained_error": error,
            "pearson": _correlation(scipy.stats.pearsonr, predicted["score"], retrained),
            "spearman": _correlation(scipy.stats.spearmanr, predicted["score"], retrained),
            "reliability": _correlation(scipy.stats.spearmanr, *(h["score"] for h in halves)),
        },
        attrs={"transform": push_forward.name, "coupled": int(coupled)},
    )


def leave_one_out(
    push_forward: PushForward, key: PRNGKey, retrain_key: PRNGKey, data: Data, **options: Any
) -> xr.Dataset:
    """Compare predicted with retrained influences of single data; see `agreement`.

    Args:
        push_forward: what predicts.
        key: key of the draws that predict.
        retrain_key: key of the retrainings.
        data: labels of the data to leave out, one at a time.
        **options: of `agreement`.
    """
    each = perturb.leave_one_out(push_forward.training.program, data)
    return agreement(push_forward, key, retrain_key, each, **options)


def lds(
    push_forward: PushForward,
    key: PRNGKey,
    retrain_key: PRNGKey,
    *,
    num_subsets: int = 30,
    keep: float | int = 0.5,
    removal: Removal = "drop",
    **options: Any,
) -> xr.Dataset:
    """Compute the linear datamodelling score over random subsets; see `agreement`.

    The score is the mean over queries of `spearman` (Park et al., arXiv 2303.14186).

    Args:
        push_forward: what predicts; it is matched to the rows that a "drop" leaves.
        key: key of the draws that predict.
        retrain_key: key of the retrainings and of the subsets.
        num_subsets: number of subsets.
        keep: share or number of data that a subset keeps.
        removal: what a retraining does with the others.
        **options: of `agreement`.
    """
    subset_key, retrain_key = jax.random.split(retrain_key)
    subsets = perturb.random_subsets(
        push_forward.training.program, subset_key, num_subsets, keep, removal=removal
    )
    return agreement(push_forward, key, retrain_key, subsets, **options)


def _mean_shift(kernel: Any, key: PRNGKey, num_draws: int, weights: Any, **options: Any) -> xr.Dataset:
    scores = attribute(kernel, key, num_draws, ["mean"], weights, **options)
    return scores.sel(divergence="mean", drop=True)


def _correlation(measure: Any, first: xr.DataArray, second: xr.DataArray) -> xr.DataArray:
    """Correlate over perturbations, query by query."""

    def correlate(first: np.ndarray, second: np.ndarray) -> float:
        constant = np.ptp(first) == 0 or np.ptp(second) == 0
        return np.nan if constant else measure(first, second).statistic

    over = [["perturbation"], ["perturbation"]]
    return xr.apply_ufunc(correlate, first, second, input_core_dims=over, vectorize=True)


def _check_apart(key: PRNGKey, retrain_key: PRNGKey) -> None:
    if (jax.random.key_data(key) == jax.random.key_data(retrain_key)).all():
        raise ValueError("retrain_key is key: give other keys, or prediction and truth share seeds")
