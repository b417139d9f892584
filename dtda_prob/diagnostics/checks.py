"""What each diagnostic must show for a prediction to be trusted, and what to do where it does not."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob.diagnostics.draws import r_hat_limit
from dtda_prob.studies.check import LEAST_COSINE, MOST_RATIO
from dtda_prob.transforms.importance import GOOD_K

LEAST_EFFECTIVE = 0.5
"""Seeds are independent, so that all draws should count; half leaves room for what ArviZ estimates."""
MOST_NOISE = 1 / 3
"""Error of a shift relative to it: below a third its sign is three errors clear."""
LEAST_WORTH = 1.0
"""Independent draws that a coupled one is worth: below 1, sharing keys adds noise."""
MOST_BENT = 0.5
"""Where the outcome is quadratic in the weights, by so much the response at the old ones is off."""
MOST_RESIDUAL = 0.5
"""0 is exact and 1 no better than no solution: half of the gradient must be accounted for."""
MOST_FLAT = 0.5
"""Half of the squared gradient must lie where the curvature says anything."""
LEAST_CHANCE = 0.05
"""Level of tests: one in twenty fails though nothing is wrong."""
LEVEL, COVERAGE = 0.9, (0.85, 0.95)
"""A central interval of 90 % that covers less or more misleads, even where that is chance."""


class Check(NamedTuple):
    """One thing that a verdict rests on.

    Attributes:
        name: what is looked at.
        value: what was found.
        error: its standard error over draws; or its spread over queries or perturbations (half of the
            central 68 %) where there is one number for each; NaN for counts, for tests, and where the
            threshold allows for chance.
        threshold: what it is held against.
        passed: whether it is on the right side.
        says: what that means, and where it failed, what to do.
    """

    name: str
    value: float
    error: float
    threshold: str
    passed: bool
    says: str


def check(results: Mapping[str, Any]) -> list[Check]:
    """Hold results of diagnostics, by the name of the diagnostic, against thresholds.

    Raises:
        ValueError: for names that are none, or a calibration without intervals of 90 %.
    """
    unknown = set(results) - set(_CHECKS)
    if unknown:
        raise ValueError(f"results={sorted(unknown)} must be among {sorted(_CHECKS)}")
    return [made for name in _CHECKS if name in results for made in _CHECKS[name](results[name])]


def _draws(found: xr.Dataset) -> list[Check]:
    queries, share = found["r_hat"].size, found["effective_draws"] / found["num_draws"]
    num_chains, num_draws = int(found["num_chains"]), int(found["num_draws"])
    limit = r_hat_limit(num_chains, num_draws // num_chains, 1 - LEAST_CHANCE / queries)
    return [
        _at_most(
            "draws that are not finite",
            (found["not_finite"].sum(), np.nan),
            0,
            "every draw is finite",
            "some runs blew up, and what they enter is NaN: a smaller rate, or damping",
        ),
        _at_least(
            "effective draws, of all",
            _median(share),
            LEAST_EFFECTIVE,
            "draws count in full, as independent seeds should",
            "draws depend on each other: give each its own key, or more steps in between",
        ),
        _at_most(
            "R-hat over blocks of seeds, largest",
            (found["r_hat"].max(), np.nan),
            limit,
            "blocks of seeds agree",
            "blocks of seeds disagree by more than chance: look for what differs between them, and "
            "take more draws",
        ),
        _at_most(
            "values with several modes",
            (_num_several(found["dip_p_value"].values), np.nan),
            0,
            "no outcome is seen to have several modes",
            "runs end in several basins, so that a mean and a standard deviation describe few of them: "
            "look at plots.compare, and ask for the Wasserstein or energy distance",
        ),
    ]


def _num_several(p_values: np.ndarray) -> int:
    """Count values with several modes, at a false discovery rate (Benjamini and Hochberg)."""
    known = p_values[np.isfinite(p_values)]
    return int((scipy.stats.false_discovery_control(known) < LEAST_CHANCE).sum()) if known.size else 0


def _shifts(found: xr.Dataset) -> list[Check]:
    noise = np.sqrt((found["error"] ** 2).sum("perturbation"))
    size = (found["mean"] ** 2).sum("perturbation") - noise**2
    relative = xr.where(size > 0, noise / np.sqrt(size.where(size > 0, 1.0)), np.inf)
    more = f"take {float(relative.median() / MOST_NOISE) ** 2:.2g} times as many draws"
    advice = more if np.isfinite(relative.median()) else "none is visible, so take many more draws"
    return [
        _at_most(
            "predictions that are not finite",
            (found["not_finite"].sum(), np.nan),
            0,
            "every prediction is finite",
            "some predictions are not finite: damp more, or take a smaller rate",
        ),
        _at_most(
            "error of mean shifts, relative",
            _median(relative),
            MOST_NOISE,
            "mean shifts are known well enough for their sign and rank",
            f"mean shifts drown in noise: {advice}",
        ),
    ]


def _coupling(found: xr.Dataset) -> list[Check]:
    value = found["variance_ratio"].median(), found["variance_ratio_error"].median()
    worth = f"a coupled draw is worth {float(value[0]):.2g} independent ones"
    advice = f"{worth}: sharing keys adds noise here, so give new_key="
    return [_at_least("independent draws a coupled one is worth", value, LEAST_WORTH, worth, advice)]


def _linear_range(found: xr.Dataset) -> list[Check]:
    length, low = _over_draws(found["norm_ratio"]), 1 / MOST_RATIO
    steps = [
        _within(
            "length of predicted steps over retrained",
            length,
            (low, MOST_RATIO),
            "predicted steps are about as long as retrained ones",
            "predicted steps have the wrong length: expand about the centre, damp more where they are "
            "too long and less where too short, or remove less at a time",
        ),
        _at_least(
            "cosine of predicted and retrained steps",
            _over_draws(found["cosine"]),
            LEAST_COSINE,
            "predicted steps point where retraining goes",
            "predicted steps point elsewhere: take more draws, another curvature, or retrain",
        ),
    ]
    if found["halves"].isnull().all():
        return steps
    bent = _at_most(
        "responses at old weights and halfway, apart",
        _over_draws(found["halves"]),
        MOST_BENT,
        "the outcome is near linear in the weights over the steps that were asked for",
        "the outcome bends within the step: expand at='centre', or remove less at a time",
    )
    return [*steps, bent]


def _residuals(found: xr.DataArray) -> list[Check]:
    return [
        _at_most(
            "residual of the solve",
            _median(found),
            MOST_RESIDUAL,
            "the curvature's inverse is near that of its whole matrix",
            "the solve leaves most of the gradient over: a more exact curvature (gram, "
            "conjugate_gradient with this one as preconditioner), or more damping",
        )
    ]


def _null_space(found: xr.Dataset) -> list[Check]:
    return [
        _at_most(
            "share of measurements in flat directions",
            _over_draws(found["share"]),
            MOST_FLAT,
            "measurements lean on directions in which the curvature knows something",
            "measurements lean on directions that the data leave open: what is predicted there is the "
            "damping's doing, so compare dampings, or unroll",
        )
    ]


def _along_training(found: xr.Dataset) -> list[Check]:
    last = found.isel(share=-1)
    return [
        _at_least(
            "correlation with the exact response",
            (last["pearson"].median(), last["pearson_error"].median()),
            LEAST_COSINE,
            "the response agrees with the exact derivative of training",
            "the response is not the exact derivative: training has not come to rest, so take segments "
            "or unroll; where the exact one explodes (linear_range's growth), trust neither",
        )
    ]


def _pareto_k(found: xr.DataArray) -> list[Check]:
    return [
        _at_most(
            "Pareto k-hat, largest",
            (found.max(), _median(found)[1]),
            GOOD_K,
            "importance weights are reliable",
            "importance weights rest on few draws: remove less, take more draws, match moments, or "
            "retrain",
        )
    ]


def _calibration(found: xr.Dataset) -> list[Check]:
    if LEVEL not in found["level"]:
        raise ValueError(f"calibration has levels {found['level'].values}; give it {LEVEL} too")
    at_level = found.sel(level=LEVEL)
    return [
        _at_least(
            "chance of PIT values as uneven",
            (found["pooled_p_value"], np.nan),
            LEAST_CHANCE,
            "retrained draws are where the predicted distribution says",
            "retrained draws are not where the predicted distribution says: look at plots.calibration "
            "for whether it is shifted, too narrow or too wide",
        ),
        _within(
            f"coverage of {LEVEL:.0%} intervals",
            (at_level["pooled_coverage"], at_level["pooled_coverage_error"]),
            COVERAGE,
            "predicted intervals cover what they claim",
            "predicted intervals do not cover what they claim: do not read them as intervals",
        ),
    ]


def _unmoved(found: xr.Dataset) -> list[Check]:
    return [
        _at_most(
            "the same chance without any prediction",
            (found["pooled_p_value"], np.nan),
            LEAST_CHANCE,
            "retraining moved the distribution visibly, so that calibration tests the prediction",
            "the distribution before fits the retrained draws as well, so that calibration can refute "
            "a prediction and not confirm it: retrain more draws, or remove more",
        )
    ]


_CHECKS: dict[str, Callable[[Any], list[Check]]] = {
    "draws": _draws,
    "shifts": _shifts,
    "coupling": _coupling,
    "linear_range": _linear_range,
    "residuals": _residuals,
    "null_space": _null_space,
    "along_training": _along_training,
    "pareto_k": _pareto_k,
    "calibration": _calibration,
    "unmoved": _unmoved,
}


def _median(values: xr.DataArray) -> tuple[float, float]:
    """Give the median, and half of the central 68 %."""
    low, high = np.nanquantile(values, [0.16, 0.84], method="inverted_cdf")
    return float(values.median()), float(high - low) / 2 if np.isfinite(high) else np.inf


def _over_draws(values: xr.DataArray) -> tuple[float, float]:
    """Give the median over everything, and the standard error over draws of medians."""
    each = values.median([dim for dim in values.dims if dim != "draw"])
    error = float(each.std("draw", ddof=1)) / each.size**0.5 if each.size > 1 else np.nan
    return float(values.median()), error


def _at_most(name: str, found: tuple, limit: float, good: str, bad: str) -> Check:
    return _made(name, found, f"<= {limit:.3g}", float(found[0]) <= limit, good, bad)


def _at_least(name: str, found: tuple, limit: float, good: str, bad: str) -> Check:
    return _made(name, found, f">= {limit:.3g}", float(found[0]) >= limit, good, bad)


def _within(name: str, found: tuple, limits: tuple[float, float], good: str, bad: str) -> Check:
    inside = limits[0] <= float(found[0]) <= limits[1]
    return _made(name, found, f"{limits[0]:.3g} to {limits[1]:.3g}", inside, good, bad)


def _made(name: str, found: tuple, threshold: str, passed: bool, good: str, bad: str) -> Check:
    return Check(name, float(found[0]), float(found[1]), threshold, passed, good if passed else bad)
