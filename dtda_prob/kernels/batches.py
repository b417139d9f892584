"""Batches: which rows a step visits, and phases whose steps visit batches."""

from abc import abstractmethod
from dataclasses import KW_ONLY

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dtda_prob.kernels.kernel import Phase
from dtda_prob.module import Module
from dtda_prob.program import Indices, Program
from dtda_prob.sharding import by_example
from dtda_prob.typing import PRNGKey, Weights

Order = Int[Array, " row"]
Count = Int[Array, ""]


class Batches(Module):
    """A way to visit the data."""

    @abstractmethod
    def steps_per_epoch(self, num_rows: int) -> int:
        """Return the number of steps that visit so many rows once."""

    @abstractmethod
    def take(
        self, key: PRNGKey, count: Count, order: Order, program: Program, weights: Weights
    ) -> tuple[Indices | None, Order]:
        """Return the batch of step `count` (None for all data) and the order of rows to go on with."""

    @abstractmethod
    def check(self, program: Program) -> None:
        """Raise if the program cannot be visited in this way."""


class everything(Batches):
    """Visit all data at every step; where rows are dropped, the remaining rows."""

    def steps_per_epoch(self, num_rows: int) -> int:
        return 1

    def take(
        self, key: PRNGKey, count: Count, order: Order, program: Program, weights: Weights
    ) -> tuple[Indices | None, Order]:
        if not _drops(program):
            return None, order
        return _shuffle(key, program, weights), order

    def check(self, program: Program) -> None:
        if _drops(program):
            program.check_batches(program.num_rows)


class by_epoch(Batches):
    """Visit the rows once per epoch, in fresh random order, leaving out an incomplete last batch."""

    batch_size: int

    def steps_per_epoch(self, num_rows: int) -> int:
        return num_rows // self.batch_size

    def take(
        self, key: PRNGKey, count: Count, order: Order, program: Program, weights: Weights
    ) -> tuple[Indices, Order]:
        position = count % self.steps_per_epoch(program.num_rows)
        order = jax.lax.cond(position == 0, lambda: _shuffle(key, program, weights), lambda: order)
        start = position * self.batch_size
        return by_example(jax.lax.dynamic_slice_in_dim(order, start, self.batch_size)), order

    def check(self, program: Program) -> None:
        program.check_batches(self.batch_size)


class independent(by_epoch):
    """Draw each batch afresh, with replacement."""

    def take(
        self, key: PRNGKey, count: Count, order: Order, program: Program, weights: Weights
    ) -> tuple[Indices, Order]:
        order_key, row_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (self.batch_size,), 0, program.num_rows)
        rows = _shuffle(order_key, program, weights)[rows] if _drops(program) else rows
        return by_example(rows), order


class BatchPhase(Phase):
    """A phase whose steps visit batches.

    Attributes:
        num_steps: number of steps on all data. Where rows are dropped (`Program.drop`) the number of
            epochs stays: fewer steps in proportion on batches, as many on full batches.
        num_epochs: number of epochs instead.
        batch_size: examples per step; all of them if None.
        replace: draw each batch afresh, with replacement, instead of by epochs.
    """

    _: KW_ONLY
    num_steps: int | None = None
    num_epochs: int | None = None
    batch_size: int | None = None
    replace: bool = False

    def __check_init__(self) -> None:
        durations = [each for each in (self.num_steps, self.num_epochs) if each is not None]
        if len(durations) != 1 or durations[0] < 1:
            raise ValueError(
                f"pass one of num_steps and num_epochs, at least 1; got num_steps={self.num_steps} and "
                f"num_epochs={self.num_epochs}"
            )
        if self.replace and self.batch_size is None:
            raise ValueError("replace=True needs a batch_size")

    @property
    def visits(self) -> Batches:
        """Return the rows that each step visits."""
        if self.batch_size is None:
            return everything()
        return independent(self.batch_size) if self.replace else by_epoch(self.batch_size)

    def count_steps(self, program: Program) -> int:
        per_epoch = self.visits.steps_per_epoch(program.num_rows)
        if self.num_steps is None:
            return (self.num_epochs or 0) * per_epoch
        whole = self.visits.steps_per_epoch(program.num_slots)
        return max(1, round(self.num_steps * per_epoch / whole))

    def num_passes(self, program: Program) -> float:
        return self.count_steps(program) * (self.batch_size or program.num_rows) / program.num_rows

    def check_program(self, program: Program) -> None:
        self.visits.check(program)


def _drops(program: Program) -> bool:
    return program.num_rows < program.num_data


def _shuffle(key: PRNGKey, program: Program, weights: Weights) -> Order:
    """Shuffle the rows of an epoch; where rows are dropped, rows of weight 0 come last and stay out."""
    order = _permute(key, program)
    if _drops(program):
        order = order[jnp.argsort(weights[order] == 0, stable=True)]
    return order[: program.num_rows]


def _permute(key: PRNGKey, program: Program) -> Order:
    """Permute slots at random; a copy of a row comes right after its original."""
    order = jax.random.permutation(key, program.num_slots)
    if program.num_slots == program.num_data:
        return order
    return jnp.argsort(jnp.argsort(order)[program.slots], stable=True)
