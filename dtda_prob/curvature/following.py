"""Parameters, followed through a traced function to the products that they enter.

A parameter that enters matrix products, convolutions and look-ups of rows alone has, for each output,
the gradient sum_p a_p g_p': over the positions p at which it is used (one in a layer on vectors, each
token or patch), a_p is what multiplies it and g_p the derivative with respect to the result. The
function is evaluated operation by operation. Zeros are added to each result, whose derivative is g. A
bias that is added to the result is a row more of the parameter, which 1 multiplies.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Array

from dtda_prob.compiling import evaluated
from dtda_prob.curvature.views import MAPPED, Move, Result, Row, Stack, Tape, View, size_of, value_of


def evaluate(traced: Any, inputs: list, tape: Tape) -> list:
    """Evaluate a traced function of arrays and views, and note the products of views."""
    jaxpr = getattr(traced, "jaxpr", traced)
    held = zip(jaxpr.constvars, getattr(traced, "consts", ()), strict=True)
    values = dict([*held, *zip(jaxpr.invars, inputs, strict=True)])

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for operation in jaxpr.eqns:
        outputs = _apply(operation, [read(atom) for atom in operation.invars], tape)
        values.update(zip(operation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(operation: Any, inputs: list, tape: Tape) -> list:
    name = operation.primitive.name
    if name not in _OF_RESULTS:
        inputs = [tape.value(x) if isinstance(x, Result) else x for x in inputs]
    followed = any(isinstance(x, View | Result) for x in inputs)
    if followed and _has_gradient(operation):
        rule = _RULES.get(name)
        outputs = None if rule is None else rule(operation, inputs, tape)
        if outputs is not None:
            return outputs
        inputs = [tape.value(x) for x in inputs]
    return evaluated(operation, [value_of(x) for x in inputs])


def _has_gradient(operation: Any) -> bool:
    if operation.primitive.name == "stop_gradient":
        return False
    return any(jnp.issubdtype(var.aval.dtype, jnp.inexact) for var in operation.outvars)


def _call(operation: Any, inputs: list, tape: Tape) -> list:
    inner = operation.params.get("jaxpr") or operation.params["call_jaxpr"]
    return evaluate(inner, inputs, tape)


def _move(operation: Any, inputs: list, tape: Tape) -> list | None:
    """Follow what has as many numbers as before; what repeats them is left to derivatives."""
    (x,) = inputs
    if operation.outvars[0].aval.size != x.value.size:
        return None
    moved = x._replace(value=evaluated(operation, [x.value])[0])
    if operation.primitive.name == "convert_element_type":
        return [moved]
    settings = tuple((name, _plain(value)) for name, value in operation.params.items())
    step = Move(operation.primitive, settings)
    if isinstance(x, View):
        return [moved._replace(steps=(*x.steps, step))]
    order = operation.params.get("permutation", range(x.columns.ndim))
    columns = x.columns.transpose(order)
    return [moved._replace(columns=columns.reshape(moved.value.shape))]


def _plain(value: Any) -> Any:
    """Return axes as Python's integers, since mapped operations have NumPy's, which count as arrays."""
    if type(value) is tuple:
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _add(operation: Any, inputs: list, tape: Tape) -> list | None:
    """Follow a bias: a parameter that is added to each column of a product."""
    result, bias = inputs if isinstance(inputs[0], Result) else inputs[::-1]
    if not (isinstance(result, Result) and isinstance(bias, View)):
        return None
    columns = np.arange(bias.value.size).reshape(bias.value.shape)
    shape = operation.outvars[0].aval.shape
    use = tape.uses[result.use]
    columns = np.broadcast_to(columns, shape)
    if result.value.shape != shape or np.any(result.columns != columns) or bias.loops != use.loops:
        return None
    row = Row(len(use.other))
    tape.biases.append((result.use, bias._replace(steps=(*bias.steps, row))))
    return evaluated(operation, [value_of(x) for x in inputs])


def _dot(operation: Any, inputs: list, tape: Tape) -> list | None:
    mine = int(isinstance(inputs[1], View))
    view, other = inputs[mine], inputs[1 - mine]
    if isinstance(other, View):
        return None
    contracted, counting = operation.params["dimension_numbers"]
    free = [_rest(value_of(x), *axes) for x, *axes in zip(inputs, contracted, counting, strict=True)]
    step = Stack(tuple(counting[mine]), tuple(contracted[mine]), free[mine])
    left = Stack(tuple(counting[1 - mine]), free[1 - mine], tuple(contracted[1 - mine]))
    (result,) = evaluated(operation, [value_of(x) for x in inputs])
    added = tape.product(view, step, left(other), size_of(view.value, free[mine]), result.dtype)

    def shaped(x: Any) -> Any:
        return (x if mine == 1 else x.swapaxes(1, 2)).reshape(result.shape)

    return [_result(tape, result, added, shaped)]


def _look_up(operation: Any, inputs: list, tape: Tape) -> list | None:
    """Follow a look-up of whole rows, as of embeddings: a product with one-hot vectors."""
    table, places = inputs
    numbers, (result,) = operation.params["dimension_numbers"], operation.outvars
    width, rank = table.value.ndim - 1, result.aval.ndim
    whole_rows = (
        numbers.collapsed_slice_dims == numbers.start_index_map == (0,)
        and numbers.offset_dims == tuple(range(rank - width, rank))
        and operation.params["slice_sizes"] == (1, *table.value.shape[1:])
    )
    if not whole_rows or isinstance(places, View):
        return None
    length = table.value.shape[0]
    drops = operation.params["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP
    inside = (places >= 0) & (places < length) | (not drops)
    step = Stack((), (0,), tuple(range(1, width + 1)))
    found = jnp.clip(places, 0, length - 1).reshape(1, -1, 1)
    (rows,) = evaluated(operation, [table.value, places])
    added = tape.product(table, step, found, table.value.size // length, rows.dtype)
    added = jnp.where(inside.reshape(1, -1, 1), added, 0)
    return [rows + added.reshape(rows.shape)]


def _convolve(operation: Any, inputs: list, tape: Tape) -> list | None:
    """Follow the kernel of a convolution: a product with the patches of its input."""
    image, kernel = inputs
    params = operation.params
    if isinstance(image, View) or params["feature_group_count"] * params["batch_group_count"] > 1:
        return None
    numbers = params["dimension_numbers"]
    patches = jax.lax.conv_general_dilated_patches(
        image,
        [kernel.value.shape[axis] for axis in numbers.rhs_spec[2:]],
        **{k: params[k] for k in ("window_strides", "padding", "lhs_dilation", "rhs_dilation")},
        dimension_numbers=numbers,
        precision=jax.lax.Precision.HIGHEST,
    )
    channel = numbers.out_spec[1]
    step = Stack((), (numbers.rhs_spec[1], *numbers.rhs_spec[2:]), (numbers.rhs_spec[0],))
    (result,) = evaluated(operation, [image, kernel.value])
    positions = _rest(result, (channel,))
    left = Stack((), positions, (channel,))(patches)
    added = tape.product(kernel, step, left, result.shape[channel], result.dtype)
    shape = [result.shape[axis] for axis in positions]
    order = [*range(channel), len(shape), *range(channel, len(shape))]
    return [_result(tape, result, added, lambda x: x.reshape(*shape, -1).transpose(order))]


def _result(tape: Tape, result: Array, added: Array, shaped: Callable[[Any], Any]) -> Result:
    """Return the result of the last product, with zeros added to it whose derivative is g."""
    matrices, _, width = added.shape
    columns = np.arange(matrices * width).reshape(matrices, 1, width)
    columns = shaped(np.broadcast_to(columns, added.shape))
    return Result(len(tape.uses) - 1, columns, result + shaped(added))


def _scan(operation: Any, inputs: list, tape: Tape) -> list:
    """Follow parameters into a loop, which takes some of them row by row."""
    params, body = operation.params, operation.params["jaxpr"]
    inside, outside = body.jaxpr.invars, operation.invars
    num_rows = sum(a.aval.ndim != b.aval.ndim for a, b in zip(inside, outside, strict=True))
    pairs = zip(body.jaxpr.outvars, operation.outvars, strict=True)
    num_carried = sum(a.aval.ndim == b.aval.ndim for a, b in pairs)
    first = len(inputs) - num_rows
    fixed = [_entered(x, value_of(x), mapped=False) for x in inputs[: first - num_carried]]
    rows = inputs[first:]
    carried = [tape.value(x) for x in inputs[first - num_carried : first]]
    inner: list[Tape] = []

    def step(carried: list, given: tuple) -> tuple[list, tuple]:
        own = Tape(tape.plain, given[1])
        taken = [_entered(*pair, mapped=True) for pair in zip(rows, given[0], strict=True)]
        outputs = evaluate(body, [*fixed, *carried, *taken], own)
        outputs = [own.value(x) for x in outputs]
        inner.append(own)
        return outputs[:num_carried], (outputs[num_carried:], [use.other for use in own.uses])

    added = None if tape.added is None else next(tape.added)
    given = [value_of(x) for x in rows], added
    settings = {name: params[name] for name in ("length", "reverse", "unroll")}
    carried, (stacked, others) = jax.lax.scan(step, carried, given, **settings)
    pairs = zip(inner[-1].uses, others, strict=True)
    tape.biases += [(len(tape.uses) + use, bias) for use, bias in inner[-1].biases]
    tape.spread |= {len(tape.uses) + use for use in inner[-1].spread}
    tape.uses += [use._replace(other=other) for use, other in pairs]
    tape.shapes.append(jax.tree.map(lambda x: _longer(x, params["length"]), inner[-1].shapes))
    return [*carried, *stacked]


def _entered(x: Any, value: Any, *, mapped: bool) -> Any:
    """Return an input of a loop inside it: as it is, or a row of it."""
    if not isinstance(x, View):
        return value
    steps = (*x.steps, MAPPED) if mapped else x.steps
    return View(x.leaf, steps, (*x.loops, mapped), value)


def _longer(x: Any, length: int) -> Any:
    return jax.ShapeDtypeStruct((length, *x.shape), x.dtype)


def _rest(x: Any, *groups: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of an array that are in none of the groups."""
    taken = {int(axis) for axes in groups for axis in axes}
    return tuple(axis for axis in range(x.ndim) if axis not in taken)


_MOVES = ("reshape", "transpose", "squeeze", "broadcast_in_dim", "convert_element_type", "copy")
_CALLS = ("jit", "pjit", "remat2", "checkpoint", "closed_call", "core_call")
_RULES: dict[str, Callable[[Any, list, Tape], list | None]] = {
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_CALLS, _call),
    "add": _add,
    "dot_general": _dot,
    "gather": _look_up,
    "conv_general_dilated": _convolve,
    "scan": _scan,
}
"""How operations are followed. Custom derivatives are kept as they are: what enters them is plain."""
_OF_RESULTS = {*_MOVES, *_CALLS, "add"}
"""Operations that follow the results of products too."""
