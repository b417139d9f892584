"""Predicted against retrained effects: correlations, their attenuation by noise, and intervals."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Float

from dtda_prob.correlations import (
    lengthened,
    mean_of_known,
    pearson,
    root_of_positive,
    spearman,
)
from dtda_prob.evaluate.arms import Divergences, effects, first_draws

Effects = Float[np.ndarray, "divergence query perturbation"]

MOST_SPLITS = 2
"""Splits that the reliability of a resample is taken from, at most."""
FLOOR = (
    "nothing is subtracted from either side: this library's divergences scatter about zero when "
    "nothing moves, while a user's function may have a floor of noise; disattenuated corrects "
    "the attenuation of a correlation by noise in the truth"
)


def agreement(
    predicted: xr.Dataset, retrained: xr.Dataset, *, num_resamples: int = 100, level: float = 0.9
) -> xr.Dataset:
    """Correlate predicted with retrained effects over perturbations, query by query.

    The Spearman correlation over random subsets, averaged over queries, is the linear datamodelling
    score (Park et al., arXiv 2303.14186) if the divergence is "mean", and its distributional version
    for any other. Noise in the truth attenuates it by the root of the truth's `reliability`; dividing
    by that root gives the correlation with a truth of infinitely many retrainings (exact for
    Pearson's, approximate for ranks). Noise in the predictions is not corrected.

    Errors over queries are from resampling perturbations with replacement and halves of the truth's
    draws without; queries and predictions are held fixed. They are conservative where the truth
    is noisy. Intervals are normal.

    Args:
        predicted: the `effects` of predictions; or scores of single examples, from `attribute` or
            `read_scores`, which are added up over the examples that a perturbation removes. Scores
            hold no keys, so that it is not checked that they share none with the truth.
        retrained: the `effects` of the truth, with `num_splits`, for the same perturbations and
            divergences; it shares no key with predictions.
        num_resamples: resamples for the errors.
        level: coverage of the intervals.

    Returns:
        A dataset with `predicted`, `retrained` and their standard errors `predicted_error` and
        `retrained_error`, `(divergence, query, perturbation)`; per query `pearson`, `spearman`, the
        `reliability` of the truth and the `disattenuated` Spearman correlation (NaN where a query's
        effects are all the same, or the reliability is not positive); and over the queries that have a
        value (`num_queries`): `lds` (mean Spearman), `lds_reliability` and `lds_disattenuated`, the
        scores with `_error`, `_lower` and `_upper`. The attribute `floor` describes how noise in
        divergences that cannot be negative was treated.

    Raises:
        ValueError: if perturbations or divergences differ, keys are shared, or the truth is not split.
    """
    if "score" in predicted:
        predicted = _added_up(predicted, retrained)
    _check_match(predicted, retrained)
    guess, truth = predicted["value"].values, retrained["value"].values
    reliable = reliability(retrained).values
    ranked = spearman(guess, truth)
    fields = {
        "predicted": guess,
        "predicted_error": predicted["error"].values,
        "retrained": truth,
        "retrained_error": retrained["error"].values,
        "pearson": pearson(guess, truth),
        "spearman": ranked,
        "reliability": reliable,
        "disattenuated": ranked / root_of_positive(reliable),
    }
    fields |= _over_queries(guess, retrained, num_resamples)
    fields |= _intervals(fields, level)
    dims = ("divergence", "query", "perturbation")
    coords = {name: predicted[name].values for name in dims}
    return xr.Dataset(
        {name: (dims[: values.ndim], values) for name, values in fields.items()},
        coords,
        attrs=_described(predicted, retrained, level),
    )


def _added_up(scores: xr.Dataset, retrained: xr.Dataset) -> xr.Dataset:
    """Return the effects of removing examples together, as the sum of their effects one by one."""
    if "example" not in scores["score"].dims or not _has(scores, retrained):
        raise ValueError(
            "predicted: scores must be of single examples, all examples of the truth by their labels, "
            f"and of its divergences {retrained['divergence'].values.tolist()}"
        )
    removed = 1 - retrained["weights"]
    chosen = scores["score"].sel(divergence=retrained["divergence"], example=removed["example"])
    value = xr.dot(chosen, removed, dim="example").transpose("divergence", "query", "perturbation")
    about = {"source": "scores", "measure": scores.attrs["measure"], "draws": scores.attrs["num_draws"]}
    arms = "coupled" if scores.attrs["coupled"] else "independent"
    fields = {"value": value, "error": value.where(False), "weights": retrained["weights"]}
    return xr.Dataset(fields, attrs=about | {"arms": arms})


def _has(scores: xr.Dataset, retrained: xr.Dataset) -> bool:
    """Return whether there are scores of all examples and divergences of the truth."""
    return all(
        np.isin(retrained[name].values, scores[name].values).all() for name in ("divergence", "example")
    )


def reliability(retrained: xr.Dataset) -> xr.DataArray:
    """Estimate the reliability of the truth, its correlation with another such truth.

    It is the Spearman correlation between effects estimated from halves of the draws, averaged over
    splits and extrapolated to all draws (Spearman 1910; Brown 1910).

    Args:
        retrained: the `effects` of the truth, with `num_splits`.

    Returns:
        Shape `(divergence, query)`.

    Raises:
        ValueError: if the truth is not split.
    """
    if "halves" not in retrained:
        raise ValueError(
            "retrained is not split into halves: pass num_splits to effects(retrained, ...)"
        )
    halves = retrained["halves"].values
    values = lengthened(mean_of_known(spearman(halves[:, 0], halves[:, 1]), 0))
    coords = {name: retrained[name].values for name in ("divergence", "query")}
    return xr.DataArray(values, coords, ("divergence", "query"), name="reliability")


def agreement_by_draws(
    predicted: xr.Dataset,
    retrained: xr.Dataset,
    counts: Sequence[int],
    divergences: Divergences = "mean",
    *,
    num_splits: int = 20,
    level: float = 0.9,
) -> xr.Dataset:
    """Compute the agreement of the first draws of a prediction with the whole truth.

    Args:
        predicted: a result of `predictions`.
        retrained: a result of `retrainings`.
        counts: numbers of draws.
        divergences: what is compared; all but the mean need 3 draws.
        num_splits: splits of the truth into halves.
        level: coverage of the intervals.

    Returns:
        The result of `agreement`, over queries and query by query, with a first dimension `draws`.

    Raises:
        ValueError: if a count is not among 1, ..., the number of draws; and see `agreement`.
    """
    most = predicted.sizes["draw"]
    if not counts or min(counts) < 1 or max(counts) > most:
        raise ValueError(f"counts={[*counts]} must lie between 1 and the {most} draws of predictions")
    truth = effects(retrained, divergences, num_splits=num_splits)
    parts = [
        agreement(effects(first_draws(predicted, n), divergences), truth, level=level) for n in counts
    ]
    each = ["predicted", "predicted_error", "retrained", "retrained_error"]
    along = xr.DataArray(list(counts), dims="draws", name="draws")
    parts = [part.drop_vars([*each, "perturbation"]) for part in parts]
    return xr.concat(parts, along, combine_attrs="drop_conflicts")


def _intervals(fields: dict[str, np.ndarray], level: float) -> dict[str, np.ndarray]:
    width = scipy.stats.norm.ppf((1 + level) / 2)
    return {
        f"{name}_{end}": fields[name] + sign * width * fields[f"{name}_error"]
        for name in ("lds", "lds_disattenuated")
        for end, sign in (("lower", -1), ("upper", 1))
    }


def _over_queries(guess: Effects, retrained: xr.Dataset, number: int) -> dict[str, np.ndarray]:
    """Average over the queries that have a value, which are counted, with errors."""
    truth, halves = retrained["value"].values, retrained["halves"].values
    rng, size = np.random.default_rng(0), guess.shape[-1]
    everything, draws = np.arange(size), [None] * number
    some = _resamples(rng, number, size)
    splits = rng.integers(len(halves), size=number).tolist()
    score = partial(_score, guess, truth, halves)
    by_data = np.stack([score(*pair) for pair in zip(some, draws, strict=True)])
    by_draws = np.stack([score(everything, split) for split in splits])
    by_both = np.stack([score(*pair) for pair in zip(some, splits, strict=True)])
    error = _crossed_error(by_data, by_draws, by_both)
    ranked, reliable = spearman(guess, truth), _reliable(halves)
    return {
        "lds": mean_of_known(ranked, -1),
        "lds_error": error[0],
        "lds_reliability": reliable,
        "lds_disattenuated": mean_of_known(ranked, -1) / root_of_positive(reliable),
        "lds_disattenuated_error": error[1],
        "num_queries": np.isfinite(ranked).sum(-1),
    }


def _resamples(rng: np.random.Generator, number: int, size: int) -> list[np.ndarray]:
    """Draw perturbations with replacement, at least 3 distinct ones, as a correlation needs."""
    resamples: list[np.ndarray] = []
    while len(resamples) < number:
        some = rng.integers(size, size=size)
        if len(np.unique(some)) >= min(3, size):
            resamples.append(some)
    return resamples


def _score(
    guess: Effects, truth: Effects, halves: np.ndarray, some: np.ndarray, split: int | None
) -> np.ndarray:
    """Compute the raw and the disattenuated score for some perturbations, `(2, divergence)`.

    The truth is estimated from all of its draws, or from the half that a split names.
    """
    halves = halves[..., some]
    if split is None:
        raw = mean_of_known(spearman(guess[..., some], truth[..., some]), -1)
        return np.stack([raw, raw / root_of_positive(_reliable(halves[:MOST_SPLITS]))])
    raw = mean_of_known(spearman(guess[..., some], halves[split, 0]), -1)
    return np.stack([raw, raw / root_of_positive(mean_of_known(spearman(*halves[split]), -1))])


def _crossed_error(by_data: np.ndarray, by_draws: np.ndarray, by_both: np.ndarray) -> np.ndarray:
    """Compute a standard error over two crossed factors, perturbations and draws.

    Let a, d and i be the variances due to either factor and to both. Resampling estimates a + i, d + i
    and a + d + 3 i (Owen 2007, The pigeonhole bootstrap); the variance is a + d + i.
    """
    a, d, both = (np.var(values, axis=0, ddof=1) for values in (by_data, by_draws, by_both))
    shared = np.clip(both - a - d, 0.0, np.minimum(a, d))
    return np.sqrt(a + d - shared)


def _reliable(halves: np.ndarray) -> np.ndarray:
    """Estimate the reliability of the truth over all queries, `(divergence,)`."""
    return lengthened(mean_of_known(spearman(halves[:, 0], halves[:, 1]), (0, -1)))


def _described(predicted: xr.Dataset, retrained: xr.Dataset, level: float) -> dict[str, Any]:
    return {
        "transform": predicted.attrs["source"],
        "measure": predicted.attrs["measure"],
        "draws": predicted.attrs["draws"],
        "predicted_arms": predicted.attrs["arms"],
        "retrainings": retrained.attrs["draws"],
        "retrained_arms": retrained.attrs["arms"],
        "removal": retrained.attrs["removal"],
        "level": level,
        "floor": FLOOR,
    }


def _check_match(predicted: xr.Dataset, retrained: xr.Dataset) -> None:
    for name in ("divergence", "query", "perturbation", "weights"):
        if not np.array_equal(predicted[name].values, retrained[name].values):
            raise ValueError(
                f"predicted and retrained differ in {name!r}: compare effects of the same "
                "perturbations on the same queries, by the same divergences"
            )
    if _keys(predicted) & _keys(retrained):
        raise ValueError(
            "predicted and retrained share keys, so they agree by their seeds too: draw one of them "
            "with another key"
        )


def _keys(effects: xr.Dataset) -> set[tuple[int, ...]]:
    return {tuple(words) for words in effects["key"].values.tolist()} if "key" in effects else set()
