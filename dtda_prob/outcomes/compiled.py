"""The compiled calls that draws are made by: vectorised over pairs, split over devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from jax.stages import Compiled
from jaxtyping import Array, Float, Key

from dtda_prob.outcomes.devices import spread
from dtda_prob.outcomes.source import Reader, Source
from dtda_prob.typing import Draw, Outcome, Push, Weights

READ_AT_ONCE = 4
"""Outcomes read together: few, since their statistics visit all data at once."""


@partial(jax.jit, static_argnames=("draw", "mesh"))
def draw_runs(draw: Draw, keys: Key[Array, " run"], old: Weights, mesh: Mesh | None) -> Outcome:
    """Draw runs at the old weights."""

    def draw_some(keys: Key[Array, " run"], old: Weights) -> Outcome:
        return jax.vmap(draw, (0, None))(keys, old)

    return spread(draw_some, mesh, (True, False))(keys, old)


@partial(jax.jit, static_argnames=("carry", "read", "mesh"))
def carry_chunk(
    carry: Callable,
    read: Reader,
    keys: Key[Array, " pair"],
    outcomes: Outcome,
    old: Weights,
    new: Float[Array, "pair datum"],
    mesh: Mesh | None,
) -> Any:
    """Carry all pairs at once, and read them a few at a time."""

    def carry_some(keys: Array, outcomes: Outcome, old: Weights, new: Array) -> Any:
        carried = jax.vmap(carry, (0, 0, None, 0))(keys, outcomes, old, new)
        return jax.lax.map(lambda pair: read(*pair), (carried, new), batch_size=READ_AT_ONCE)

    return spread(carry_some, mesh, (True, True, False, True))(keys, outcomes, old, new)


@partial(jax.jit, static_argnames=("push", "read", "mesh"))
def draw_chunk(
    push: Push,
    read: Reader,
    keys: Key[Array, " pair"],
    old: Weights,
    new: Float[Array, "*pair datum"],
    mesh: Mesh | None,
) -> Any:
    """Draw all pairs at once, and read them a few at a time."""
    axis = None if new.ndim == 1 else 0

    def draw_some(keys: Array, old: Weights, new: Array) -> Any:
        outcomes = jax.vmap(push, (0, None, axis))(keys, old, new)
        if axis is None:
            return jax.lax.map(lambda outcome: read(outcome, new), outcomes, batch_size=READ_AT_ONCE)
        return jax.lax.map(lambda pair: read(*pair), (outcomes, new), batch_size=READ_AT_ONCE)

    return spread(draw_some, mesh, (True, False, axis is not None))(keys, old, new)


def compile_chunk(
    source: Source,
    read: Reader,
    keys: Key[Array, " pair"],
    old: Weights,
    new: Float[Array, "*pair datum"],
    mesh: Mesh | None,
) -> Compiled:
    """Compile the call that draws so many pairs, and do not run it."""
    return draw_chunk.lower(source.push, read, keys, old, new, mesh).compile()
