"""The contract of a curvature: a linear solve in parameter space."""

from collections.abc import Callable
from typing import NamedTuple

from dtda_prob.typing import Objective, Params


class Curvature(NamedTuple):
    """A curvature of the objective together with the way it is inverted.

    Attributes:
        name: what it is and how it is damped.
        solve: `(objective, params, vector) -> H^-1 vector`, trees like the parameters, linear in the
            vector and differentiable with respect to it in both modes.
        passes: `(num_params, num_solves) -> float`, its cost in gradients over all data.
    """

    name: str
    solve: Callable[[Objective, Params, Params], Params]
    passes: Callable[[int, int], float]


def check_damping(damping: float) -> None:
    """Refuse negative damping.

    Raises:
        ValueError: if `damping` is negative or not finite.
    """
    if not 0 <= damping < float("inf"):
        raise ValueError(f"damping={damping} must be finite and at least 0")
