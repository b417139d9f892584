"""Compilation: functions whose arguments are modules, with every array and float an argument of XLA."""

import os
import platform
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import platformdirs
from jax.extend.core import Jaxpr

MAX_COMPILED = 256
"""The number of recently used functions that a process keeps, each compiled for its own shapes."""

LEVEL = "xla_backend_optimization_level"
"""XLA's option for the effort of LLVM. On CPU 1 gives code as fast as 3, XLA's default, much sooner."""
ONCE, OFTEN = 0, 1
"""Levels for code that runs once, and for all other code on CPU."""

CACHE_BYTES, CACHED_SECONDS = 2**30, 0.2
"""The size of the cache on disk, and how long a compilation takes that is worth to be kept there."""


@dataclass(frozen=True)
class compiled:
    """Compile a function of pytrees, once per structure and shapes of its arguments.

    Arrays and floats anywhere in the arguments are traced: data, weights, keys, damping and learning
    rates never become constants, so that one compilation serves all their values. Everything else
    (functions, strings, integers, booleans) is static and compared by equality.

    Attributes:
        function: the function.
        quick: whether to compile fast rather than for speed, for what runs once on few numbers.

    >>> import jax.numpy as jnp
    >>> double = compiled(lambda settings, x: settings["factor"] * x)
    >>> float(double({"factor": 2.0, "name": "double"}, jnp.ones(())))
    2.0
    """

    function: Callable
    quick: bool = False

    def __call__(self, *args: Any) -> Any:
        traced, jitted = self._split(args, is_part=_is_tracing())
        return jitted(traced)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """Return the call lowered for these arguments; once compiled it takes `split(args)[0]`."""
        traced, jitted = self._split(args)
        return jitted.lower(traced)

    def shapes(self, *args: Any) -> Any:
        """Return shapes and types of the result; a later call with these arguments reuses the trace."""
        traced, jitted = self._split(args)
        return jitted.eval_shape(traced)

    def traced(self, *args: Any) -> tuple[Any, list[Any]]:
        """Return the jaxpr of the call and the values of its inputs; a later call reuses the trace."""
        traced, jitted = self._split(args)
        return jitted.trace(traced).jaxpr, jax.tree.leaves(traced)

    def _split(self, args: tuple, *, is_part: bool = False) -> tuple[Any, Any]:
        """Return the traced part of arguments, and the jitted function of it.

        Where the call is a part of what JAX is tracing, the options of the whole hold.
        """
        traced, static = split(args)
        shapes = tuple(map(np.shape, jax.tree.leaves(traced)))
        level = None if is_part else _level(self.quick)
        return traced, _jitted(self.function, static, shapes, level)


def split(tree: Any) -> tuple[Any, "Static"]:
    """Split a pytree into its traced and its static part; see `joined`."""
    traced, static = eqx.partition(tree, is_traced)
    leaves, structure = jax.tree.flatten(static)
    return traced, Static(tuple((type(leaf), leaf) for leaf in leaves), structure)


def joined(traced: Any, static: "Static") -> Any:
    """Return the pytree whose traced and static parts these are."""
    leaves = [leaf for _, leaf in static.leaves]
    return eqx.combine(traced, jax.tree.unflatten(static.structure, leaves))


def is_traced(leaf: Any) -> bool:
    """Return whether a leaf is an argument of compiled code: arrays (not of text) and Python floats."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "biufcV"
    return isinstance(leaf, jax.Array | float)


def is_tracer(value: Any) -> bool:
    """Return whether a value is abstract, because JAX is tracing the code that uses it."""
    return isinstance(value, jax.core.Tracer)


def evaluated(operation: Any, values: list) -> list:
    """Return the results of one operation of a traced function."""
    params = operation.primitive.get_bind_params(operation.params)
    # Before and since JAX 0.12.
    functions, params = params if isinstance(params, tuple) else ((), params)
    outputs = operation.primitive.bind(*functions, *values, **params)
    return list(outputs) if operation.primitive.multiple_results else [outputs]


def operations(jaxpr: Any) -> Iterator[Any]:
    """Return the operations of a traced function, with the operations of nested functions for calls."""
    for operation in jaxpr.eqns:
        functions = nested(operation)
        for function in functions:
            yield from operations(function)
        if not functions:
            yield operation


def nested(operation: Any) -> list[Jaxpr]:
    """Return the functions that an operation calls."""
    params = jax.tree.leaves([*operation.params.values()])
    functions = (getattr(each, "jaxpr", each) for each in params)
    return [each for each in functions if isinstance(each, Jaxpr)]


def in_full_precision[**P, T](function: Callable[P, T]) -> Callable[P, T]:
    """Compute a function's products of matrices in float32 where a GPU would round their factors.

    Solves and derivatives through many steps amplify that rounding. `jax_default_matmul_precision`
    has precedence where it is set.
    """

    @wraps(function)
    def precise(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.default_matmul_precision(jax.config.jax_default_matmul_precision or "float32"):
            return function(*args, **kwargs)

    return precise


@dataclass(frozen=True)
class Static:
    """The static leaves of a pytree and its structure, compared by type and value."""

    leaves: tuple[tuple[type, Hashable], ...]
    structure: Any


@lru_cache(maxsize=MAX_COMPILED)
def _jitted(function: Callable, static: Static, shapes: tuple, level: int | None) -> Any:
    """Return the jitted function of a static structure; the least recently used are freed.

    One for all shapes would keep the code for each of them, however many data sets there are. It has
    the function's name in JAX's logs and profiles.
    """

    def call(traced: Any) -> Any:
        return function(*joined(traced, static))

    call.__name__ = getattr(function, "__name__", type(function).__name__)
    return jax.jit(call, compiler_options=None if level is None else {LEVEL: level})


def _is_tracing() -> bool:
    """Return whether JAX is tracing the code that asks."""
    return is_tracer(jnp.zeros(()))


def _level(quick: bool) -> int | None:
    """Return the effort of LLVM, None where XLA_FLAGS or another device decides."""
    if quick:
        return ONCE
    decided = LEVEL in os.environ.get("XLA_FLAGS", "") or jax.default_backend() != "cpu"
    return None if decided else OFTEN


def keep_compilations() -> None:
    """Make JAX keep compiled code in the user's cache folder, unless another folder was chosen.

    Each machine has its own folder, since code for one processor may not run on another. Without a home
    folder, or where JAX's cache is disabled, nothing is kept.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    try:
        cache = platformdirs.user_cache_path("dtda_prob", appauthor=False)
        folder = cache / "jax" / platform.node()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no HOME, and no entry for the user
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_SECONDS)


keep_compilations()
