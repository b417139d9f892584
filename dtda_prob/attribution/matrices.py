"""Score matrices that another library has computed, read as scores with errors over its models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from dtda_prob.attribution.arms import Arms
from dtda_prob.attribution.scores import score_arms
from dtda_prob.divergences import resolve
from dtda_prob.divergences.meaning import encoded
from dtda_prob.studies.options import Options

USUAL = Options()
LEAST = 3
"""Models whose spread is an error."""


def read_scores(
    matrices: Any,
    *,
    measure: str = "loss",
    queries: Sequence[Any] | None = None,
    examples: Sequence[Any] | None = None,
    options: Options = USUAL,
) -> xr.Dataset:
    """Read score matrices of another library, one for each model, as `attribute` returns scores.

    The models are draws: the score is the mean over them, and its error, interval, p-value and rank say
    what other models of the same training would show. What is read is as large as the other library
    says; `evaluate.agreement` with retrained effects tells whether it is right.

    Args:
        matrices: shape `(model, query, example)`, or `(query, example)` of one model: by how much the
            measure rises if the example is removed. Change the sign of a library that says the
            opposite, and divide by the number of examples where it does not.
        measure: the name of what is measured.
        queries: labels of the queries; their positions if None.
        examples: labels of the examples, the labels of the program if there is one; positions if None.
        options: `level`, `num_resamples`, `top` and `keep_contributions`; see `Options`.

    Returns:
        Scores of the divergence "mean", as `attribute` describes them. Of one model, errors, p-values
        and the certainty of ranks are NaN. `sd`, the spread of the measure itself, is unknown and NaN.

    Raises:
        ValueError: if the shape is another, there are two models, labels do not fit, or other options
            are set.
    """
    options.only("read_scores", {"level", "num_resamples", "top", "keep_contributions"})
    values = _checked(matrices)
    coords = {
        "divergence": ["mean"],
        "query": _labels("queries", queries, values.shape[1]),
        "example": _labels("examples", examples, values.shape[2]),
    }
    mean, number = resolve("mean"), len(values)
    repeated = np.repeat(values, LEAST, 0) if number == 1 else values  # alike: errors are NaN
    zeros = np.zeros((len(repeated), len(repeated[0]), 1))
    scores = score_arms(Arms(zeros, repeated), (mean,), "example", True, options)
    missing = ~np.isfinite(values).all(2)
    return (
        scores.assign(sd=scores["sd"].where(False), num_not_finite=("query", missing.sum(0)))
        .assign_coords(coords)
        .assign_attrs(
            measure=measure,
            coupled=1,
            num_draws=number,
            level=options.level,
            top=options.top,
            **encoded({"mean": mean.of(False).meaning(measure, "{unit}")}),
        )
    )


def _checked(matrices: Any) -> np.ndarray:
    values = np.asarray(matrices, float)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape or len(values) == 2:
        raise ValueError(
            f"matrices must have shape (model, query, example), of one model or at least {LEAST}; got "
            f"{np.shape(matrices)}"
        )
    return values


def _labels(name: str, labels: Sequence[Any] | None, number: int) -> np.ndarray:
    found = np.arange(number) if labels is None else np.asarray(labels)
    if found.shape != (number,):
        raise ValueError(f"{name} must label {number}; got shape {found.shape}")
    return found
