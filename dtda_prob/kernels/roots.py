"""Functions with roots whose derivative is 0 at 0.

Adam divides by the root of a second moment. Where every gradient so far is exactly 0, as for a pixel
that is always blank, the derivative of that root is infinite, and infinity times 0 is not a number. The
first moment, which multiplies it, is 0 there too, so that the product's derivative needs no root's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jaxtyping import Array

from dtda_prob.kernels.held import bound

BODIES = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr"}
"""Primitives that call a function once and have no derivative of their own, and where it stands."""


@jax.custom_jvp
def root(x: Array) -> Array:
    """Return the square root, whose derivative is taken as 0 at 0."""
    return jnp.sqrt(x)


@root.defjvp
def _root_rule(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value = root(*primals)
    zero = value == 0
    return value, jnp.where(zero, 0.0, 0.5 / jnp.where(zero, 1.0, value)) * tangents[0]


def with_roots(function: Callable) -> Callable:
    """Return the function with `root` for every square root in it; its values are the same."""

    def rooted(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        flat = lambda *leaves: function(*structure.unflatten(leaves))  # noqa: E731
        closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        return jax.tree.structure(shapes).unflatten(_evaluate(closed.jaxpr, closed.consts, leaves))

    return rooted


def _evaluate(jaxpr: Jaxpr, consts: Sequence, args: Sequence) -> list:
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]  # noqa: E731
    for eqn in jaxpr.eqns:
        outs = _apply(eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: JaxprEqn, values: list) -> list:
    name = eqn.primitive.name
    if name == "sqrt":
        return [root(*values)]
    if name == "cond":
        taken = [_called(branch) for branch in eqn.params["branches"]]
        return jax.lax.switch(values[0], taken, *values[1:])
    if name in BODIES:
        return _called(eqn.params[BODIES[name]])(*values)
    return bound(eqn, values)


def _called(closed: Any) -> Callable[..., list]:
    return lambda *values: _evaluate(closed.jaxpr, closed.consts, values)
