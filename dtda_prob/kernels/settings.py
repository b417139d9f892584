"""Checks of settings, which pass those that are traced."""

from typing import Any

import numpy as np


def check_positive(**settings: Any) -> None:
    """Raise unless each setting is above 0 and finite.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in settings.items():
        if isinstance(value, int | float) and not 0 < value < np.inf:
            raise ValueError(f"{name}={value} must be above 0 and finite")


def check_between(lower: float, upper: float, **settings: Any) -> None:
    """Raise unless each setting lies strictly between two numbers.

    Raises:
        ValueError: naming the first that does not.
    """
    for name, value in settings.items():
        if isinstance(value, int | float) and not lower < value < upper:
            raise ValueError(f"{name}={value} must lie between {lower} and {upper}")
