"""Is the prediction right: predicted against retrained effects, for single data and for subsets."""

from typing import Any, Literal

import jax
import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob import perturbations as perturb
from dtda_prob.attribution import draw_arms
from dtda_prob.outcomes.draws import Source, training_of
from dtda_prob.perturbations import Data, Removal
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey


def shifts(
    source: Source,
    key: PRNGKey,
    num_draws: int,
    perturbations: Any,
    *,
    direction: Literal["pull", "push"] | None = None,
    new_key: PRNGKey | None = None,
    progress: bool = True,
) -> xr.DataArray:
    """Give the shift of the measurement in each draw, m on all data less m on the perturbed.

    Args:
        source: a push-forward, which predicts, or a training, which retrains.
        key: key of the draws.
        num_draws: number of draws.
        perturbations: weights `(perturbation, datum)`.
        direction: how shifts are predicted, see `attribute`.
        new_key: key of the draws on perturbed data; those of `key` if None.
        progress: show a progress bar on a terminal.

    Returns:
        Shape `(draw, query, perturbation)`; means over draws estimate E_D[m] - E_D'[m].

    Raises:
        ValueError: if the measure gives more than a number per query.
    """
    arms = draw_arms(
        source,
        key,
        num_draws,
        perturbations,
        direction=direction,
        new_key=new_key,
        progress=progress,
    )
    measure = training_of(source).measure
    if arms.new.ndim > 3:
        raise ValueError(f"measure {measure.name!r} gives several outputs per query; measure one")
    coords = {"query": measure.queries, "perturbation": arms.weights["perturbation"].values}
    return xr.DataArray(
        arms.old - arms.new,
        coords,
        ("draw", "query", "perturbation"),
        attrs={"source": "retrain" if isinstance(source, Training) else source.name},
    )


def retrainings(
    training: Training,
    key: PRNGKey,
    perturbations: Any,
    *,
    num_retrainings: int = 32,
    coupled: bool = True,
    progress: bool = True,
) -> xr.DataArray:
    """Retrain, for predictions to be compared with: the true shifts, `(draw, query, perturbation)`.

    Costs `num_retrainings` trainings per perturbation; compute it once for all methods.

    Args:
        training: the stochastic kernel.
        key: key of the retrainings; another one than that of predictions.
        perturbations: weights `(perturbation, datum)`.
        num_retrainings: retrainings per perturbation, an even number: the halves give the
            reliability of the truth.
        coupled: whether trainings with and without the data share keys.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: if `num_retrainings` is not even.
    """
    if num_retrainings % 2:
        raise ValueError(f"num_retrainings={num_retrainings} must be even, for two halves")
    new_key = None if coupled else jax.random.fold_in(key, 1)
    return shifts(training, key, num_retrainings, perturbations, new_key=new_key, progress=progress)


def agreement(predicted: xr.DataArray, retrained: xr.DataArray) -> xr.Dataset:
    """Compare predicted with retrained shifts of the mean, E_D[m] - E_D'[m].

    Args:
        predicted: what `shifts` gives for a push-forward.
        retrained: what `retrainings` gives for the same perturbations, with another key.

    Returns:
        A dataset with `predicted`, `retrained` and their standard errors `predicted_error` and
        `retrained_error`, `(query, perturbation)`; and, per query, the correlations over
        perturbations `pearson` and `spearman` and the Spearman correlation `reliability` between
        the two halves of the retrainings. NaN where a query's shifts are all alike.
    """
    half = retrained.sizes["draw"] // 2
    halves = [retrained[:half].mean("draw"), retrained[half:].mean("draw")]
    means = predicted.mean("draw"), retrained.mean("draw")
    return xr.Dataset(
        {
            "predicted": means[0],
            "predicted_error": _standard_error(predicted),
            "retrained": means[1],
            "retrained_error": _standard_error(retrained),
            "pearson": _correlation(scipy.stats.pearsonr, *means),
            "spearman": _correlation(scipy.stats.spearmanr, *means),
            "reliability": _correlation(scipy.stats.spearmanr, *halves),
        },
        attrs={"transform": predicted.attrs["source"]},
    )


def leave_one_out(
    push_forward: PushForward,
    key: PRNGKey,
    retrain_key: PRNGKey,
    data: Data,
    *,
    num_draws: int = 16,
    num_retrainings: int = 32,
    coupled: bool = True,
    direction: Literal["pull", "push"] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Compare predicted with retrained influences of single data; see `agreement`.

    Args:
        push_forward: what predicts.
        key: key of the draws that predict.
        retrain_key: key of the retrainings.
        data: labels of the data to leave out, one at a time.
        num_draws: draws that predict.
        num_retrainings: retrainings per datum, an even number.
        coupled: whether retrainings with and without the datum share keys.
        direction: how shifts are predicted, see `attribute`.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: if the key is used on both sides or `num_retrainings` is not even.
    """
    _check_apart(key, retrain_key)
    each = perturb.leave_one_out(push_forward.training.program, data)
    truth = retrainings(
        push_forward.training,
        retrain_key,
        each,
        num_retrainings=num_retrainings,
        coupled=coupled,
        progress=progress,
    )
    predicted = shifts(push_forward, key, num_draws, each, direction=direction, progress=progress)
    return agreement(predicted, truth)


def lds(
    push_forward: PushForward,
    key: PRNGKey,
    retrain_key: PRNGKey,
    *,
    num_subsets: int = 30,
    keep: float | int = 0.5,
    removal: Removal = "drop",
    num_draws: int = 16,
    num_retrainings: int = 32,
    direction: Literal["pull", "push"] | None = None,
    progress: bool = True,
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
        num_draws: draws that predict.
        num_retrainings: retrainings per subset, an even number.
        direction: how shifts are predicted, see `attribute`.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: if the key is used on both sides or `num_retrainings` is not even.
    """
    _check_apart(key, retrain_key)
    subset_key, retrain_key = jax.random.split(retrain_key)
    subsets = perturb.random_subsets(
        push_forward.training.program, subset_key, num_subsets, keep, removal=removal
    )
    truth = retrainings(
        push_forward.training,
        retrain_key,
        subsets,
        num_retrainings=num_retrainings,
        progress=progress,
    )
    predicted = shifts(push_forward, key, num_draws, subsets, direction=direction, progress=progress)
    return agreement(predicted, truth)


def _standard_error(draws: xr.DataArray) -> xr.DataArray:
    """Give the error of the mean; NaN of a single draw."""
    if draws.sizes["draw"] < 2:
        return xr.full_like(draws[0], np.nan)
    return draws.std("draw", ddof=1) / draws.sizes["draw"] ** 0.5


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
