"""Directions and units of scores, as the divergences themselves define them."""

from typing import Any

from dtda_prob.divergences import Meaning, available
from dtda_prob.divergences.meaning import decoded

UNITS = {
    "loss": "nats",
    "log_likelihood": "nats",
    "margin": "nats",
    "squared_error": "target units²",
    "accuracy": "share",
}
"""Of measures; the user knows the units of any other."""
DISTANCE = Meaning("", "", "", "")


def meaning_of(attributes: Any, divergence: str, measure: str) -> Meaning:
    """Return how to read a divergence of a measure, from the attributes of a dataset of it.

    Of what the dataset does not describe, a divergence that is known by name gives the unit alone.
    """
    meaning = decoded(attributes).get(divergence)
    if meaning is None:
        known = available.get(divergence)
        meaning = DISTANCE if known is None else DISTANCE._replace(unit=known.unit)
    unit = unit_of(measure)
    filled = meaning.unit.replace("{unit}", unit) if unit or "{unit}" not in meaning.unit else ""
    return meaning._replace(unit=filled.replace("²²", "⁴"))


def explained(divergence: str, measure: str, change: str, meaning: Meaning) -> str:
    """Return a sentence about what a divergence measures and how to read its sign."""
    if not meaning.signed:
        return (
            f"{divergence}: a distance between the distributions of the {measure.replace('_', ' ')} "
            "before and after the change. It has no direction; a value near or below zero is "
            "indistinguishable from noise."
        )
    return (
        f"{divergence}: changed data less all data. Where it is positive, {change} {meaning.positive} "
        f"{meaning.quantity}; where it is negative, {change} {meaning.negative} it."
    )


def unit_of(measure: str) -> str:
    """Return the unit of a measure, empty for a user's own."""
    return UNITS.get(measure.removeprefix("mean_"), "")
