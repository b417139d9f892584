"""Which subsets to retrain: the first of them are the same whatever their number is."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.perturbations import check_weights, labelled, num_removed
from dtda_prob.program import Program
from dtda_prob.studies.check import changes_group
from dtda_prob.studies.digests import of_array, of_key
from dtda_prob.studies.perturbed import LeaveOneOut, Perturbed
from dtda_prob.typing import PRNGKey

SUBSETS = 0x6675
"""Leads to the key of the retrained subsets, which no draw has."""
SHARE_REMOVED = 0.1
"""Of the examples, from each subset."""


@dataclass(frozen=True, eq=False)
class Subsets:
    """Subsets to retrain, one after another.

    Attributes:
        program: of the examples.
        key: of the random choices.
        removal: what weight 0 means in a retraining.
        rows: weights of datasets that are retrained in turn, `(row, example)`; if None, each subset
            lacks a tenth of the examples, which are dealt out so that all are removed equally often.
    """

    program: Program
    key: PRNGKey
    removal: Any
    rows: Float[np.ndarray, "row example"] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Return what identifies the subsets, whatever their number is."""
        rows = None if self.rows is None else of_array(self.rows)
        return {"key": of_key(self.key), "rows": rows, "removal": self.removal}

    @property
    def centre(self) -> Float[np.ndarray, " example"]:
        """Return the mean of the weights, whatever the number of subsets is."""
        if self.rows is not None:
            return self.rows.mean(0)
        return self.program.initial_weights * (1 - self._size / len(self._present))

    def num_removed(self) -> np.ndarray:
        """Return the numbers of rows that retraining drops, each number once."""
        return np.unique(num_removed(self.weights(1 if self.rows is None else len(self.rows))))

    def weights(self, number: int) -> xr.DataArray:
        """Return the weights of the first subsets."""
        if self.rows is None:
            rows = np.tile(self.program.initial_weights.astype(float), (number, 1))
            rows[np.arange(number)[:, None], self._dealt(number)] = 0.0
        else:
            rows = self.rows[np.arange(number) % len(self.rows)]
        return labelled(self.program, rows, self.removal, np.arange(number))

    def keys(self, number: int, num_keys: int) -> np.ndarray:
        """Return the position of the key of each of the first subsets; a dataset meets all in turn."""
        places = np.arange(number)
        turns, place = (0, places) if self.rows is None else np.divmod(places, len(self.rows))
        return (turns + place) % num_keys

    def _dealt(self, number: int) -> np.ndarray:
        """Return the positions of the examples that each subset lacks: all once, then all again."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(self.key)))
        deck, dealt = np.zeros(0, int), np.zeros((number, self._size), int)
        for place in range(number):
            if len(deck) < self._size:
                fresh = rng.permutation(np.setdiff1d(self._present, deck))
                deck = np.concatenate([deck, fresh, rng.permutation(deck)])
            dealt[place], deck = deck[: self._size], deck[self._size :]
        return dealt

    @property
    def _present(self) -> np.ndarray:
        return np.flatnonzero(self.program.initial_weights[: self.program.num_data])

    @property
    def _size(self) -> int:
        """Return the number of examples that each subset lacks."""
        return max(1, round(SHARE_REMOVED * len(self._present)))


def given_subsets(program: Program, weights: Any) -> Subsets:
    """Return subsets that are given by their weights."""
    checked = check_weights(program, weights)
    removal = checked.attrs.get("removal", "reweight")
    return Subsets(program, jax.random.key(0), removal, np.atleast_2d(checked.values))


def made_for(
    program: Program,
    key: PRNGKey,
    perturbed: Perturbed,
    predicted: Float[np.ndarray, "query row"],
) -> Subsets:
    """Return the subsets that say most about some perturbed datasets.

    These are the datasets themselves where they change several examples each, those with the largest
    predicted effects first, and else tenths of the examples: a single retraining is too noisy to show
    what a single example does.

    Args:
        program: of the examples.
        key: of the draws.
        perturbed: what is asked for.
        predicted: effects.
    """
    removal = perturbed.weights(slice(1)).attrs.get("removal", "reweight")
    key, start = jax.random.fold_in(key, SUBSETS), program.initial_weights
    if isinstance(perturbed, LeaveOneOut) or not changes_group(perturbed.weights(), start).all():
        return Subsets(program, key, removal)
    square = np.nan_to_num(predicted**2)
    total = square.sum(1, keepdims=True)
    shares = np.divide(square, total, out=np.zeros_like(square), where=total > 0).sum(0)
    order = np.argsort(-shares, kind="stable")
    return Subsets(program, key, removal, perturbed.weights(order).values)
