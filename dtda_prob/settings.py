"""What training depends on beside its data, number by number: inputs, priors and hyper-parameters.

The numbers stand behind the weights of the data in one vector, so that one response operator holds the
derivatives with respect to all of them. They are 0 where a setting is as it is.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Setting(NamedTuple):
    """A setting that may vary.

    Attributes:
        name: of an argument of the model, or of a hyper-parameter of the kernel.
        value: of the argument as it is; None for a hyper-parameter, which varies relative to itself.
        shape: of its numbers.
        start: where they begin in the vector of weights.
    """

    name: str
    value: Any
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """Give the place behind its last number."""
        return self.start + math.prod(self.shape)

    def of(self, array: Any) -> Any:
        """Take its part of an array, whose last axis is that of the weights, in its own shape."""
        part = array[..., self.start : self.stop]
        return part.reshape(*array.shape[:-1], *self.shape)

    def labels(self) -> list[str]:
        """Name each of its numbers, as in `prior` or `x[3,0]`."""
        scalars = np.ndindex(self.shape)
        return [f"{self.name}[{','.join(map(str, i))}]" if i else self.name for i in scalars]


def lay_out(
    model: Callable, args: tuple, kwargs: dict, names: Sequence[str], start: int
) -> tuple[Setting, ...]:
    """Put settings one behind the other.

    Raises:
        ValueError: if none is named, one is named twice, or an argument is not made of floats.
    """
    if not names or len(set(names)) < len(names):
        raise ValueError(f"names={[*names]}: name at least one setting, and each once")
    arguments, found = inspect.signature(model).bind(*args, **kwargs).arguments, []
    for name in names:
        value = arguments.get(name)
        found.append(Setting(name, value, _shape(name, value), found[-1].stop if found else start))
    return tuple(found)


def moved(
    model: Callable, args: tuple, kwargs: dict, settings: Sequence[Setting], weights: Array
) -> tuple[tuple, dict]:
    """Give the arguments of the model as the weights say."""
    bound = inspect.signature(model).bind(*args, **kwargs)
    for setting in settings:
        if setting.value is not None:
            value = jnp.asarray(setting.value)
            bound.arguments[setting.name] = value + setting.of(weights).astype(value.dtype)
    return bound.args, bound.kwargs


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    array = jnp.asarray(value) if np.isscalar(value) or hasattr(value, "shape") else None
    if array is None or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"setting {name!r} is an argument of the model, and no array of floats, so that it cannot "
            "vary by little; pass it as floats, or use `relabel` for labels"
        )
    return array.shape
