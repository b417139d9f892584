"""Numbers, units and signs, as a reader wants them."""

import math
from typing import Any, NamedTuple

import numpy as np

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
RATE = 0.1
"""False discovery rate at which a datum counts as told from none."""

UNITS = {
    "loss": "nats",
    "log_likelihood": "nats",
    "margin": "nats",
    "squared_error": "target units²",
    "accuracy": "share",
}
"""Of measures; of others the user knows."""
POWERS = {"variance": 2, "log_sd_ratio": 0, "mmd": 0, "total_variation": 0, "kolmogorov_smirnov": 0}
"""Of the measure's unit in a divergence, where that is not 1."""
LOCATIONS = ("mean", "median", "quantile")
"""Divergences of where the measurement lies: a positive one says that it rises."""
INCREASES = {
    "variance": ("widens", "narrows", "the variance of the {}"),
    "log_sd_ratio": ("widens", "narrows", "the spread of the {}"),
    "tail_probability": ("raises", "lowers", "the probability that the {} exceeds the threshold"),
    "predictive_entropy": ("raises", "lowers", "the entropy of the mean {}"),
    "expected_entropy": ("raises", "lowers", "the mean entropy of the {}"),
    "mutual_information": ("raises", "lowers", "what models disagree about"),
}
"""What a positive and a negative value of other divergences says, and of what."""


class Sign(NamedTuple):
    """What the sign of a divergence says.

    Attributes:
        positive: what removing the datum does where the score is positive.
        negative: the same where it is negative.
        of: the quantity that moves.
    """

    positive: str
    negative: str
    of: str


def sign_of(divergence: str, measure: str, vector: bool = False) -> Sign | None:
    """Give what the sign of a divergence says; None where it has none, as shifts of vectors."""
    family, what = divergence.split("(")[0], measure.replace("_", " ")
    if family in LOCATIONS and vector:
        return None
    if family in LOCATIONS:
        return Sign(
            "raises", "lowers", f"the {divergence} {what}" if family != "mean" else f"the {what}"
        )
    if family in INCREASES:
        positive, negative, of = INCREASES[family]
        return Sign(positive, negative, of.format(what))
    return None


def explained(divergence: str, measure: str, change: str, sign: Sign | None) -> str:
    """Say in a sentence what a divergence measures, and how its sign is read."""
    if sign is None:
        return (
            f"{divergence}: a distance between the distributions of the {measure.replace('_', ' ')} "
            "with all data and after the change. It has no direction; near zero, or below it, nothing "
            "moved that could be told from noise."
        )
    return (
        f"{divergence}: changed data less all data. Where it is positive, {change} {sign.positive} "
        f"{sign.of}; where it is negative, {change} {sign.negative} it."
    )


def unit_of(measure: str) -> str:
    """Give the unit of a measure, empty where it is the user's own."""
    return UNITS.get(measure.removeprefix("mean_"), "")


def unit_of_divergence(divergence: str, measure: str) -> str:
    """Give the unit of a divergence of a measure."""
    unit, power = unit_of(measure), POWERS.get(divergence.split("(")[0], 1)
    if not unit or not power:
        return ""
    return unit if power == 1 else f"{unit}²"


def scaled_unit(exponent: int, unit: str) -> str:
    """Give a unit with the power of ten that numbers of a column are to be multiplied by."""
    scale = f"10{str(exponent).translate(SUPERSCRIPTS)}" if exponent else ""
    return " ".join(filter(None, [scale, unit]))


def exponent_of(values: Any) -> int:
    """Give the power of a thousand that brings the largest of some numbers between 0.1 and 1000."""
    finite = np.abs(np.asarray(values, float))
    largest = np.max(finite[np.isfinite(finite)], initial=0.0)
    if largest == 0 or 0.1 <= largest < 1000:
        return 0
    return 3 * math.floor(math.log10(largest) / 3)


def decimals_for(errors: Any) -> int:
    """Give the decimals that show two digits of a typical error, at most 6."""
    known = np.asarray(errors, float)
    known = known[np.isfinite(known) & (known > 0)]
    if not known.size:
        return 3
    return int(np.clip(1 - math.floor(math.log10(np.median(known))), 0, 6))


def fixed(value: float, decimals: int) -> str:
    """Write a number with so many decimals and a true minus sign; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.{decimals}f}"
    return (text if float(text) else text.lstrip("-")).replace("-", MINUS)


def brief(value: float, digits: int = 3) -> str:
    """Write a number with so many digits; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:,.{digits}g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.{digits - 1}e}"
    mantissa, _, exponent = text.partition("e")
    told = f"{TIMES}10{str(int(exponent)).translate(SUPERSCRIPTS)}" if exponent else ""
    return mantissa.replace("-", MINUS) + told


def with_error(value: float, error: float) -> str:
    """Write a number and its standard error, to two digits of the error."""
    if not np.isfinite(error):
        return brief(value)
    exponent = exponent_of([value, error])
    both = beside_error(value / 10.0**exponent, error / 10.0**exponent)
    return f"({both}){TIMES}{scaled_unit(exponent, '')}" if exponent else both


def beside_error(value: float, error: float) -> str:
    """Write a number and its standard error under a heading that says the scale."""
    decimals = decimals_for([error])
    written = fixed(error, decimals)
    if error and not float(written):
        return f"{brief(value, 6)} ± {brief(error, 2)}"
    return f"{fixed(value, decimals)} ± {written if error else 0}"


def share(value: float) -> str:
    """Write a probability, never as a certainty that was not measured."""
    if not np.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def size(number: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def duration(seconds: float) -> str:
    """Write a time."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def count(number: int, one: str, many: str | None = None) -> str:
    """Write a number of things."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def plain_name(qualified: str) -> str:
    """Give the name of a function without the functions around it that made it."""
    return qualified.replace(".<locals>", "")
