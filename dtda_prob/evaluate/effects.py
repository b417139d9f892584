"""How far each perturbation moves each query's distribution, predicted or retrained."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.divergences import Divergence, estimate, resolve

Divergences = str | Divergence | Callable | Sequence[str | Divergence | Callable]
Values = Float[np.ndarray, "query perturbation"]
FIELDS = ("value", "error", "null")


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
