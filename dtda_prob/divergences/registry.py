"""The divergences that are known by name."""

from collections.abc import Callable

from dtda_prob.divergences.divergence import Divergence, of_function

available: dict[str, Divergence] = {}
"""The divergences known by name; `wasserstein` is W_2."""


def register(*divergences: Divergence) -> None:
    """Add divergences to `available`, under their names.

    Raises:
        ValueError: if another divergence has the name.
    """
    for divergence in divergences:
        known = available.setdefault(divergence.name, divergence)
        if known != divergence:
            raise ValueError(f"{divergence.name!r} is the name of {known}; choose another one")


def resolve(divergence: str | Divergence | Callable) -> Divergence:
    """Return a divergence by name, or make one of a function `(old, new) -> value`.

    The function receives draws first and reduces that axis alone. Its values are taken to be
    non-negative, so that they have a null level.

    Raises:
        ValueError: for unknown names.
        TypeError: for a class in place of an instance, or anything else.
    """
    if isinstance(divergence, Divergence):
        return divergence
    if isinstance(divergence, type):
        raise TypeError(f"divergence={divergence.__name__} is a class: write {divergence.__name__}()")
    if callable(divergence):
        return of_function(divergence)
    if divergence in available:
        return available[divergence]
    raise ValueError(f"divergence={divergence!r} must be a function or among {[*available]}")
