"""What a push-forward predicts, what retrainings show, and which effects are asked for, as arrays."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dtda_prob.studies.perturbed import Perturbed

Effects = Float[np.ndarray, "query row"]


class Predicted(NamedTuple):
    """What a push-forward predicts of some perturbed datasets.

    Attributes:
        mean: over draws, `(query, row)`.
        apart: deviations of the draws from their mean, `(draw, query, row)`.
        size: how many examples change, as a multiple of a retrained subset, `(row,)`.
    """

    mean: Effects
    apart: Float[np.ndarray, "draw query row"]
    size: Float[np.ndarray, " row"]

    def of(self, queries: slice | np.ndarray) -> "Predicted":
        """Return the predictions of some queries."""
        return Predicted(self.mean[queries], self.apart[:, queries], self.size)

    def light(self) -> "Predicted":
        """Return the same in single precision."""
        return Predicted(*(each.astype(np.float32) for each in self))


class Evidence(NamedTuple):
    """Retrained subsets, each by one key, and what was predicted of them.

    Attributes:
        predicted: of the subsets.
        own: predictions by the draw whose key the retraining has, `(query, row)`; the mean over draws
            where none has it.
        seen: whether a draw has the key, `(row,)`.
        retrained: effects, `(query, row)`.
        change: of the weights, `(row, example)`.
        key: a number for the key of each retraining, `(row,)`.
        slopes: the root mean square over draws of the slope of each example, `(query, example)`.
        variance: of the measurement over draws, `(query,)`.
        square: mean squared prediction of a subset by a draw, `(query,)`.
    """

    predicted: Predicted
    own: Effects
    seen: Float[np.ndarray, " row"]
    retrained: Effects
    change: Float[np.ndarray, "row example"]
    key: Float[np.ndarray, " row"]
    slopes: Float[np.ndarray, "query example"]
    variance: Float[np.ndarray, " query"]
    square: Float[np.ndarray, " query"]

    def of(self, queries: slice | np.ndarray) -> "Evidence":
        """Return the evidence on some queries."""
        names = ("own", "retrained", "slopes", "variance", "square")
        some = {name: getattr(self, name)[queries] for name in names}
        return self._replace(predicted=self.predicted.of(queries), **some)

    def of_rows(self, some: np.ndarray) -> "Evidence":
        """Return the evidence of some retrainings."""
        mean, apart, size = self.predicted
        return self._replace(
            predicted=Predicted(mean[:, some], apart[:, :, some], size[some]),
            own=self.own[:, some],
            seen=self.seen[some],
            retrained=self.retrained[:, some],
            change=self.change[some],
            key=self.key[some],
        )

    def in_units(self) -> "Evidence":
        """Return the same in units of each query's root mean square prediction."""
        unit = np.sqrt(self.square)[:, None]
        mean, apart, size = self.predicted
        return self._replace(
            predicted=Predicted(mean / unit, apart / unit, size),
            own=self.own / unit,
            retrained=self.retrained / unit,
            change=self.change.astype(np.float32),
            slopes=(self.slopes / unit).astype(np.float32),
            variance=self.variance / self.square,
            square=np.ones_like(self.square),
        )

    @property
    def mean_square(self) -> Float[np.ndarray, " query"]:
        """Return the mean squared slope of the examples; other weights have no slope."""
        number = np.count_nonzero(self.slopes.any(0))
        return (self.slopes**2).sum(-1) / max(number, 1)

    @property
    def squares(self) -> Effects:
        """Return the mean squared predictions of each subset by a draw."""
        return self.predicted.mean**2 + (self.predicted.apart**2).mean(0)

    @property
    def unit(self) -> Float[np.ndarray, " query"]:
        """Return the unit of a retraining's noise, which is positive if training is not random too."""
        missed = ((self.retrained - self.own) ** 2).sum(-1) / max(len(self.change), 1)
        return self.variance + self.square + missed


class Asked(NamedTuple):
    """The perturbed datasets whose effects are asked for.

    Attributes:
        predicted: what a push-forward predicts of them.
        perturbed: the datasets.
        start: the weights that they change.
    """

    predicted: Predicted
    perturbed: Perturbed
    start: Any

    def of(self, queries: slice) -> "Asked":
        """Return the effects on some queries."""
        return self._replace(predicted=self.predicted.of(queries))

    def in_units(self, unit: Float[np.ndarray, "query 1"]) -> "Asked":
        """Return the same in a unit of each query, in single precision."""
        mean, apart, size = self.predicted
        predicted = Predicted(mean / unit, apart / unit, size).light()
        return self._replace(predicted=predicted, start=np.asarray(self.start, np.float32))

    def change(self, slopes: Float[np.ndarray, "... example"]) -> Float[np.ndarray, "... row"]:
        """Return the effects that slopes have."""
        return self.perturbed.change(slopes, self.start)

    def squares(self, variances: Float[np.ndarray, "... example"]) -> Float[np.ndarray, "... row"]:
        """Return the variances of effects where slopes vary independently."""
        return self.perturbed.squares(variances, self.start)
