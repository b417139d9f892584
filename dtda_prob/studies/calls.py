"""The compiled calls that draw: vectorised over pairs of run and perturbation, split over devices."""

from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key

from dtda_prob.blocks import map_rows
from dtda_prob.compiling import compiled
from dtda_prob.studies.devices import dealt, spread
from dtda_prob.studies.reading import read
from dtda_prob.studies.source import Source, training_of
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import Outcome, Weights

READ_AT_ONCE = 4
"""Outcomes read together: few, since their statistics visit all data at once."""


@compiled
def draw_runs(training: Training, mesh: Mesh | None, keys: Key[Array, " run"], old: Weights) -> Outcome:
    """Draw runs at the old weights."""

    def some(training: Training, keys: Key[Array, " run"], old: Weights) -> Outcome:
        return jax.vmap(training.draw, (0, None))(keys, old)

    return spread(some, mesh, training, (_split(mesh), P()), _split(mesh))(keys, old)


@compiled
def carry_runs(
    source: PushForward,
    keep: tuple[str, ...],
    mesh: Mesh | None,
    together: int,
    keys: Key[Array, " run"],
    outcomes: Outcome,
    old: Weights,
    new: Float[Array, "perturbation example"],
) -> dict[str, Array]:
    """Carry all runs to each perturbation, `together` perturbations at a time.

    What depends on a perturbation alone, such as importance weights, is computed once for all runs, and
    what depends on a run alone once for all perturbations.
    """

    def some(source: Any, keys: Array, outcomes: Outcome, old: Weights, new: Array) -> Any:
        outcomes = jax.vmap(source.ready, (0, None))(outcomes, old)

        def to(new: Weights) -> dict[str, Array]:
            carried = jax.vmap(source.carry, (0, 0, None, None))(keys, outcomes, old, new)
            return _read(source.training, keep, carried, new)

        return map_rows(to, new, together)

    specs = P(), P(), P(), _split(mesh)
    return spread(some, mesh, source, specs, _split(mesh))(keys, outcomes, old, new)


@compiled
def push_pairs(
    source: Source,
    keep: tuple[str, ...],
    mesh: Mesh | None,
    keys: Key[Array, " pair"],
    old: Weights,
    new: Float[Array, "*pair example"],
) -> dict[str, Array]:
    """Push all pairs at once, and read them a few at a time."""
    axis = None if new.ndim == 1 else 0

    def some(source: Source, keys: Array, old: Weights, new: Array) -> Any:
        outcomes = jax.vmap(source.push, (0, None, axis))(keys, old, new)
        return _read(training_of(source), keep, outcomes, new)

    specs = _split(mesh), P(), P() if axis is None else _split(mesh)
    return spread(some, mesh, source, specs, _split(mesh))(keys, old, new)


def _read(training: Training, keep: tuple[str, ...], outcomes: Outcome, new: Array) -> dict[str, Array]:
    if new.ndim == 1:
        one = lambda outcome: read(training, keep, outcome, new)  # noqa: E731
        return map_rows(one, outcomes, READ_AT_ONCE)
    pair = lambda pair: read(training, keep, *pair)  # noqa: E731
    return map_rows(pair, (outcomes, new), READ_AT_ONCE)


def _split(mesh: Mesh | None) -> P:
    return P(dealt(mesh) or None)
