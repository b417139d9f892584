"""The scale on which a number is predicted: as it is, or its logarithm."""

from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float

from dtda_prob.suspects.features import centre_and_spread
from dtda_prob.suspects.left_out import Judgement

WIDE = 3.0
"""Ratio of the quantiles 95 % and 5 %, above which a logarithm is tried."""
TRIMMED, LEAST_TRIMMED = 0.02, 5
"""Share and number of the worst rows that do not decide between scales."""

Rows = Float[np.ndarray, " row"]


class Scale(NamedTuple):
    """Numbers, or their logarithms, less their median in units of their spread."""

    is_log: bool
    centre: float
    spread: float

    @classmethod
    def of(cls, values: Rows, is_log: bool) -> Self:
        """Return the scale of some numbers."""
        return cls(is_log, *centre_and_spread(np.log(values) if is_log else values))

    def model(self, values: Rows) -> Rows:
        """Return numbers as a model takes them."""
        moved = np.log(values) if self.is_log else values
        return ((moved - self.centre) / self.spread).astype(np.float32)

    def original(self, found: Judgement, values: Rows) -> Judgement:
        """Return a judgement in the units of the numbers: densities, predictions and their spread."""
        predicted = self.centre + self.spread * found.predicted
        spread, loss = self.spread * found.spread, found.loss + np.log(self.spread)
        if self.is_log:
            predicted = np.exp(predicted)
            spread, loss = predicted * spread, loss + np.log(values)
        return found._replace(loss=loss, predicted=predicted, spread=spread)


def scales(values: Rows) -> list[Scale]:
    """Return the scales to try: logarithms too if all numbers are positive and they spread widely."""
    plain = [Scale.of(values, False)]
    if values.min() <= 0:
        return plain
    low, high = np.quantile(values, [0.05, 0.95])
    return [*plain, Scale.of(values, True)] if high > WIDE * low else plain


def best(judgements: list[Judgement]) -> Judgement:
    """Return the judgement of the lowest mean loss, but for the worst rows."""

    def usual(found: Judgement) -> float:
        number = len(found.loss)
        kept = number - min(number // 2, max(LEAST_TRIMMED, int(TRIMMED * number)))
        return float(np.sort(found.loss)[:kept].mean())

    return min(judgements, key=usual)
