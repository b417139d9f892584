"""Which arrays a model indexes by its plate: one of another length is cut in silence."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.extend.core import Literal

LEAF, INDEX, SHIFTED = "leaf", "index", "shifted"
_PLAIN = {"broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "copy", "stop_gradient"}
"""Operations that change nothing about which row is meant."""


class Lookup(NamedTuple):
    """Rows that a model takes from one of its arguments.

    Attributes:
        leaf: the position of the array among the traced arguments; negative for one that the model
            holds itself.
        length: how many rows it has, along the axis that is indexed.
        direct: whether row i is taken for element i of the plate, and not `i + 1` or `table[i]`.
    """

    leaf: int
    length: int
    direct: bool


def lookups(jaxpr: Any, size: int) -> list[Lookup]:
    """Return what a traced model takes from its arguments by the indices of a plate of this size."""
    inputs = [(LEAF, k) for k in range(len(jaxpr.jaxpr.invars))]
    held = [(LEAF, -1 - k) for k in range(len(jaxpr.jaxpr.constvars))]
    found: list[Lookup] = []
    _walk(jaxpr.jaxpr, inputs, size, found, held)
    return found


def misfits(found: list[Lookup], size: int) -> Iterator[Lookup]:
    """Return the arrays that have too few rows, or more than the model ever asks for.

    What the model holds itself may have more: it can be made for other data too.
    """
    shifted = {each.leaf for each in found if not each.direct}
    for each in dict.fromkeys(found):
        too_long = each.length > size and each.leaf >= 0 and each.leaf not in shifted
        if each.direct and (each.length < size or too_long):
            yield each


def _walk(jaxpr: Any, inputs: list, size: int, found: list[Lookup], held: Any = ()) -> list:
    """Follow arguments, arrays held by the model, and indices through the operations of a function."""
    tags = {var: tag for var, tag in zip(jaxpr.invars, inputs, strict=True) if tag is not None}
    tags.update(zip(jaxpr.constvars, held, strict=False))

    def tag_of(atom: Any) -> Any:
        return None if isinstance(atom, Literal) else tags.get(atom)

    for equation in jaxpr.eqns:
        known = [tag_of(atom) for atom in equation.invars]
        outputs = _outputs(equation, known, size, found)
        pairs = zip(equation.outvars, outputs, strict=False)
        tags.update({var: tag for var, tag in pairs if tag is not None})
    return [tag_of(atom) for atom in jaxpr.outvars]


def _outputs(equation: Any, known: list, size: int, found: list[Lookup]) -> list:
    """Return what is known of the results of one operation."""
    name, inner = equation.primitive.name, _inner(equation)
    if inner is not None and len(inner.invars) == len(known):
        return _walk(inner, known, size, found)
    if name == "iota" and equation.outvars[0].aval.shape == (size,):
        return [INDEX]
    if name in _PLAIN:
        return [known[0]]
    if name == "select_n" and set(known[1:]) <= {INDEX, SHIFTED} and known[1:]:
        return [INDEX if INDEX in known[1:] else SHIFTED]
    if name == "gather" and isinstance(known[0], tuple) and known[1] is not None:
        axes = equation.params["dimension_numbers"].start_index_map
        if len(axes) == 1:
            length = equation.invars[0].aval.shape[axes[0]]
            found.append(Lookup(known[0][1], length, known[1] == INDEX))
        return [SHIFTED]
    return [SHIFTED if INDEX in known or SHIFTED in known else None] * len(equation.outvars)


def _inner(equation: Any) -> Any:
    inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    inner = getattr(inner, "jaxpr", inner)
    is_loop = equation.primitive.name in ("scan", "while", "cond")
    return None if is_loop or inner is None or not hasattr(inner, "eqns") else inner
