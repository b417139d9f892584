"""What training depends on beside its weights, number by number: inputs, priors, hyper-parameters.

The numbers follow the weights of the examples in one vector, so that one response operator holds the
derivatives with respect to all of them. They are 0 where a setting is unchanged.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Setting(NamedTuple):
    """A setting that may vary.

    Attributes:
        name: of an argument of the model, or of a hyper-parameter of the kernel.
        is_argument: whether it is an argument; a hyper-parameter varies relative to itself.
        shape: the shape of its numbers.
        start: where they begin in the vector of weights.
    """

    name: str
    is_argument: bool
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """The position behind its last number."""
        return self.start + math.prod(self.shape)

    def of(self, array: Any) -> Any:
        """Take its part of an array whose last axis is over all weights, in its own shape."""
        part = array[..., self.start : self.stop]
        return part.reshape(*array.shape[:-1], *self.shape)

    def labels(self) -> list[str]:
        """Return a name for each of its numbers, as in `prior` or `x[3,0]`."""
        scalars = np.ndindex(self.shape)
        return [f"{self.name}[{','.join(map(str, i))}]" if i else self.name for i in scalars]


def lay_out(arguments: Mapping[str, Any], names: Sequence[str], start: int) -> tuple[Setting, ...]:
    """Return settings one behind the other.

    Args:
        arguments: the model's arguments by name.
        names: the settings.
        start: where the first one begins.

    Raises:
        ValueError: if none is named, one is named twice, or an argument is not made of floats.
    """
    if not names or len(set(names)) < len(names):
        raise ValueError(f"names={[*names]}: name at least one setting, and each once")
    settings: list[Setting] = []
    for name in names:
        value = arguments.get(name)
        settings.append(Setting(name, value is not None, _shape(name, value), start))
        start = settings[-1].stop
    return tuple(settings)


def moved(
    model: Callable, args: tuple, kwargs: dict, settings: Sequence[Setting], weights: Array
) -> tuple[tuple, dict]:
    """Return the arguments of the model moved by the weights' numbers of settings."""
    names, positional, kwargs = [*inspect.signature(model).parameters], [*args], {**kwargs}
    for setting in settings:
        if setting.is_argument:
            where: Any = kwargs if setting.name in kwargs else positional
            place: Any = setting.name if setting.name in kwargs else names.index(setting.name)
            value = jnp.asarray(where[place])
            where[place] = value + setting.of(weights).astype(value.dtype)
    return tuple(positional), kwargs


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    array = jnp.asarray(value) if np.isscalar(value) or hasattr(value, "shape") else None
    if array is None or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"setting {name!r} is an argument of the model, and no array of floats, so that it has no "
            "small changes; pass it as floats, or use `relabel` for labels"
        )
    return array.shape
