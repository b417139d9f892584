"""Pairs of a run and a perturbation, or of a run and a query, cut into blocks of one size."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

Pair = tuple[int, int]
"""A number of runs, or the position of one, and the same of columns."""


class Block(NamedTuple):
    """Some runs by some columns, which are perturbations or queries.

    Attributes:
        first: the run and the column that it starts with.
        size: how many there are of each.
    """

    first: Pair
    size: Pair

    @property
    def num_pairs(self) -> int:
        """Count the pairs of run and column."""
        return self.size[0] * self.size[1]

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the run and the column of each pair, all columns of a run in a row."""
        runs, columns = np.meshgrid(*self.ranges(), indexing="ij")
        return runs.ravel(), columns.ravel()

    def ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the positions of the runs, and of the columns."""
        runs, columns = (start + np.arange(n) for start, n in zip(*self, strict=True))
        return runs, columns

    def slices(self) -> tuple[slice, slice]:
        """Give where it is among all runs and columns."""
        rows, columns = (slice(start, start + n) for start, n in zip(*self, strict=True))
        return rows, columns


class Shard(NamedTuple):
    """What one task computes, and one file per array holds.

    Attributes:
        place: which block of runs and of columns it is.
        whole: all that it is to hold.
        done: how many of its runs and columns were finished before.
    """

    place: Pair
    whole: Block
    done: Pair = (0, 0)

    def missing(self) -> list[Block]:
        """Give what is left to compute: new runs, then new columns of the runs there were."""
        (run, column), (runs, columns) = self.whole
        old_runs, old = self.done if all(self.done) else (0, 0)
        new_runs = Block((run + old_runs, column), (runs - old_runs, columns))
        new_columns = Block((run, column + old), (old_runs, columns - old))
        return [block for block in (new_runs, new_columns) if min(block.size) > 0]


class Grid(NamedTuple):
    """How many runs and columns a shard holds."""

    runs: int
    columns: int

    def shards(self, size: Pair) -> Iterator[Shard]:
        """Cut so many runs and columns into shards; the last ones may be smaller."""
        for place in np.ndindex(-(-size[0] // self.runs), -(-size[1] // self.columns)):
            first = place[0] * self.runs, place[1] * self.columns
            whole = min(self.runs, size[0] - first[0]), min(self.columns, size[1] - first[1])
            yield Shard(place, Block(first, whole))

    def unfinished(self, size: Pair, done: Callable[[Pair], Pair]) -> list[Shard]:
        """Give the shards that lack runs or columns.

        Args:
            size: numbers of runs and columns that are wanted.
            done: how many a shard has, by its place. They are a rectangle, and stay one: columns are
                added for all runs that there are.
        """
        found = []
        for place, whole, _ in self.shards(size):
            there = done(place)
            grown = Block(whole.first, (max(whole.size[0], there[0]), max(whole.size[1], there[1])))
            shard = Shard(place, grown if all(there) else whole, there)
            found += [shard] if shard.missing() else []
        return found


def grid_for(size: Pair, chunk_size: int, *, multiple: int = 1, all_columns: bool = False) -> Grid:
    """Choose shards of about `chunk_size` pairs.

    Args:
        size: numbers of runs and columns.
        chunk_size: pairs per shard, more where `multiple` or `all_columns` asks for it.
        multiple: what the number of runs in a shard is to be a multiple of.
        all_columns: whether a shard holds all columns of `chunk_size` runs.

    >>> grid_for((16, 1), 64)
    Grid(runs=16, columns=1)
    >>> grid_for((16, 1000), 64, multiple=4)
    Grid(runs=4, columns=64)
    """
    runs, columns = size
    each = columns if all_columns else min(columns, chunk_size)
    together = chunk_size if all_columns else chunk_size // each
    return Grid(min(max(1, together // multiple) * multiple, runs), each)
