"""Distributional training data attribution.

How does the distribution of trained models move when the data move? See `docs/design.md`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dtda_prob import (
        curvature,
        diagnostics,
        divergences,
        evaluate,
        kernels,
        measures,
        plots,
        report,
        scores,
        zoo,
    )
    from dtda_prob.attribution import attribute, power, precision, settled, until
    from dtda_prob.engine import EngineError
    from dtda_prob.perturbations import (
        add,
        changed,
        groups,
        leave_one_out,
        part,
        random_subsets,
        relabel,
        remove,
        upweight,
        vary,
    )
    from dtda_prob.program import Program
    from dtda_prob.program.loss import Loss
    from dtda_prob.sampling import sample
    from dtda_prob.storage import StoreError, contents, load, repair, save, verify
    from dtda_prob.studies.options import Options
    from dtda_prob.studies.price import plan
    from dtda_prob.studies.run import Where
    from dtda_prob.training import Training
    from dtda_prob.transforms import (
        cosine,
        covariance,
        finetune,
        importance,
        influence,
        newton,
        retrain,
        segments,
        trajectory,
        unroll,
    )

_HOMES = {
    "EngineError": "engine",
    "Loss": "program.loss",
    "Options": "studies.options",
    "Program": "program",
    "StoreError": "storage",
    "Training": "training",
    "Where": "studies.run",
    "add": "perturbations",
    "attribute": "attribution",
    "changed": "perturbations",
    "contents": "storage",
    "cosine": "transforms",
    "covariance": "transforms",
    "finetune": "transforms",
    "groups": "perturbations",
    "influence": "transforms",
    "leave_one_out": "perturbations",
    "load": "storage",
    "newton": "transforms",
    "part": "perturbations",
    "plan": "studies.price",
    "power": "attribution",
    "precision": "attribution",
    "random_subsets": "perturbations",
    "relabel": "perturbations",
    "remove": "perturbations",
    "repair": "storage",
    "retrain": "transforms",
    "importance": "transforms",
    "sample": "sampling",
    "save": "storage",
    "segments": "transforms",
    "settled": "attribution",
    "trajectory": "transforms",
    "unroll": "transforms",
    "until": "attribution",
    "upweight": "perturbations",
    "vary": "perturbations",
    "verify": "storage",
}
_ROOMS = (
    "curvature",
    "diagnostics",
    "divergences",
    "evaluate",
    "kernels",
    "measures",
    "plots",
    "report",
    "scores",
    "zoo",
)

__all__ = [
    "EngineError",
    "Loss",
    "Options",
    "Program",
    "StoreError",
    "Training",
    "Where",
    "add",
    "attribute",
    "changed",
    "contents",
    "cosine",
    "covariance",
    "curvature",
    "diagnostics",
    "divergences",
    "evaluate",
    "finetune",
    "groups",
    "importance",
    "influence",
    "kernels",
    "leave_one_out",
    "load",
    "measures",
    "newton",
    "part",
    "plan",
    "plots",
    "power",
    "precision",
    "random_subsets",
    "relabel",
    "remove",
    "repair",
    "report",
    "retrain",
    "sample",
    "save",
    "scores",
    "segments",
    "settled",
    "trajectory",
    "unroll",
    "until",
    "upweight",
    "vary",
    "verify",
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
