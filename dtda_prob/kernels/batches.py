"""Which data a step visits: all of them, epochs in random order, or independent batches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dtda_prob.program import Indices, Program
from dtda_prob.typing import PRNGKey, Weights

Order = Int[Array, " row"]


class Batches(NamedTuple):
    """A way to visit the data.

    Attributes:
        steps_per_epoch: `(num_rows) -> int`.
        take: `(key, count, order, program, weights) -> (indices, order)`, the batch of step `count`
            (None for all data) and the order of rows that the next step carries on with.
        check: `(program) -> None`, raises where the program cannot be visited so.
    """

    steps_per_epoch: Callable[[int], int]
    take: Callable[..., tuple[Indices | None, Order]]
    check: Callable[[Program], None]


def everything() -> Batches:
    """Visit all data at every step; where rows are dropped, the rows that are left."""

    def take(
        key: PRNGKey, count: Int[Array, ""], order: Order, program: Program, weights: Weights
    ) -> tuple[Indices | None, Order]:
        if not _drops(program):
            return None, order
        return _shuffle(key, program, weights), order

    def check(program: Program) -> None:
        if _drops(program):
            program.check_batches(program.num_rows)

    return Batches(lambda num_rows: 1, take, check)


def by_epoch(batch_size: int) -> Batches:
    """Visit the rows once per epoch, in fresh random order, leaving out what fills no batch."""

    def take(
        key: PRNGKey, count: Int[Array, ""], order: Order, program: Program, weights: Weights
    ) -> tuple[Indices, Order]:
        position = count % (program.num_rows // batch_size)
        order = jax.lax.cond(position == 0, lambda: _shuffle(key, program, weights), lambda: order)
        return jax.lax.dynamic_slice_in_dim(order, position * batch_size, batch_size), order

    return Batches(
        lambda num_rows: num_rows // batch_size, take, lambda program: program.check_batches(batch_size)
    )


def independent(batch_size: int) -> Batches:
    """Draw each batch afresh, with replacement."""

    def take(
        key: PRNGKey, count: Int[Array, ""], order: Order, program: Program, weights: Weights
    ) -> tuple[Indices, Order]:
        order_key, row_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (batch_size,), 0, program.num_rows)
        return (_shuffle(order_key, program, weights)[rows] if _drops(program) else rows), order

    return Batches(
        lambda num_rows: num_rows // batch_size, take, lambda program: program.check_batches(batch_size)
    )


def _drops(program: Program) -> bool:
    return program.num_rows < program.num_data


def _shuffle(key: PRNGKey, program: Program, weights: Weights) -> Order:
    """Order the rows of an epoch; where rows are dropped, those of weight 0 come last, and stay out."""
    order = _permute(key, program)
    if _drops(program):
        order = order[jnp.argsort(weights[order] == 0, stable=True)]
    return order[: program.num_rows]


def _permute(key: PRNGKey, program: Program) -> Order:
    """Put places in random order; a copy stands right behind its original."""
    order = jax.random.permutation(key, program.num_places)
    if program.num_places == program.num_data:
        return order
    return jnp.argsort(jnp.argsort(order)[program.places], stable=True)
