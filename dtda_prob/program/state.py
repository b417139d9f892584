"""State of layers: running statistics, which training overwrites, and streams of random keys.

NumPyro keeps both in mutable sites. Running statistics are parameters of a program that no gradient
moves: each step leaves what the model's forward pass made of them. Streams of keys are no parameters;
they begin anew at each evaluation, from its key.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.core
import jax.extend
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Float
from numpyro.primitives import Messenger

from dtda_prob.program.plates import Sites
from dtda_prob.typing import Params

State = dict[str, Any]
"""A tree of arrays for each mutable site."""


class stateful(Messenger):
    """Restore the state of layers as they left it, in its own types, and note what they leave.

    Put it right around the model, so that all other handlers see the state before the model changes it.

    Args:
        fn: the model.
        left: where to note the state of each site, which the model changes while it runs.
    """

    def __init__(self, fn: Callable | None = None, left: State | None = None):
        super().__init__(fn)
        self.left = {} if left is None else left

    def postprocess_message(self, msg: Any) -> None:
        """Replace the value of a mutable site by a copy for the model to change."""
        if msg["type"] == "mutable" and msg["value"] is not None:
            msg["value"] = self.left[msg["name"]] = _begun(msg["args"][0], msg["value"])


def numbers(tree: Any) -> Any:
    """Return a state's arrays as floating numbers, without streams of keys."""
    return jax.tree.map(_floating, _carried(tree))


def names(sites: Sites) -> tuple[str, ...]:
    """Return the mutable sites of a trace that hold more than streams of keys.

    Raises:
        NotImplementedError: for keys that do not lie in a dictionary.
    """
    mutable = {k: v["value"] for k, v in sites.items() if v["type"] == "mutable"}
    carried = {name: jax.tree.leaves(_carried(value)) for name, value in mutable.items()}
    for name, leaves in carried.items():
        if any(map(_is_key, leaves)):
            raise NotImplementedError(
                f"site {name!r} holds random keys as its state; give layers their key at the call, "
                "from numpyro.prng_key()"
            )
    return tuple(name for name, leaves in carried.items() if leaves)


def check_carried(sites: tuple[str, ...], kernel: str, carries: bool) -> None:
    """Refuse a kernel whose steps do not take over the state that layers leave.

    Raises:
        ValueError: naming the kernel and the sites.
    """
    if sites and not carries:
        raise ValueError(
            f"{kernel} does not carry the state of layers, {[*sites]} (running statistics of batch "
            "normalisation), from step to step; use sgd, or in a kernel of your own "
            "program.value_and_grad, which returns it, and the property keeps_state"
        )


def with_state(
    function: Callable[[Params, State], Float[Array, ""]], params: Params, state: Iterable[str]
) -> tuple[Float[Array, ""], State]:
    """Evaluate a function of parameters that notes the state it leaves; return its value and state.

    NumPyro stops the gradient of what flax leaves as its state. What follows training through it does
    depend on it: its derivative is the one of the arrays before the stop.
    """

    def run(params: Params) -> tuple[Array, Any]:
        left: State = {}
        value = function(params, left)
        return value, {name: _carried(left[name]) for name in state}

    closed, shapes = jax.make_jaxpr(run, return_shape=True)(params)
    made = {eqn.outvars[0]: eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "stop_gradient"}

    def before(variable: Any) -> Any:
        while not isinstance(variable, jax.extend.core.Literal) and variable in made:
            variable = made[variable].invars[0]
        return variable

    value, *rest = closed.jaxpr.outvars
    jaxpr = closed.jaxpr.replace(outvars=[value, *map(before, rest)])
    leaves = jax.core.eval_jaxpr(jaxpr, closed.consts, *jax.tree.leaves(params))
    value, left = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    like = {name: params[name] for name in state}
    return value, jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), left, like)


def _carried(tree: Any) -> Any:
    """Return a tree without keys, and without the counts beside them."""
    if not isinstance(tree, dict):
        return tree
    is_stream = any(map(_is_key, tree.values()))
    parts = {k: _carried(part) for k, part in tree.items() if not (is_stream and _is_whole(part))}
    return {name: part for name, part in parts.items() if jax.tree.leaves(part)}


def _is_key(leaf: Any) -> bool:
    """Return whether an array is a key, typed or as older JAX has them."""
    if not hasattr(leaf, "dtype"):
        return False
    typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return typed or (leaf.dtype == jnp.uint32 and leaf.shape[-1:] == (2,))


def _is_whole(leaf: Any) -> bool:
    """Return whether an array is a key or the count of a stream of keys."""
    return hasattr(leaf, "dtype") and not jnp.issubdtype(leaf.dtype, jnp.floating)


def _floating(leaf: Any) -> Array:
    array = jnp.asarray(leaf)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def _begun(begin: Any, value: Any) -> Any:
    """Return the state that a model begins with, its carried numbers replaced, its keys drawn anew."""
    if isinstance(begin, dict):
        return {name: _begun(part, value.get(name, part)) for name, part in begin.items()}
    return jax.tree.map(_as, value if begin is None else begin, value)


def _as(begin: Any, value: Any) -> Any:
    if not hasattr(begin, "dtype"):
        return jnp.asarray(value)
    if jnp.issubdtype(begin.dtype, jax.dtypes.prng_key):
        key = numpyro.prng_key()
        return value if key is None else jax.random.split(key, begin.shape)
    whole = jnp.issubdtype(begin.dtype, jnp.integer)
    return (jnp.round(value) if whole else jnp.asarray(value)).astype(begin.dtype)
