"""Optax transformations, as they are or made for a number of steps."""

from collections.abc import Callable

import optax

from dtda_prob.kernels.steps import Steps
from dtda_prob.program import Program

Transformation = optax.GradientTransformation | optax.MultiSteps
Optimizer = Transformation | Callable[[int], Transformation]
"""An optax transformation, or what makes one for a number of steps."""


def bind(optimizer: Optimizer, plan: Steps) -> Callable[[Program], Transformation]:
    """Give the transformation for the number of steps that each program takes."""
    if isinstance(optimizer, Transformation):
        return lambda program: optimizer
    return lambda program: optimizer(plan.count(program))
