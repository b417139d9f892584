"""Log-odds of probabilities that a sigmoid gave, before rounding takes them to 0 or 1."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Literal
from jaxtyping import Array, PyTree

_SHAPES = {
    "broadcast_in_dim",
    "reshape",
    "squeeze",
    "transpose",
    "slice",
    "convert_element_type",
    "copy",
    "expand_dims",
}
"""Operations on one array that keep its numbers."""


def with_log_odds(function: Callable[[], PyTree]) -> tuple[PyTree, list[Array | None]]:
    """Call a function, and return the log-odds of each leaf that is a value of a sigmoid.

    A probability within rounding of 1 has lost its log-odds: 16 in single precision at most, with no
    gradient. What the sigmoid was taken of has them, so they are carried along beside its value.
    """
    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)()
    values, odds = _evaluate(jaxpr.jaxpr, jaxpr.consts, [], [])
    return jax.tree.unflatten(jax.tree.structure(shapes), values), odds


def _evaluate(jaxpr: Any, consts: list, args: list, args_odds: list) -> tuple[list, list]:
    """Evaluate operation by operation; beside each value stand its log-odds, None where unknown."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    odds = dict(zip(jaxpr.invars, args_odds, strict=True))

    def value_of(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def odds_of(atom: Any) -> Any:
        return None if isinstance(atom, Literal) else odds.get(atom)

    for equation in jaxpr.eqns:
        known = [odds_of(atom) for atom in equation.invars]
        outputs, own = _apply(equation, [value_of(atom) for atom in equation.invars], known)
        values.update(zip(equation.outvars, outputs, strict=True))
        odds.update(zip(equation.outvars, own, strict=True))
    return [value_of(atom) for atom in jaxpr.outvars], [odds_of(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, values: list, known: list) -> tuple[list, list]:
    name = equation.primitive.name
    if name in ("jit", "pjit"):
        inner = equation.params["jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, values, known)
    params = equation.primitive.get_bind_params(equation.params)
    functions, params = (
        params if isinstance(params, tuple) else ((), params)
    )  # before and since JAX 0.12
    outputs = equation.primitive.bind(*functions, *values, **params)
    outputs = list(outputs) if equation.primitive.multiple_results else [outputs]
    if name == "logistic":
        return outputs, [values[0]]
    if name in _SHAPES and known[0] is not None:
        return outputs, [equation.primitive.bind(known[0], **params)]
    return outputs, [None] * len(outputs)
