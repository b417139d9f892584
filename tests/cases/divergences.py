"""The divergences that the tests go over, and what holds of each: a new one needs a line here."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import scipy.stats
from scipy.integrate import quad

from dtda_prob import divergences
from dtda_prob.divergences import Divergence

Outcomes = Literal["scalars", "vectors", "probabilities"]


class Case(NamedTuple):
    """A divergence and its traits.

    Attributes:
        divergence: under test.
        outcomes: kinds of outcomes that it is defined for.
        grows: for a signed one, what makes it positive.
        normal: its value between N(0, 1) and N(mean, sd^2), where there is a closed form.
        unbiased: it can fall below 0, even for a sample and itself.
        by_parts: it takes parts of the draws, so that their order matters a little.
        smooth: it has no jumps where draws change places, which the jackknife takes for noise.
        slow: it compiles, and has tests of its own.
    """

    divergence: Divergence
    outcomes: tuple[Outcomes, ...] = ("scalars", "vectors")
    grows: Literal["", "shift", "spread", "soften", "sharpen"] = ""
    normal: Callable[[float, float], float] | None = None
    unbiased: bool = False
    by_parts: bool = False
    smooth: bool = True
    slow: bool = False


def _distances(mean: float, sd: float) -> tuple[float, float, float]:
    """Return Jensen-Shannon, total variation and Kolmogorov-Smirnov from N(0, 1) by integration."""
    old, new = scipy.stats.norm(), scipy.stats.norm(mean, sd)

    def information(x):
        p, q = old.pdf(x), new.pdf(x)
        return (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))) / 2

    ends, x = (mean - 8 * sd, mean + 8 * sd), np.linspace(-9, 9, 2001)
    apart = quad(lambda x: np.maximum(old.pdf(x) - new.pdf(x), 0), -9, 9, limit=200)[0]
    return quad(information, *ends, limit=200)[0], apart, max(np.abs(old.cdf(x) - new.cdf(x)))


def _kullback_leibler(mean: float, sd: float) -> float:
    return np.log(sd) + (1 + mean**2) / sd**2 / 2 - 0.5


def jensen_shannon(mean: float, sd: float) -> float:
    """Return the Jensen-Shannon divergence of N(0, 1) and N(mean, sd^2)."""
    return _distances(mean, sd)[0]


SCALARS, VECTORS, PROBABILITIES = ("scalars",), ("vectors",), ("probabilities",)
CASES = {
    case.divergence.name + suffix: case
    for suffix, case in [
        ("", Case(divergences.mean(), grows="shift", normal=lambda m, s: m)),
        ("", Case(divergences.variance(), grows="spread", normal=lambda m, s: s**2 - 1)),
        ("", Case(divergences.log_sd_ratio(), grows="spread", normal=lambda m, s: np.log(s))),
        ("", Case(divergences.quantile(), SCALARS, "shift", lambda m, s: m)),
        ("", Case(divergences.quantile(0.9), SCALARS, "shift", lambda m, s: m + 1.2815516 * (s - 1))),
        (
            "",
            Case(
                divergences.tail_probability(0.5),
                SCALARS,
                "shift",
                lambda m, s: scipy.stats.norm.sf((0.5 - m) / s) - scipy.stats.norm.sf(0.5),
            ),
        ),
        ("", Case(divergences.wasserstein(1), SCALARS, by_parts=True, smooth=False)),
        ("", Case(divergences.wasserstein(), normal=lambda m, s: np.hypot(m, s - 1), by_parts=True)),
        ("", Case(divergences.sliced_wasserstein(), VECTORS, by_parts=True)),
        ("", Case(divergences.sinkhorn(), by_parts=True, slow=True)),
        ("", Case(divergences.energy(), unbiased=True)),
        ("", Case(divergences.mmd(), unbiased=True)),
        (", laplacian", Case(divergences.mmd(divergences.laplacian, 1.0), unbiased=True)),
        ("", Case(divergences.kullback_leibler(), normal=_kullback_leibler, unbiased=True)),
        (
            "",
            Case(
                divergences.kullback_leibler(reverse=True),
                normal=lambda m, s: -np.log(s) + (s**2 + m**2) / 2 - 0.5,
                unbiased=True,
            ),
        ),
        ("", Case(divergences.jensen_shannon(), normal=jensen_shannon, unbiased=True)),
        (
            "",
            Case(
                divergences.total_variation(),
                normal=lambda m, s: _distances(m, s)[1],
                unbiased=True,
                smooth=False,
            ),
        ),
        (
            "",
            Case(
                divergences.kolmogorov_smirnov(),
                SCALARS,
                normal=lambda m, s: _distances(m, s)[2],
                unbiased=True,
                smooth=False,
            ),
        ),
        ("", Case(divergences.predictive_entropy(), PROBABILITIES, "soften")),
        ("", Case(divergences.expected_entropy(), PROBABILITIES, "soften")),
        ("", Case(divergences.mutual_information(), PROBABILITIES, "sharpen")),
    ]
}


def where(condition: Callable[[Case], bool]) -> list[str]:
    """Return the names of cases with a trait."""
    return [name for name, case in CASES.items() if condition(case)]
