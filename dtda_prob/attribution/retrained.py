"""Retrainings of subsets, one each: a task that grows by subsets."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from dtda_prob.attribution.subsets import Subsets
from dtda_prob.studies.digests import of_key
from dtda_prob.studies.draw import Draws
from dtda_prob.studies.identity import of_program, of_source
from dtda_prob.studies.reading import VALUE
from dtda_prob.training import Training
from dtda_prob.typing import PRNGKey

AT_ONCE = 32
"""Retrainings of a block, which is one compiled call."""


@dataclass(frozen=True, eq=False)
class Retrained:
    """Retrain on all data by each key, and then on one subset after another.

    Attributes:
        training: what is run.
        key: leads to the keys of the runs, which are the keys of the draws.
        subsets: which are retrained.
        num_keys: keys that retrainings have in turn.
        first: retrainings to pass over.
        count: retrainings.
        columns: of a block.
    """

    training: Training
    key: PRNGKey
    subsets: Subsets
    num_keys: int
    first: int
    count: int
    columns: int = AT_ONCE

    dims = ("retraining",)

    @property
    def shape(self) -> tuple[int]:
        """Return the number of retrainings."""
        return (self.count,)

    @property
    def block(self) -> tuple[int]:
        """Return the number of retrainings of a block."""
        return (self.columns,)

    @property
    def coords(self) -> xr.Dataset:
        """Return the labels of retrainings and queries."""
        labels = {"retraining": np.arange(self.count), "query": self.training.measure.queries}
        return xr.Dataset(coords=labels)

    @property
    def like(self) -> xr.Dataset:
        """Return the values of one retraining, which are all zero."""
        return self._labelled(np.zeros((1, len(self.training.measure.queries))))

    @property
    def program(self) -> dict[str, Any]:
        """Return what identifies the program of the study."""
        return of_program(self.training.program)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what identifies the retrainings, apart from their number."""
        own = {"kind": "retrainings", "num_keys": self.num_keys, "subsets": self.subsets.identity}
        return of_source(self.training) | {"key": of_key(self.key)} | own

    def in_blocks(self, block: tuple[int, ...]) -> "Retrained":
        """Return the same retrainings in blocks of another size."""
        return replace(self, columns=block[0])

    def __call__(self, block: tuple[slice, ...]) -> xr.Dataset:
        """Return the measurement after each retraining, `value`, as the mean over its states."""
        places = self.first + np.arange(block[0].start, block[0].stop)
        number = max(1, places[-1] + 1 - self.num_keys)
        runs = np.append(np.arange(self.num_keys), self.subsets.keys(number, self.num_keys))[places]
        weights = self.subsets.weights(number)[np.maximum(places - self.num_keys, 0)].copy()
        weights.values[places < self.num_keys] = self.training.program.initial_weights
        draws = Draws(self.training, self.key, self.num_keys, weights, (1, len(places)))
        found = draws.pairs(runs, np.arange(len(places)))
        return self._labelled(found[f"{VALUE}.{self.training.measure.name}"].mean(1))

    def _labelled(self, values: np.ndarray) -> xr.Dataset:
        return xr.Dataset({"value": (("retraining", "query"), values.astype(float))})
