"""How to read the values of a divergence: what moves, in which direction, in which unit."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

ATTRIBUTE = "meanings"
"""Attribute of scores that holds the meanings of their divergences, as JSON."""
LONGEST = 200
"""Characters of a text that is read."""


class Meaning(NamedTuple):
    """How to read a divergence of a measure.

    Attributes:
        quantity: what moves, such as "the variance of the loss"; empty where there is no direction.
        positive: what the change does to it where the value is positive, such as "raises".
        negative: what the change does to it where the value is negative.
        unit: the unit of the value.
    """

    quantity: str
    positive: str
    negative: str
    unit: str

    @property
    def signed(self) -> bool:
        """Whether the divergence has a direction."""
        return bool(self.quantity)


def encoded(meanings: Mapping[str, Meaning]) -> dict[str, str]:
    """Return meanings by name of the divergence as the attribute of a dataset."""
    return {ATTRIBUTE: json.dumps({name: list(meaning) for name, meaning in meanings.items()})}


def decoded(attributes: Mapping[Any, Any]) -> dict[str, Meaning]:
    """Return the meanings by name of the divergence that the attributes of scores hold.

    What is not as `encoded` writes it is left out, since a store may be a stranger's.
    """
    try:
        known = json.loads(attributes.get(ATTRIBUTE, "{}")).items()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: Meaning(*each) for name, each in known if _is_meaning(each)}


def _is_meaning(each: Any) -> bool:
    texts = isinstance(each, list) and all(isinstance(part, str) for part in each)
    return texts and len(each) == len(Meaning._fields) and max(map(len, each)) <= LONGEST
