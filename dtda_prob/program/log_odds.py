"""Log-odds and logs of probabilities of a sigmoid or softmax, before rounding takes them to 0 or 1."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import Literal
from jaxtyping import Array, PyTree

from dtda_prob.compiling import evaluated

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


class LogOdds(NamedTuple):
    """What a sigmoid was taken of."""

    array: Array


class Log(NamedTuple):
    """The logarithm of a value, by which a softmax is known."""

    array: Array


class OnePlusExp(NamedTuple):
    """What the exponential in 1 + exp(x) was taken of, by which a sigmoid written by hand is known."""

    array: Array


Known = LogOdds | Log | OnePlusExp | None


def with_log_odds(function: Callable[[], PyTree]) -> tuple[PyTree, list[Known]]:
    """Call a function; return log-odds of leaves that a sigmoid gave, logs where a softmax did.

    A probability within rounding of 1 has lost its log-odds: 16 in single precision at most, with no
    gradient; one within rounding of 0 its logarithm. What the sigmoid or softmax was taken of has them,
    so they are carried along beside its value.
    """
    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)()
    values, known = _evaluate(jaxpr.jaxpr, jaxpr.consts, [], [])
    return jax.tree.unflatten(jax.tree.structure(shapes), values), known


def _evaluate(jaxpr: Any, consts: list, args: list, args_known: list) -> tuple[list, list]:
    """Evaluate operation by operation; beside each value stands what is known of it."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    learned = dict(zip(jaxpr.invars, args_known, strict=True))

    def value_of(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def known_of(atom: Any) -> Known:
        return None if isinstance(atom, Literal) else learned.get(atom)

    for equation in jaxpr.eqns:
        known = [known_of(atom) for atom in equation.invars]
        outputs, own = _apply(equation, [value_of(atom) for atom in equation.invars], known)
        values.update(zip(equation.outvars, outputs, strict=True))
        learned.update(zip(equation.outvars, own, strict=True))
    return [value_of(atom) for atom in jaxpr.outvars], [known_of(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, values: list, known: list) -> tuple[list, list]:
    name = equation.primitive.name
    if name in ("jit", "pjit"):
        inner = equation.params["jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, values, known)
    outputs = evaluated(equation, values)
    if name in _SHAPES and known[0] is not None:
        return outputs, [type(known[0])(evaluated(equation, [known[0].array])[0])]
    return outputs, [_learned(name, equation.params, values, known)] * len(outputs)


def _learned(name: str, params: dict, values: list, known: list) -> Known:
    """Return what an operation tells of its result: a softmax is exp(x) over its sum.

    Sigmoids written by hand are 1 / (1 + exp(-x)) and exp(x) / (1 + exp(x)).
    """
    if name == "logistic":
        return LogOdds(values[0])
    if name == "add" and any(map(_is_one, values)):
        exponents = [each.array for each in known if isinstance(each, Log)]
        return OnePlusExp(exponents[0]) if exponents else None
    if name == "div" and isinstance(known[1], OnePlusExp):
        exponent = known[1].array
        if _is_one(values[0]):
            return LogOdds(-exponent)
        of_same = isinstance(known[0], Log) and known[0].array is exponent
        return LogOdds(exponent) if of_same else None
    if name == "exp":
        return Log(values[0])
    if name == "reduce_sum" and isinstance(known[0], Log):
        return Log(jax.nn.logsumexp(known[0].array, axis=params["axes"]))
    if name == "div" and all(isinstance(each, Log) for each in known):
        return Log(known[0].array - known[1].array)
    return None


def _is_one(value: Any) -> bool:
    return not isinstance(value, Tracer) and np.ndim(value) == 0 and value == 1
