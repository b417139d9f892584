"""Distributional training data attribution.

How does the distribution of trained models move when the data move? See `docs/design.md`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dtda_prob import (
        curvature,
        divergences,
        evaluate,
        kernels,
        measures,
        plots,
        zoo,
    )
    from dtda_prob.attribution import attribute
    from dtda_prob.outcomes import load, sample, save
    from dtda_prob.perturbations import groups, leave_one_out, random_subsets, remove, upweight
    from dtda_prob.program import Program
    from dtda_prob.training import Training
    from dtda_prob.transforms import influence, retrain, unroll

_HOMES = {
    "Program": "program",
    "Training": "training",
    "attribute": "attribution",
    "groups": "perturbations",
    "influence": "transforms",
    "leave_one_out": "perturbations",
    "load": "outcomes",
    "random_subsets": "perturbations",
    "remove": "perturbations",
    "retrain": "transforms",
    "sample": "outcomes",
    "save": "outcomes",
    "unroll": "transforms",
    "upweight": "perturbations",
}
_ROOMS = ("curvature", "divergences", "evaluate", "kernels", "measures", "plots", "zoo")

__all__ = [
    "Program",
    "Training",
    "attribute",
    "curvature",
    "divergences",
    "evaluate",
    "groups",
    "influence",
    "kernels",
    "leave_one_out",
    "load",
    "measures",
    "plots",
    "random_subsets",
    "remove",
    "retrain",
    "sample",
    "save",
    "unroll",
    "upweight",
    "zoo",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name in _ROOMS:
        return import_module(f"dtda_prob.{name}")
    if name in _HOMES:
        return getattr(import_module(f"dtda_prob.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dtda_prob' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
