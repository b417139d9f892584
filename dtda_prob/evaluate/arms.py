"""Both arms of a comparison, predicted or retrained, and the divergences between them."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.attribution.arms import Comparison, arms_of, comparison, given
from dtda_prob.attribution.attribute import longest_steps
from dtda_prob.divergences import Divergence, estimate, resolve
from dtda_prob.perturbations import check_weights
from dtda_prob.sampling import warn_not_finite
from dtda_prob.studies.check import has_range, warn_beyond_range
from dtda_prob.studies.draw import values
from dtda_prob.studies.run import HERE, Where, unfinished
from dtda_prob.studies.source import keys_of
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey

Divergences = str | Divergence | Callable | Sequence[str | Divergence | Callable]
Values = Float[np.ndarray, "query perturbation"]
FIELDS = ("value", "error", "null")


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
    first: int = 0,
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
        first: runs to pass over: draw 0 has the key that draw `first` has without them.
        where: see `Where`; what is kept is called "retrained" if it has no name.

    Returns:
        A dataset as `predictions` returns it.

    Raises:
        ValueError: for bad weights.
    """
    new_key = None if coupled else jax.random.fold_in(key, 1)
    compared = comparison(training, key, given(perturbations), "push", new_key)
    return _arms(compared, num_retrainings, where.named("retrained"), check=False, first=first)


def _arms(
    compared: Comparison, num_draws: int, where: Where, check: bool, first: int = 0
) -> xr.Dataset:
    training, source = compared.training, compared.source
    is_new = any(unfinished(task, where) for task in compared.tasks(num_draws, where, first)[:1])
    both = compared.draw(num_draws, where, first)
    arms = arms_of(both)
    finite = np.isfinite(arms.new).reshape(len(arms.new), -1).all(1)
    warn_not_finite(~finite, "effects that they enter are NaN")
    if check and is_new and has_range(source):
        warn_beyond_range(source, compared.key, *longest_steps(compared, both))
    weights, labelled = compared.perturbed.weights(), compared.labelled(arms)
    if compared.direction == "pull" and compared.perturbed.num_removed().any():
        # A pull starts from the matched training, which has fewer steps than training on all data.
        runs, whole = training.num_runs(num_draws), check_weights(training.program, None)
        keep = ("statistics",) if where.store else ()
        full = values(training, compared.key, runs, whole, where / "all_data", keep=keep)
        labelled["full"] = labelled["full"].dims, full
    keys = keys_of(source, compared.key, first + np.arange(training.num_runs(num_draws)))
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


def effects(
    arms: xr.Dataset,
    divergences: Divergences = "mean",
    *,
    num_splits: int = 0,
    num_permutations: int = 0,
    seed: int = 0,
) -> xr.Dataset:
    """Estimate divergences between both arms, for each query and perturbation.

    Args:
        arms: a result of `predictions` or `retrainings`.
        divergences: one or several names, `Divergence`s or functions `(old, new) -> value`.
        num_splits: number of random splits of the draws into halves, from each of which the divergence
            is estimated; `agreement` needs them for the truth.
        num_permutations: permutations for null levels.
        seed: seed of the splits and permutations.

    Returns:
        A dataset with `value`, `error` (standard error; NaN of fewer than 3 draws) and `null` (see
        `divergences.estimate`), `(divergence, query, perturbation)`; where draws are split, `halves`,
        `(split, half, divergence, query, perturbation)`; and the `weights` and keys of `arms`. Removal
        curves have `order` and `count` in place of `perturbation`.

    Raises:
        ValueError: for unknown divergences, too few runs (3, or 1 for the mean; 6 to be split), or
            if one needs what the measure does not give.
    """
    chosen = [resolve(divergence) for divergence in _listed(divergences)]
    estimates = [_effect(arms, divergence, num_permutations, seed) for divergence in chosen]
    several = [dim for dim in arms["perturbed"].dims if dim not in ("draw", "output")]
    dims = ("divergence", *several)
    stacked = map(np.stack, zip(*estimates, strict=True))
    fields: dict[str, Any] = {
        name: (dims, values) for name, values in zip(FIELDS, stacked, strict=True)
    }
    if num_splits:
        halves = _halves(arms, chosen, num_splits, np.random.default_rng(seed))
        fields["halves"] = (("split", "half", *dims), halves)
    names = {"divergence": [divergence.name for divergence in chosen]}
    kept = arms.drop_vars(["full", "perturbed"])
    return kept.assign(fields).assign_coords(names).assign_attrs(draws=arms.sizes["draw"])


def _listed(divergences: Divergences) -> Sequence[str | Divergence | Callable]:
    single = isinstance(divergences, str | Divergence) or callable(divergences)
    if not single and not divergences:
        raise ValueError(f"divergences={divergences!r} is an empty list: name one, such as 'mean'")
    return [divergences] if single else divergences


def _effect(
    arms: xr.Dataset, divergence: Divergence, num_permutations: int = 0, seed: int = 0
) -> tuple[Values, Values, Values]:
    """Estimate a divergence, its error and its null level."""
    vector = "output" in arms["full"].dims
    new = arms["perturbed"]
    old, new = arms["full"].broadcast_like(new).transpose(*new.dims).values, new.values
    num_states = _num_states(arms)
    if len(old) < 3 * num_states and divergence.name == "mean":
        shift = (new - old.astype(float)).mean(0)
        value = np.linalg.norm(shift, axis=-1) if vector else shift
        unknown = np.full_like(value, np.nan)
        return value, unknown, unknown
    estimated = estimate(
        divergence,
        old,
        new,
        coupled=arms.attrs["arms"] == "coupled",
        vector=vector,
        num_permutations=num_permutations,
        seed=seed,
        num_states=num_states,
    )
    return estimated.value, estimated.error, estimated.null


def _halves(
    arms: xr.Dataset, chosen: Sequence[Divergence], num_splits: int, rng: np.random.Generator
) -> np.ndarray:
    num_states = _num_states(arms)
    runs = np.arange(arms.sizes["draw"]).reshape(num_states, -1)
    num_runs = runs.shape[1]
    if num_runs < 6 or num_runs % 2:
        raise ValueError(
            f"{num_runs} runs cannot be split into halves of at least 3: make num_retrainings an "
            f"even number of at least 6, times the num_states={num_states} of a run"
        )
    orders = [runs[:, rng.permutation(num_runs)] for _ in range(num_splits)]
    splits = [[half.ravel() for half in np.split(order, 2, axis=1)] for order in orders]

    def of_half(half: np.ndarray) -> list[Values]:
        some = arms.isel(draw=np.sort(half))
        return [_effect(some, divergence)[0] for divergence in chosen]

    return np.stack([[of_half(half) for half in halves] for halves in splits])


def first_draws(arms: xr.Dataset, count: int) -> xr.Dataset:
    """Return the first draws: where runs have several states, all states of the first runs.

    Raises:
        ValueError: if they are not whole runs.
    """
    num_states = _num_states(arms)
    if count % num_states:
        raise ValueError(f"counts={count} must be a multiple of the num_states={num_states} of a run")
    runs = np.arange(arms.sizes["draw"]).reshape(num_states, -1)
    return arms.isel(draw=runs[:, : count // num_states].ravel())


def _num_states(arms: xr.Dataset) -> int:
    """Return the number of draws in each run: of R runs, draw i belongs to run i modulo R."""
    return int(arms.attrs.get("num_states", 1))
