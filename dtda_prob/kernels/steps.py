"""How many steps are taken, over which data."""

from collections.abc import Callable
from typing import NamedTuple

from dtda_prob.kernels import batches
from dtda_prob.program import Program


class Steps(NamedTuple):
    """The steps of a training algorithm.

    Attributes:
        visits: which data each step visits.
        count: `(program) -> int`, the number of steps.
        count_passes: `(program) -> float`, the gradients over all rows that they amount to.
    """

    visits: batches.Batches
    count: Callable[[Program], int]
    count_passes: Callable[[Program], float]


def steps(
    num_steps: int | None,
    num_epochs: int | None,
    batch_size: int | None,
    replace: bool,
) -> Steps:
    """Plan the steps; see `sgd` for what is given.

    Raises:
        ValueError: unless exactly one of `num_steps` and `num_epochs` is given and positive.
    """
    _check_duration(num_steps, num_epochs)
    visits = _visits(batch_size, replace)

    def count(program: Program) -> int:
        per_epoch = visits.steps_per_epoch(program.num_rows)
        if num_steps is None:
            return (num_epochs or 0) * per_epoch
        whole = visits.steps_per_epoch(program.num_places)
        return max(1, round(num_steps * per_epoch / whole))

    def count_passes(program: Program) -> float:
        return count(program) * (batch_size or program.num_rows) / program.num_rows

    return Steps(visits, count, count_passes)


def _visits(batch_size: int | None, replace: bool) -> batches.Batches:
    if batch_size is None:
        if replace:
            raise ValueError("replace=True needs a batch_size")
        return batches.everything()
    return batches.independent(batch_size) if replace else batches.by_epoch(batch_size)


def _check_duration(num_steps: int | None, num_epochs: int | None) -> None:
    given = [number for number in (num_steps, num_epochs) if number is not None]
    if len(given) != 1 or given[0] < 1:
        raise ValueError(
            f"give one of num_steps and num_epochs, at least 1; got num_steps={num_steps} and "
            f"num_epochs={num_epochs}"
        )
