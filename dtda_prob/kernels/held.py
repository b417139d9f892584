"""Derivatives of an optimizer's step along a gradient, with its preconditioner held as it is.

Second moments, norms and signs are of even degree in the gradient, or do not change with it: the
derivative leaves them as they are, and what remains is linear. So a larger gradient leads to a larger
step, by the factor that this step had: Adam's is its rate over the root of its second moment.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jax.interpreters import partial_eval
from jaxtyping import Array, PyTree

from dtda_prob.kernels.kernel import no_step_size

Slopes = list[Array | None]
"""A tangent for each leaf of a tree, None where it is zero."""

HELD = {"stop_gradient", "square", "integer_pow", "pow", "abs", "sign"}
"""Primitives through which no derivative is taken."""
PRODUCTS = {"mul", "dot_general"}
"""Primitives through which none is taken where more than one factor has one."""
QUOTIENTS = {"div"}
"""Primitives whose second argument is held where the first has a derivative."""
MIXING = (
    *("dot_general", "conv_general", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "cum"),
    *("sort", "fft", "scan", "while", "eigh", "svd", "qr", "geqrf", "householder", "lu", "cholesky"),
    *("triangular_solve", "custom_linear_solve"),
)
"""Beginnings of the names of primitives that mix the elements of an array."""
BODIES = ("jaxpr", "call_jaxpr")
"""Parameters of primitives that call a function once."""


def held_jvp(function: Callable, primals: PyTree, slopes: Slopes) -> tuple[PyTree, Slopes]:
    """Return a function's value and its slopes, with all that is of even degree in them held.

    Args:
        function: of one pytree.
        primals: where it is evaluated.
        slopes: of each leaf of the primals.
    """
    leaves, structure = jax.tree.flatten(primals)
    flat = lambda *leaves: function(structure.unflatten(leaves))  # noqa: E731
    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    values, moved = _evaluate(closed.jaxpr, closed.consts, leaves, slopes)
    return jax.tree.structure(shapes).unflatten(values), moved


def carried(function: Callable, carry: PyTree, given: PyTree) -> tuple[list[bool], list[bool]]:
    """Return which leaves ever have a slope if a function is iterated: of the carry, of the rest.

    Args:
        function: from a carry and what is given, which has slopes, to the next carry and a rest.
        carry: the first carry, or its shapes; it has no slope.
        given: what is given, or its shapes.

    Raises:
        ValueError: if slopes of different parameters are mixed, so that none belongs to one of them.
    """
    whole = jax.make_jaxpr(function)(carry, given).jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(whole, [True] * len(whole.outvars), instantiate=True)
    size = len(jax.tree.leaves(carry))
    others = [True] * (len(jaxpr.invars) - size)
    flags = [False] * size
    while True:
        outs = _passed(jaxpr, [*flags, *others])
        if outs[:size] == flags:
            _passed(jaxpr, [*flags, *others], _check_apart)
            return flags, outs[size:]
        flags = outs[:size]


def filled(tree: PyTree, slopes: Slopes, flags: Sequence[bool]) -> Slopes:
    """Return slopes with zeros for None at the flagged leaves of a tree."""
    each = zip(jax.tree.leaves(tree), slopes, flags, strict=True)
    return [jnp.zeros_like(leaf) if flag and slope is None else slope for leaf, slope, flag in each]


def _evaluate(jaxpr: Jaxpr, consts: Sequence, args: Sequence, slopes: Slopes) -> tuple[list, Slopes]:
    nothing: Slopes = [None] * len(consts)
    inputs = zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], [*nothing, *slopes], strict=True)
    known = {variable: (value, slope) for variable, value, slope in inputs}

    def read(atom: Any) -> tuple[Any, Array | None]:
        return (atom.val, None) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        values, moved = _apply(eqn, [value for value, _ in given], [slope for _, slope in given])
        known.update(zip(eqn.outvars, zip(values, moved, strict=True), strict=True))
    outs = [read(atom) for atom in jaxpr.outvars]
    return [value for value, _ in outs], [slope for _, slope in outs]


def _apply(eqn: JaxprEqn, values: list, slopes: Slopes) -> tuple[list, Slopes]:
    name, params = eqn.primitive.name, eqn.params
    flags = [slope is not None for slope in slopes]
    moving = [i for i, flag in enumerate(flags) if flag]
    if _is_held(eqn, flags):
        return bound(eqn, values), [None] * len(eqn.outvars)
    if name == "cond":
        return _branch(params["branches"], values, slopes, _passes(eqn, flags))
    body = _body(eqn)
    if body is not None:
        return _evaluate(getattr(body, "jaxpr", body), getattr(body, "consts", ()), values, slopes)
    if name in QUOTIENTS:
        moving = moving[:1]

    def along(*some: Array) -> list:
        given = dict(zip(moving, some, strict=True))
        return bound(eqn, [given.get(i, value) for i, value in enumerate(values)])

    outs, moved = jax.jvp(along, [values[i] for i in moving], [slopes[i] for i in moving])
    return outs, [None if slope.dtype == jax.dtypes.float0 else slope for slope in moved]


def bound(eqn: JaxprEqn, values: list) -> list:
    """Return the outputs of an equation at some values of its inputs."""
    given = eqn.primitive.get_bind_params(eqn.params)
    functions, params = given if isinstance(given, tuple) else ((), given)  # JAX 0.11, and later.
    outs = eqn.primitive.bind(*functions, *values, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def _branch(branches: Sequence, values: list, slopes: Slopes, flags: list[bool]) -> tuple[list, Slopes]:
    def taken(closed: Any) -> Callable:
        def branch(values: list, slopes: Slopes) -> tuple[list, Slopes]:
            outs, moved = _evaluate(closed.jaxpr, closed.consts, values, slopes)
            return outs, filled(outs, moved, flags)

        return branch

    return jax.lax.switch(values[0], [*map(taken, branches)], values[1:], slopes[1:])


# The same in flags: which outputs have a slope.


def _passed(
    jaxpr: Jaxpr, flags: Sequence[bool], check: Callable[[JaxprEqn], None] | None = None
) -> list[bool]:
    known = {variable: flag for variable, flag in zip(jaxpr.invars, flags, strict=True) if flag}
    read = lambda atom: not isinstance(atom, Literal) and known.get(atom, False)  # noqa: E731
    for eqn in jaxpr.eqns:
        outs = _passes(eqn, [read(atom) for atom in eqn.invars], check)
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _passes(
    eqn: JaxprEqn, flags: list[bool], check: Callable[[JaxprEqn], None] | None = None
) -> list[bool]:
    if _is_held(eqn, flags):
        return [False] * len(eqn.outvars)
    if eqn.primitive.name == "cond":
        each = [_passed(branch.jaxpr, flags[1:], check) for branch in eqn.params["branches"]]
        return [any(one) for one in zip(*each, strict=True)]
    body = _body(eqn)
    if body is not None:
        return _passed(getattr(body, "jaxpr", body), flags, check)
    if check is not None:
        check(eqn)
    return [jnp.issubdtype(_dtype(variable), jnp.inexact) for variable in eqn.outvars]


def _check_apart(eqn: JaxprEqn) -> None:
    """Raise if an equation mixes the elements of an array."""
    if eqn.primitive.name.startswith(MIXING):
        raise no_step_size(
            f"the optimizer's steps mix parameters, as Muon's do ({eqn.primitive.name}), so that no "
            "step size belongs to one of them"
        )


def _is_held(eqn: JaxprEqn, flags: list[bool]) -> bool:
    name, count = eqn.primitive.name, sum(flags)
    is_linear = name == "integer_pow" and eqn.params["y"] == 1
    return count == 0 or (name in HELD and not is_linear) or (name in PRODUCTS and count > 1)


def _dtype(variable: Any) -> Any:
    return variable.aval.dtype


def _body(eqn: JaxprEqn) -> Any:
    """Return what an equation calls once, None if it is no call."""
    if eqn.primitive.name == "scan":
        return None
    return next((eqn.params[name] for name in BODIES if name in eqn.params), None)
