"""Both arms of a comparison, predicted or retrained, as one labelled dataset that can be stored."""

from typing import Any, Literal

import jax
import numpy as np
import xarray as xr

from dtda_prob.attribution.arms import Comparison, arms_of, comparison, given
from dtda_prob.attribution.attribute import longest_steps
from dtda_prob.perturbations import check_weights
from dtda_prob.sampling import warn_not_finite
from dtda_prob.studies.check import has_range, warn_beyond_range
from dtda_prob.studies.draw import values
from dtda_prob.studies.run import HERE, Where, unfinished
from dtda_prob.studies.source import keys_of, num_runs
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey


def predictions(
    push_forward: PushForward,
    key: PRNGKey,
    num_draws: int,
    perturbations: Any,
    *,
    direction: Literal["pull", "push"] | None = None,
    check: bool = True,
    where: Where = HERE,
) -> xr.Dataset:
    """Predict the measurement on perturbed data, and on all data with the same keys.

    Args:
        push_forward: the transform that predicts.
        key: key of the draws; not the key of the truth.
        num_draws: number of draws.
        perturbations: weights `(perturbation, example)`.
        direction: "pull" (one response a draw serves all perturbations) or "push"; see `attribute`.
        check: retrain one draw at the longest steps, and warn where they are out of range.
        where: see `Where`; what is kept is called "predicted" if it has no name.

    Returns:
        A dataset with `full`, the measurement on all data, `(draw, query[, output])`; `perturbed`, on
        each perturbed dataset, `(draw, query, perturbation[, output])`; `weights`,
        `(perturbation, example)`; and `key`, the key of each draw. Attributes hold the source, the
        measure, whether both arms share keys ("coupled" or "independent") and the removal. To store
        it: `dtda.save(xarray.DataTree(dataset), path)`.

    Raises:
        ValueError: for bad weights, or by "pull" if perturbations drop different numbers of rows.

    Warns:
        RuntimeWarning: if draws are not finite, or predictions out of range.
    """
    compared = comparison(push_forward, key, given(perturbations), direction)
    return _arms(compared, num_draws, where.named("predicted"), check)


def retrainings(
    training: Training,
    key: PRNGKey,
    perturbations: Any,
    *,
    num_retrainings: int = 32,
    coupled: bool = True,
    where: Where = HERE,
) -> xr.Dataset:
    """Retrain on perturbed data: the truth, computed once for all methods and all divergences.

    Costs `num_retrainings` trainings per perturbation, and as many on all data.

    Args:
        training: the stochastic kernel.
        key: key of the retrainings; not the key of predictions.
        perturbations: weights `(perturbation, example)`.
        num_retrainings: retrainings per perturbation.
        coupled: whether trainings on all data and on perturbed data share keys; if not, no two
            trainings share one.
        where: see `Where`; what is kept is called "retrained" if it has no name.

    Returns:
        A dataset as `predictions` returns it.

    Raises:
        ValueError: for bad weights.
    """
    new_key = None if coupled else jax.random.fold_in(key, 1)
    compared = comparison(training, key, given(perturbations), "push", new_key)
    return _arms(compared, num_retrainings, where.named("retrained"), check=False)


def _arms(compared: Comparison, num_draws: int, where: Where, check: bool) -> xr.Dataset:
    training, source = compared.training, compared.source
    is_new = any(unfinished(task, where) for task in compared.tasks(num_draws, where)[:1])
    both = compared.draw(num_draws, where)
    arms = arms_of(both)
    finite = np.isfinite(arms.new).reshape(len(arms.new), -1).all(1)
    warn_not_finite(~finite, "effects that they enter are NaN")
    if check and is_new and has_range(source):
        warn_beyond_range(source, compared.key, *longest_steps(compared, both))
    weights, labelled = compared.perturbed.weights(), compared.labelled(arms)
    if compared.direction == "pull" and compared.perturbed.num_removed().any():
        # A pull starts from the matched training, which has fewer steps than training on all data.
        runs, whole = num_runs(training, num_draws), check_weights(training.program, None)
        keep = ("statistics",) if where.store else ()
        full = values(training, compared.key, runs, whole, where / "all_data", keep=keep)
        labelled["full"] = labelled["full"].dims, full
    keys = keys_of(source, compared.key, np.arange(num_runs(training, num_draws)))
    key_data = np.tile(jax.random.key_data(keys), (training.kernel.num_states, 1))
    labelled = labelled.assign(
        weights=(("perturbation", "example"), weights.values), key=(("draw", "word"), key_data)
    )
    return labelled.assign_coords(example=weights["example"].values).assign_attrs(
        source="retrain" if isinstance(source, Training) else source.name,
        measure=training.measure.name,
        arms="coupled" if compared.coupled else "independent",
        removal=weights.attrs.get("removal", "reweight"),
        num_states=training.kernel.num_states,
    )
