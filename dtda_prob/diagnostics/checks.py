"""The checks that a verdict rests on: thresholds, and what to do, as one table by diagnostic."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dtda_prob.diagnostics import numbers
from dtda_prob.diagnostics.numbers import Number
from dtda_prob.diagnostics.posterior import GOOD_K, USABLE_K
from dtda_prob.studies.check import LEAST_COSINE, MOST_FAR, MOST_GROUP_RATIO, MOST_RATIO


@dataclass(frozen=True, kw_only=True)
class Check:
    """A threshold on one number of one diagnostic.

    Attributes:
        name: what is checked.
        value: computes the number and its error from the diagnostic's result; None where it does not
            apply. The error is the standard error over draws, or the spread over queries or
            perturbations (half of the central 68 %) where each has a number; NaN for counts and tests.
        at_least: the lower bound of what passes.
        at_most: the upper bound.
        passed: what passing means. Both texts may show `{value}`, and `{more}`, the factor of draws
            that would bring an error down to the upper bound.
        failed: what failing means, and what to do.
        method: whether failing it means that the method is wrong, so that no number of draws helps.
        more_draws: whether what to do is to take more draws.
    """

    name: str
    value: Callable[[Any], Number | None]
    at_least: float = -np.inf
    at_most: float = np.inf
    passed: str
    failed: str
    method: bool = False
    more_draws: bool = False

    def threshold(self) -> str:
        """Return the threshold in words."""
        if np.isinf(self.at_least):
            return f"<= {self.at_most:.3g}"
        if np.isinf(self.at_most):
            return f">= {self.at_least:.3g}"
        return f"{self.at_least:.3g} to {self.at_most:.3g}"

    def of_result(self, result: Any) -> "Finding | None":
        """Compare a diagnostic's result with the threshold."""
        number = self.value(result)
        if number is None:
            return None
        value, error = (float(part) for part in number)
        passed = self.at_least <= value <= self.at_most
        text = self.passed if passed else self.failed
        return Finding(self, value, error, passed, text.format(value=value, more=self._more(value)))

    def _more(self, value: float) -> str:
        """Return how many more draws would bring an error down to the upper bound, in words."""
        known = self.more_draws and np.isfinite(value)
        return f"{(value / self.at_most) ** 2:.2g} times as" if known else "many times as"


class Finding(NamedTuple):
    """A check and how it came out.

    Attributes:
        check: what was checked.
        value: the number.
        error: its error, see `Check`.
        passed: whether it is within the threshold.
        text: what that means, and what to do if it failed.
    """

    check: Check
    value: float
    error: float
    passed: bool
    text: str


def findings(results: Mapping[str, Any]) -> list[Finding]:
    """Compare results of diagnostics, by the names of the diagnostics, with the thresholds.

    Raises:
        ValueError: for unknown names, or a calibration without 90 % intervals.
    """
    unknown = set(results) - set(CHECKS)
    if unknown:
        raise ValueError(f"results={sorted(unknown)} must be among {sorted(CHECKS)}")
    made = (
        check.of_result(results[name]) for name in CHECKS if name in results for check in CHECKS[name]
    )
    return [finding for finding in made if finding is not None]


CHECKS: dict[str, tuple[Check, ...]] = {
    "draws": (
        Check(
            name="draws that are not finite",
            value=lambda result: (result["not_finite"].sum(), np.nan),
            at_most=0,
            passed="every draw is finite",
            failed="some draws diverged, and statistics that use them are NaN: a smaller rate, or "
            "damping",
        ),
        Check(
            name="values that are the same in every draw",
            value=lambda result: ((result["mcse_sd"] == 0).sum(), np.nan),
            at_most=0,
            passed="every measured value varies over draws",
            failed="some values are the same in every draw, so nothing is known of their error: many "
            "draws of a fixed model are one draw; give the kernel its own initialisation, "
            "batches or noise",
        ),
        Check(
            name="effective draws, of all",
            value=lambda result: numbers.median(result["effective_draws"] / result["num_draws"]),
            at_least=0.5,
            passed="draws count in full, as independent seeds should",
            failed="draws depend on each other: give each its own key, or more steps in between",
        ),
        Check(
            name="chance of such an R-hat over blocks of seeds",
            value=numbers.r_hat,
            at_least=0.05,
            passed="blocks of seeds agree",
            failed="blocks of seeds disagree by more than chance: look for what differs between them, "
            "and take more draws",
        ),
        Check(
            name="values with several modes",
            value=numbers.num_several,
            at_most=0,
            passed="no measured value shows several modes",
            failed="training ends in several basins, so a mean and a standard deviation describe few "
            "draws: look at plots.compare, and use the Wasserstein or energy distance",
        ),
    ),
    "coupling": (
        Check(
            name="independent draws a coupled one is worth",
            value=lambda result: (
                result["variance_ratio"].median(),
                result["variance_ratio_error"].median(),
            ),
            at_least=1.0,
            passed="a coupled draw is worth {value:.2g} independent ones",
            failed="a coupled draw is worth {value:.2g} independent ones: sharing keys adds noise "
            "here, so give new_key=",
        ),
    ),
    "shifts": (
        Check(
            name="predictions that are not finite",
            value=lambda result: (result["not_finite"].sum(), np.nan),
            at_most=0,
            passed="every prediction is finite",
            failed="some predictions are not finite: damp more, or take a smaller rate",
            method=True,
        ),
        Check(
            name="longest draw's steps over the median draw's",
            value=numbers.spread_of_lengths,
            at_most=5.0,
            passed="every draw contributes to the mean shifts",
            failed="a few draws with very long steps decide the mean shifts, as the exact derivative "
            "of an unstable training has them: take a damped response, or retrain",
            method=True,
        ),
        Check(
            name="variance added by the furthest 1% of moves",
            value=numbers.furthest,
            at_most=MOST_FAR,
            passed="no few draws decide how the spread of a posterior moves",
            failed="a few draws move so far that they decide the spread, from where their curvature is "
            "nearly singular: read means alone, take importance, gaussian or covariance, or write "
            "the model without its funnel",
            method=True,
        ),
        Check(
            name="error of mean shifts, relative",
            value=numbers.noise,
            at_most=1 / 3,
            passed="mean shifts are precise enough for their sign and rank",
            failed="mean shifts drown in noise: take {more} many draws",
            more_draws=True,
        ),
    ),
    "linear_range": (
        Check(
            name="length of predicted steps over retrained",
            value=lambda result: numbers.lengths(result, group=False),
            at_least=1 / MOST_RATIO,
            at_most=MOST_RATIO,
            passed="predicted steps are about as long as retrained ones",
            failed="predicted steps have the wrong length: expand about the centre, damp more where "
            "they are too long and less where too short, or remove less at a time",
            method=True,
        ),
        Check(
            name="length of predicted steps over retrained, of groups",
            value=lambda result: numbers.lengths(result, group=True),
            at_least=1 / MOST_GROUP_RATIO,
            at_most=MOST_GROUP_RATIO,
            passed="predicted steps of groups are about as long as retrained ones",
            failed="predicted steps of groups have the wrong length: remove less at a time, expand "
            "about the centre, or retrain",
            method=True,
        ),
        Check(
            name="cosine of predicted and retrained steps",
            value=lambda result: numbers.over_draws(result["cosine"]),
            at_least=LEAST_COSINE,
            passed="predicted steps point where retraining goes",
            failed="predicted steps point elsewhere: another curvature, or retrain",
            method=True,
        ),
        Check(
            name="predicted steps out of range, of all",
            value=numbers.out_of_range,
            at_most=0.25,
            passed="most single steps are in range, not only their median",
            failed="many single steps have the wrong length or direction, though their median may be "
            "right",
            method=True,
        ),
        Check(
            name="responses at old weights and halfway, apart",
            value=numbers.halves,
            at_most=0.5,
            passed="the outcome is close to linear in the weights over these steps",
            failed="the outcome bends within the step: expand at='centre', or remove less at a time",
        ),
    ),
    "across_seeds": (
        Check(
            name="correlation with retraining under other seeds",
            value=numbers.correlation,
            at_least=0.7,
            passed="mean shifts agree with retraining under other seeds",
            failed="mean shifts disagree with retraining under other seeds, however right they are for"
            " their own: take another method, or retrain",
            method=True,
        ),
    ),
    "residuals": (
        Check(
            name="residual of the solve",
            value=numbers.median,
            at_most=0.5,
            passed="the curvature's inverse is close to the inverse of its whole matrix",
            failed="the solve leaves most of the gradient: take a more exact curvature (gram, "
            "conjugate_gradient with this one as preconditioner), or more damping",
        ),
    ),
    "null_space": (
        Check(
            name="share of measurements in flat directions",
            value=lambda result: numbers.over_draws(result["share"]),
            at_most=0.5,
            passed="measurements depend on directions in which the curvature is known",
            failed="measurements depend on directions that the data leave open, where predictions are "
            "set by the damping: compare dampings, or unroll",
        ),
    ),
    "along_training": (
        Check(
            name="correlation with the exact response",
            value=numbers.agreement,
            at_least=LEAST_COSINE,
            passed="the response agrees with the exact derivative of training",
            failed="the response is not the exact derivative: training has not converged, so take "
            "segments or unroll; where the exact one explodes (growth in linear_range), trust "
            "neither",
        ),
    ),
    "pareto_k": (
        Check(
            name="Pareto k-hat, largest",
            value=numbers.largest_k,
            at_most=USABLE_K,
            passed="importance weights carry the sample",
            failed="importance weights rest on few draws: remove less, take more draws, match moments,"
            " or retrain",
        ),
        Check(
            name="the same, for errors to hold",
            value=numbers.largest_k,
            at_most=GOOD_K,
            passed="errors of importance sampling hold",
            failed="errors of importance sampling come out up to half too small: take more draws, "
            "match moments, or retrain where it matters",
        ),
    ),
    "calibration": (
        Check(
            name="chance of PIT values as uneven",
            value=lambda result: (result["pooled_p_value"], np.nan),
            at_least=0.05,
            passed="retrained draws are distributed as predicted",
            failed="retrained draws are not distributed as predicted: plots.calibration shows whether "
            "the prediction is shifted, too narrow or too wide",
        ),
        Check(
            name="coverage of 90% intervals",
            value=numbers.coverage,
            at_least=0.85,
            at_most=0.95,
            passed="predicted intervals cover what they claim",
            failed="predicted intervals do not cover what they claim: do not read them as intervals",
        ),
    ),
    "unmoved": (
        Check(
            name="the same chance without any prediction",
            value=lambda result: (result["pooled_p_value"], np.nan),
            at_most=0.05,
            passed="retraining moved the distribution visibly, so calibration tests the prediction",
            failed="the distribution before fits the retrained draws as well, so calibration can "
            "refute a prediction and not confirm it: retrain more draws, or remove more",
        ),
    ),
}
"""The checks of each diagnostic, by its name among `Verdict.results`; reasons: docs/diagnostics.md."""
