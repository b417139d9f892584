"""Both arms of a comparison, predicted or retrained, as one labelled dataset that can be stored."""

from typing import Any, Literal, Unpack

import jax
import numpy as np
import xarray as xr

from dtda_prob.attribution.arms import Arms, Direction, draw_arms
from dtda_prob.attribution.stored import arms_into, draws_into
from dtda_prob.evaluate.where import Where, check_where, place_of
from dtda_prob.outcomes.draws import draw_all
from dtda_prob.outcomes.source import Source, draw_keys, read_value, training_of
from dtda_prob.outcomes.study import Place
from dtda_prob.perturbations import check_weights, num_removed
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
    **where: Unpack[Where],
) -> xr.Dataset:
    """Predict the measurement on perturbed data, beside training on all data with the same keys.

    Args:
        push_forward: what predicts.
        key: key of the draws; another one than that of the truth.
        num_draws: number of draws.
        perturbations: weights `(perturbation, datum)`.
        direction: "pull" (one response a draw serves all perturbations) or "push"; see `attribute`.
        **where: `store`, `name` ("predicted" if left out), `engine` and `progress`; see `sample`.

    Returns:
        A dataset with `full`, the measurement on all data, `(draw, query[, output])`; `perturbed`, on
        each perturbed dataset, `(draw, query, perturbation[, output])`; `weights`,
        `(perturbation, datum)`; and `key`, the key of each draw. Attributes say the source, the
        measure, whether both arms share keys ("coupled" or "independent") and the removal. To store
        it: `dtda.save(xarray.DataTree(dataset), path)`.

    Raises:
        ValueError: for bad weights, or by "pull" if perturbations drop different numbers of rows.
    """
    return _arms(push_forward, key, num_draws, perturbations, direction, None, "predicted", where)


def retrainings(
    training: Training,
    key: PRNGKey,
    perturbations: Any,
    *,
    num_retrainings: int = 32,
    coupled: bool = True,
    **where: Unpack[Where],
) -> xr.Dataset:
    """Retrain on perturbed data: the truth, computed once for all methods and all divergences.

    Costs `num_retrainings` trainings per perturbation, and as many on all data.

    Args:
        training: the stochastic kernel.
        key: key of the retrainings; another one than that of predictions.
        perturbations: weights `(perturbation, datum)`.
        num_retrainings: retrainings per perturbation.
        coupled: whether trainings on all data and on perturbed data share keys; if not, no two
            trainings share one.
        **where: `store`, `name` ("retrained" if left out), `engine` and `progress`; see `sample`.

    Returns:
        A dataset like that of `predictions`.

    Raises:
        ValueError: for bad weights.
    """
    new_key = None if coupled else jax.random.fold_in(key, 1)
    return _arms(training, key, num_retrainings, perturbations, "push", new_key, "retrained", where)


def _arms(
    source: Source,
    key: PRNGKey,
    num_draws: int,
    perturbations: Any,
    direction: Literal["pull", "push"] | None,
    new_key: PRNGKey | None,
    name: str,
    where: Where,
) -> xr.Dataset:
    check_where(where)
    training = training_of(source)
    weights = _several(check_weights(training.program, perturbations))
    place = place_of(where, name)
    asked = source, key, num_draws, weights, direction, new_key
    arms = _in_memory(where, *asked) if place is None else arms_into(place, *asked)
    full = arms.old[:, :, 0]
    if direction != "push" and num_removed(weights).any():
        # A pull starts from the matched training, which has fewer steps than training on all data.
        full = _on_all_data(training, key, num_draws, place, where)
    output = ["output"][: full.ndim - 2]
    keys = draw_keys(key, training.num_runs(num_draws))
    key_data = np.tile(jax.random.key_data(keys), (training.kernel.num_states, 1))
    return xr.Dataset(
        {
            "full": (("draw", "query", *output), full),
            "perturbed": (("draw", "query", "perturbation", *output), arms.new),
            "weights": (("perturbation", "datum"), weights.values),
            "key": (("draw", "word"), key_data),
        },
        coords={
            "query": training.measure.queries,
            "perturbation": weights["perturbation"].values,
            "datum": weights["datum"].values,
        },
        attrs={
            "source": "retrain" if isinstance(source, Training) else source.name,
            "measure": training.measure.name,
            "arms": "coupled" if new_key is None else "independent",
            "removal": weights.attrs.get("removal", "reweight"),
            "num_states": training.kernel.num_states,
        },
    )


def _several(weights: xr.DataArray) -> xr.DataArray:
    return weights if weights.ndim == 2 else weights.expand_dims(perturbation=[0])


def _in_memory(
    where: Where,
    source: Source,
    key: PRNGKey,
    num_draws: int,
    weights: xr.DataArray,
    direction: Direction | None,
    new_key: PRNGKey | None,
) -> Arms:
    engine, progress = where.get("engine"), where.get("progress", True)
    return draw_arms(
        source,
        key,
        num_draws,
        weights,
        direction=direction,
        new_key=new_key,
        engine=engine,
        progress=progress,
    )


def _on_all_data(
    training: Training, key: PRNGKey, num_draws: int, place: Place | None, where: Where
) -> np.ndarray:
    whole, runs = check_weights(training.program, None), training.num_runs(num_draws)
    if place is not None:
        return draws_into(place, "all_data", training, key, runs, whole, shared=True)
    engine, progress = where.get("engine"), where.get("progress", True)
    return draw_all(training, key, runs, whole, read_value, engine=engine, progress=progress)
