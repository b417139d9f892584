"""What the sign of a divergence says, and units of measures and divergences."""

from typing import NamedTuple

UNITS = {
    "loss": "nats",
    "log_likelihood": "nats",
    "margin": "nats",
    "squared_error": "target units²",
    "accuracy": "share",
}
"""Of measures; the user knows the units of any other."""
POWERS = {"variance": 2, "log_sd_ratio": 0, "mmd": 0, "total_variation": 0, "kolmogorov_smirnov": 0}
"""Power of the measure's unit in a divergence, where it is not 1."""
LOCATIONS = ("mean", "median", "quantile")
"""Divergences of location: a positive one says that the measurement rises."""
INCREASES = {
    "variance": ("widens", "narrows", "the variance of the {}"),
    "log_sd_ratio": ("widens", "narrows", "the spread of the {}"),
    "tail_probability": ("raises", "lowers", "the probability that the {} exceeds the threshold"),
    "predictive_entropy": ("raises", "lowers", "the entropy of the mean {}"),
    "expected_entropy": ("raises", "lowers", "the mean entropy of the {}"),
    "mutual_information": ("raises", "lowers", "the disagreement between models"),
}
"""Effects of a positive and of a negative value of other divergences, and on what."""


class Sign(NamedTuple):
    """Effects of a change with a positive and with a negative score, and the quantity that moves."""

    positive: str
    negative: str
    of: str


def sign_of(divergence: str, measure: str, vector: bool = False) -> Sign | None:
    """Return what the sign of a divergence says; None if it has none, as shifts of vectors."""
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
    """Return a sentence about what a divergence measures and how to read its sign."""
    if sign is None:
        return (
            f"{divergence}: a distance between the distributions of the {measure.replace('_', ' ')} "
            "before and after the change. It has no direction; a value near or below zero is "
            "indistinguishable from noise."
        )
    return (
        f"{divergence}: changed data less all data. Where it is positive, {change} {sign.positive} "
        f"{sign.of}; where it is negative, {change} {sign.negative} it."
    )


def unit_of(measure: str) -> str:
    """Return the unit of a measure, empty for a user's own."""
    return UNITS.get(measure.removeprefix("mean_"), "")


def unit_of_divergence(divergence: str, measure: str) -> str:
    """Return the unit of a divergence of a measure."""
    unit, power = unit_of(measure), POWERS.get(divergence.split("(")[0], 1)
    if not unit or not power:
        return ""
    return unit if power == 1 else f"{unit}²"
