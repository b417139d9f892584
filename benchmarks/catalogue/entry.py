"""What the catalogue knows of a model."""

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import jax
import numpy as np

NUM = 12
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    """Return synthetic numbers."""
    return RNG.normal(size=shape or NUM).astype(np.float32)


X, Y, TABLE, GROUP = normal(), normal(), normal(NUM, 3), np.arange(NUM) % 3
BINARY, COUNTS, POSITIVE = (Y > 0).astype(int), RNG.poisson(2.0, NUM), np.abs(Y) + 0.2


class Entry(NamedTuple):
    """A model of the catalogue.

    Attributes:
        model: as its kind is published.
        args: its data.
        kind: where models of its kind are found.
        data: where the examples lie, None where `Program` finds them.
        delete: returns the data without one example; None where no row can go, since later
            observations are given earlier ones.
        refused: part of the sentence by which it is refused.
    """

    model: Callable
    args: tuple
    kind: str
    data: Any = None
    delete: Callable[[tuple, int], tuple] | None = None
    refused: str = ""


MODELS: dict[str, Entry] = {}


def rows(args: tuple, index: int) -> tuple:
    """Delete a row from every array that has one for each example."""
    size = len(jax.tree.leaves(args)[0])
    return tuple(_without(arg, size, index) for arg in args)


def _without(arg: Any, size: int, index: int) -> Any:
    if isinstance(arg, dict):
        return {name: _without(each, size, index) for name, each in arg.items()}
    return np.delete(arg, index, 0) if np.ndim(arg) and len(arg) == size else arg


def case(kind: str, *args: Any, delete: Callable | None = rows, **known: Any) -> Callable:
    """Add a model to the catalogue."""

    def register(model: FunctionType) -> FunctionType:
        MODELS[model.__name__.replace("_", " ")] = Entry(model, args, kind, delete=delete, **known)
        return model

    return register
