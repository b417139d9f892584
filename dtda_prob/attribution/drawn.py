"""What is drawn, predicted and retrained before predictions and retrainings are fused."""

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.attribution.arms import Comparison, arms_of, comparison
from dtda_prob.attribution.fusion import Asked, Effects, Evidence, Predicted
from dtda_prob.program import Program
from dtda_prob.sampling import warn_not_finite
from dtda_prob.studies.perturbed import LeaveOneOut, Perturbed, Rows, perturbed
from dtda_prob.studies.run import Where
from dtda_prob.studies.source import start_of


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is drawn, predicted and retrained before anything is fused.

    Attributes:
        asked: the measurement of each run and the predicted effects of what is asked for.
        singles: the same of each example, removed in turn.
        subsets: the same of the retrained subsets.
        retrained: their effects, `(query, row)`.
        keys: the run whose key each retraining has.
        change: of the weights of each subset, `(row, example)`.
        start: the weights before.
        perturbed: what is asked for.
        program: of the examples.
    """

    asked: xr.Dataset
    singles: xr.Dataset
    subsets: xr.Dataset
    retrained: Effects
    keys: np.ndarray
    change: Float[np.ndarray, "row example"]
    start: Float[np.ndarray, " example"]
    perturbed: Perturbed
    program: Program

    def evidence(self, queries: slice | np.ndarray) -> Evidence:
        """Return the retrainings of some queries, and what is predicted of them; finite ones alone."""
        retrained = self.retrained[queries]
        sums, number = _effects(self.subsets, queries), len(self.keys)
        whole = Evidence(
            predicted=_mean(sums, np.ones(number)),
            own=np.moveaxis(sums[self.keys, :, np.arange(number)], 0, -1),
            retrained=retrained,
            change=self.change,
            key=self.keys,
            slopes=_slopes(self.program, self.start, _effects(self.singles, queries)),
            variance=self.values(queries).var(0, ddof=1),
        )
        finite = np.isfinite(self.retrained).all(0)
        return whole if finite.all() else whole.of_rows(finite)

    def values(self, queries: slice | np.ndarray) -> Float[np.ndarray, "run query"]:
        """Return the measurement of each run on all data, as the mean over its states."""
        return self.asked["value"].isel(query=queries).values.astype(float).mean(1)

    def question(self, queries: slice | np.ndarray) -> Asked:
        """Return what is asked for, of some queries."""
        squares = self.perturbed.squares(np.ones_like(self.start), self.start)
        size = squares / (self.change**2).sum(1).mean()
        predicted = _mean(_effects(self.asked, queries), size)
        return Asked(predicted, self.perturbed, self.start)


def draw(
    asked: Comparison, subsets: xr.DataArray, num_draws: int, keys: np.ndarray, where: Where
) -> Drawn:
    """Predict what is asked for, every example and some subsets, and retrain these; see `fuse`."""
    source, training = asked.source, asked.training
    both = {"asked": _predicted(asked, num_draws, where / "asked")}
    for name, some in {"singles": LeaveOneOut(training.program), "subsets": Rows(subsets)}.items():
        same = name == "singles" and isinstance(asked.perturbed, LeaveOneOut)
        compared = comparison(source, asked.key, some, "pull")
        both[name] = both["asked"] if same else _predicted(compared, num_draws, where / name)
    compared = comparison(training, asked.key, Rows(subsets), "push")
    retrained = _retrained(compared, keys, where / "retrained")
    finite = np.isfinite(retrained).all(0)
    warn_not_finite(~finite, "no score is corrected by them")
    start = np.asarray(start_of(source), float)
    change = subsets.values - start
    return Drawn(
        **both, retrained=retrained, keys=keys, change=change, start=start,
        perturbed=asked.perturbed, program=training.program,
    )  # fmt: skip


def _predicted(compared: Comparison, num_draws: int, where: Where) -> xr.Dataset:
    return compared.draw(num_draws, replace(where, effects=where.name if where.store else ""))


def _effects(both: xr.Dataset, queries: slice | np.ndarray) -> Float[np.ndarray, "run query row"]:
    """Return the predicted effects of each run, as means over its states."""
    return both["change"].isel(query=queries).values.astype(float).mean(1)


def _retrained(compared: Comparison, keys: np.ndarray, where: Where) -> Effects:
    """Retrain each perturbed dataset once with a key; return `(query, row)`."""
    several, effects = compared.training.kernel.num_states, []
    for k in np.unique(keys):
        some = compared.perturbed.weights(np.flatnonzero(keys == k))
        part = replace(compared, perturbed=perturbed(compared.training.program, some))
        arms = arms_of(part.draw(several, where / str(k), first=int(k)))
        effects.append((arms.new.astype(float) - arms.old).mean(0))
    order = np.argsort(np.argsort(keys, kind="stable"), kind="stable")
    return np.concatenate(effects, -1)[:, order]


def _slopes(
    program: Program, start: np.ndarray, effects: Float[np.ndarray, "run query row"]
) -> Float[np.ndarray, "query example"]:
    """Return the mean predicted slope of each weight; 0 where it belongs to no example."""
    singles = LeaveOneOut(program).positions
    slopes = np.zeros((effects.shape[1], len(start)))
    slopes[:, singles] = -effects.mean(0) / start[singles]
    return slopes


def _mean(effects: Float[np.ndarray, "run query row"], size: np.ndarray) -> Predicted:
    """Return the mean of predictions and how far each is from it."""
    mean = effects.mean(0)
    return Predicted(mean, effects - mean, size)
