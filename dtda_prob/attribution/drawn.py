"""What is drawn, predicted and retrained before predictions and retrainings are fused."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.attribution.arms import Comparison, comparison
from dtda_prob.attribution.choose import Choice
from dtda_prob.attribution.evidence import Asked, Evidence, Predicted
from dtda_prob.attribution.retrained import Retrained
from dtda_prob.attribution.subsets import Subsets, made_for
from dtda_prob.program import Program
from dtda_prob.sampling import warn_not_finite
from dtda_prob.studies.digests import of_array
from dtda_prob.studies.perturbed import LeaveOneOut, Perturbed
from dtda_prob.studies.run import Where, run
from dtda_prob.studies.source import matched, start_of
from dtda_prob.typing import Weights

MOST_KEYS = 8
"""Keys that retrainings have: each costs a training on all data."""
NUM_TYPICAL = 10
"""Subsets whose predictions say how large an effect is, where none was retrained."""


class Others(NamedTuple):
    """Retrainings by keys that no draw has, such as the retrainings of a choice.

    Attributes:
        weights: of the retrained datasets, `(row, example)`.
        effects: of each, `(row, query)`.
        key: a number for its key, `(row,)`.
    """

    weights: Float[np.ndarray, "row example"]
    effects: Float[np.ndarray, "row query"]
    key: Float[np.ndarray, " row"]

    @property
    def identity(self) -> list[str]:
        """Return what identifies them."""
        return [of_array(self.weights), of_array(self.effects)]


def others_of(choice: Choice) -> Others:
    """Return the retrainings of a choice, which must have some, of a scalar."""
    assert choice.shifts is not None
    number, _, several = choice.shifts.shape
    effects = np.moveaxis(choice.shifts, 1, 2).reshape(number * several, -1)
    weights = np.tile(choice.perturbations.values, (number, 1))
    return Others(weights, effects, np.repeat(np.arange(number), several))


@dataclass(frozen=True, eq=False)
class Centred(LeaveOneOut):
    """Each example removed in turn, by responses at the centre of some subsets.

    Attributes:
        subsets: which they are.
    """

    subsets: Subsets

    def centre(self, start: Weights | np.ndarray) -> Weights:
        """Return the mean of the weights of the subsets."""
        return jnp.asarray(self.subsets.centre)

    def num_removed(self) -> np.ndarray:
        """Return the numbers of rows that retraining drops, each number once."""
        return self.subsets.num_removed()

    @property
    def identity(self) -> dict[str, Any]:
        """Return what identifies the set."""
        removed = self.num_removed().tolist()
        return super().identity | {"centre": of_array(self.subsets.centre), "removed": removed}


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is drawn, predicted and retrained before anything is fused.

    Attributes:
        comparison: what is asked for.
        subsets: that are retrained.
        asked: the measurement of each run and the predicted effects of what is asked for.
        singles: the same of each example, removed in turn.
        centred: the same at the centre of the subsets.
        values: the measurement after retraining, `(row, query)`: first on all data by each key, then
            on the subsets.
        num_keys: that retrainings have.
        others: retrainings by other keys.
    """

    comparison: Comparison
    subsets: Subsets
    asked: xr.Dataset
    singles: xr.Dataset
    centred: xr.Dataset
    values: np.ndarray
    num_keys: int
    others: Others

    @property
    def number(self) -> int:
        """Return the number of retrained subsets."""
        return max(0, len(self.values) - self.num_keys)

    @property
    def program(self) -> Program:
        """Return the program of the examples."""
        return self.comparison.training.program

    @property
    def rows(self) -> Float[np.ndarray, "row example"]:
        """Return the weights of the retrained subsets."""
        return self.subsets.weights(self.number).values

    @property
    def start(self) -> Float[np.ndarray, " example"]:
        """Return the weights that are changed."""
        return np.asarray(start_of(self.comparison.source), float)

    @property
    def retrained(self) -> Float[np.ndarray, "row query"]:
        """Return the effects of the retrained subsets."""
        return self.values[self.num_keys :] - self.values[: self.num_keys][self.keys]

    @property
    def keys(self) -> np.ndarray:
        """Return the run whose key each retraining has."""
        return self.subsets.keys(self.number, self.num_keys)

    def evidence(self, queries: slice | np.ndarray) -> Evidence:
        """Return the retrainings of some queries, and what is predicted of them; finite ones alone."""
        rows, number = np.concatenate([self.rows, self.others.weights]), self.number
        change, sums = rows - self.start, self._sums(rows, queries)
        mean = sums.mean(0)
        own = np.moveaxis(sums[self.keys, :, np.arange(number)], 0, -1)
        effects = np.concatenate([self.retrained, self.others.effects])
        square = ((sums if len(rows) else self._sums(self._typical, queries)) ** 2).mean((0, 2))
        slopes = _slopes(self.program, self.start, _effects(self.singles, queries))
        whole = Evidence(
            predicted=_mean(sums, self._size(change)),
            own=np.concatenate([own, mean[:, number:]], 1),
            seen=(np.arange(len(rows)) < number).astype(float),
            retrained=effects[:, queries].T,
            change=change,
            key=np.append(self.keys, self.num_keys + self.others.key),
            slopes=np.sqrt((slopes**2).mean(0)),
            variance=self.measured(queries).var(0, ddof=1),
            square=np.where(square > 0, square, 1.0),
        )
        finite = np.isfinite(effects).all(1)
        return whole if finite.all() else whole.of_rows(finite)

    def measured(self, queries: slice | np.ndarray) -> Float[np.ndarray, "run query"]:
        """Return the measurement of each run on all data, as the mean over its states."""
        return self.asked["value"].isel(query=queries).values.astype(float).mean(1)

    def question(self, queries: slice | np.ndarray) -> Asked:
        """Return what is asked for, of some queries."""
        perturbed = self.comparison.perturbed
        square = perturbed.squares(np.ones_like(self.start), self.start)
        return Asked(_mean(_effects(self.asked, queries), square / self._unit), perturbed, self.start)

    @property
    def _typical(self) -> Float[np.ndarray, "row example"]:
        """Return the weights of some subsets."""
        return self.subsets.weights(NUM_TYPICAL).values

    @property
    def _unit(self) -> float:
        """Return the squared change of the weights of a subset."""
        return float(((self._typical - self.start) ** 2).sum(1).mean())

    def _size(self, change: Float[np.ndarray, "row example"]) -> Float[np.ndarray, " row"]:
        """Return how many examples change, as a multiple of a subset."""
        return (change**2).sum(1) / self._unit

    def _sums(
        self, rows: Float[np.ndarray, "row example"], queries: slice | np.ndarray
    ) -> Float[np.ndarray, "run query row"]:
        """Return the predicted effects of subsets, by each run."""
        some, removed = self._typical[:1], int(self.subsets.num_removed()[0])
        start = np.asarray(start_of(matched(self.comparison.source, removed, some)), float)
        slopes = _slopes(self.program, start, _effects(self.centred, queries))
        return slopes @ (rows - start).T


def predict(
    asked: Comparison, given: Subsets | None, others: Others | None, num_draws: int, where: Where
) -> Drawn:
    """Predict what is asked for and each example, and make the subsets that are to be retrained.

    Args:
        asked: what is asked for.
        given: subsets; made for what is asked if None.
        others: retrainings by other keys.
        num_draws: draws that predict.
        where: where parts are kept, under names that begin with its name.
    """
    program, alone = asked.training.program, LeaveOneOut(asked.training.program)
    is_alone = isinstance(asked.perturbed, LeaveOneOut)
    effects = _predicted(asked, num_draws, where / "asked")
    singles = effects if is_alone else _of(asked, alone, num_draws, where / "singles")
    subsets = given
    if subsets is None:
        mean = _effects(effects, slice(None)).mean(0)
        subsets = made_for(program, asked.key, asked.perturbed, mean)
    centred = _of(asked, Centred(program, subsets), num_draws, where / "subsets")
    num_keys = min(asked.training.num_runs(num_draws), MOST_KEYS)
    values = np.zeros((0, effects.sizes["query"]))
    if others is None:
        others = Others(np.zeros((0, len(program.initial_weights))), values, np.zeros(0))
    return Drawn(asked, subsets, effects, singles, centred, values, num_keys, others)


def retrain(drawn: Drawn, number: int, where: Where) -> Drawn:
    """Retrain so many subsets; those that are retrained already stay as they are."""
    if number == 0:
        return drawn
    first = 0 if where.store else len(drawn.values)
    asked, count = drawn.comparison, drawn.num_keys + number - first
    task = Retrained(asked.training, asked.key, drawn.subsets, drawn.num_keys, first, count)
    new = run(task, where / "retrained")["value"].values
    both = replace(drawn, values=np.concatenate([drawn.values[:first], new]))
    warn_not_finite(~np.isfinite(both.retrained).all(1), "no score is corrected by them")
    return both


def _of(asked: Comparison, some: Perturbed, num_draws: int, where: Where) -> xr.Dataset:
    return _predicted(comparison(asked.source, asked.key, some, "pull"), num_draws, where)


def _predicted(compared: Comparison, num_draws: int, where: Where) -> xr.Dataset:
    return compared.draw(num_draws, replace(where, effects=where.name if where.store else ""))


def _effects(both: xr.Dataset, queries: slice | np.ndarray) -> Float[np.ndarray, "run query row"]:
    """Return the predicted effects of each run, as means over its states."""
    return both["change"].isel(query=queries).values.astype(float).mean(1)


def _slopes(
    program: Program, start: np.ndarray, effects: Float[np.ndarray, "run query row"]
) -> Float[np.ndarray, "run query example"]:
    """Return the predicted slope of each weight; 0 where it belongs to no example."""
    singles = LeaveOneOut(program).positions
    slopes = np.zeros((*effects.shape[:2], len(start)))
    slopes[:, :, singles] = -effects / start[singles]
    return slopes


def _mean(effects: Float[np.ndarray, "run query row"], size: np.ndarray) -> Predicted:
    """Return the mean of predictions and how far each is from it."""
    mean = effects.mean(0)
    return Predicted(mean, effects - mean, size)
