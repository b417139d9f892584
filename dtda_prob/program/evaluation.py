"""Arguments of a model in evaluation: flags such as `train=False`, in place of what training passes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from dtda_prob.program.data import bound, concrete


def as_evaluation(model: Callable, evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return arguments in evaluation, which compiled code takes as they are.

    Raises:
        ValueError: if the model has no such argument.
    """
    parameters = inspect.signature(model).parameters
    by_name = {k for k, each in parameters.items() if each.kind is not each.VAR_KEYWORD}
    unknown = sorted(set(evaluation or {}) - by_name)
    if unknown and by_name == set(parameters):
        raise ValueError(
            f"evaluation={evaluation}: the model has no arguments {unknown}; it has {sorted(by_name)}"
        )
    return jax.tree.map(concrete, bound(dict(evaluation or {})))


def in_evaluation(
    model: Callable, args: tuple, kwargs: dict, evaluation: dict[str, Any], *, instead: bool = True
) -> tuple[tuple, dict]:
    """Return a model's arguments in evaluation; flags replace what was passed, or yield to it."""
    names = [*inspect.signature(model).parameters][: len(args)]
    if not instead:
        return args, {k: v for k, v in evaluation.items() if k not in names} | kwargs
    named = dict(enumerate(names))
    positional = tuple(evaluation.get(named.get(k, ""), value) for k, value in enumerate(args))
    return positional, kwargs | {k: v for k, v in evaluation.items() if k not in names}
