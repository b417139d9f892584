"""Does the range of a prediction cover the step that is asked of it: one draw, retrained."""

import warnings
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.outcomes.draws import draw_all
from dtda_prob.outcomes.source import Source, matched, read_value, start_of, training_of
from dtda_prob.perturbations import num_removed
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey

NUM_CHECKED = 4
"""Perturbations that are retrained: those of the longest predicted steps."""
LEAST_COSINE, MOST_RATIO = 0.5, 3.0
"""A step is in range if it points about the right way, and is about as long as it should be."""


class Steps(NamedTuple):
    """Predicted steps of the measurement beside those of retraining, with the same key.

    Attributes:
        perturbation: which perturbations were retrained.
        norm_ratio: length of the predicted step over that of the retrained one.
        cosine: of the angle between them.
    """

    perturbation: np.ndarray
    norm_ratio: Float[np.ndarray, " perturbation"]
    cosine: Float[np.ndarray, " perturbation"]

    def in_range(self) -> np.ndarray:
        """Say of each step whether it is about right."""
        long, short = self.norm_ratio <= MOST_RATIO, self.norm_ratio * MOST_RATIO >= 1
        return (self.cosine >= LEAST_COSINE) & long & short


def compare_steps(
    source: Source,
    key: PRNGKey,
    moved: Float[np.ndarray, "perturbation query *output"],
    weights: xr.DataArray,
    old: Any = None,
) -> Steps:
    """Retrain one draw at the perturbations of the longest predicted steps.

    Where a run has several states, steps are of their mean.

    Args:
        source: what predicted.
        key: the key that draws were made with, the first of which is retrained.
        moved: what was predicted, for each perturbation.
        weights: the perturbations, `(perturbation, datum)`.
        old: where the push-forward started.
    """
    base = _bases(source, key, weights, old)
    predicted = (moved - base).reshape(len(moved), -1)
    longest = np.argsort(-np.linalg.norm(predicted, axis=1))[:NUM_CHECKED]
    training = training_of(source)
    chosen = weights[longest]
    retrained = draw_all(training, key, 1, chosen, read_value, chunk_size=NUM_CHECKED).mean(0)
    predicted, true = predicted[longest], (retrained - base[longest]).reshape(len(longest), -1)
    smallest = np.finfo(predicted.dtype).tiny
    lengths = np.linalg.norm(predicted, axis=1), np.linalg.norm(true, axis=1).clip(smallest)
    product = (lengths[0] * lengths[1]).clip(smallest)
    return Steps(longest, lengths[0] / lengths[1], (predicted * true).sum(1) / product)


def has_range(source: Source) -> TypeGuard[PushForward]:
    """Say whether steps of a source can be out of range.

    Those of retraining never are. Where a draw jumps (a kernel without a derivative, importance
    weights) it is not the draw that follows the weights, but its law.
    """
    if isinstance(source, Training) or source.push == source.training.push:
        return False
    return not (source.training.kernel.not_differentiable or source.weigh)


def warn_beyond_range(
    source: Source,
    key: PRNGKey,
    moved: Float[np.ndarray, "state ..."],
    weights: xr.DataArray,
    old: Any = None,
) -> None:
    """Warn where half of the steps are out of range; see `compare_steps`.

    Args:
        source: what predicted.
        key: the key that draws were made with, the first of which is retrained.
        moved: what was predicted, for each state of the run.
        weights: the perturbations.
        old: where the push-forward started.
    """
    if not has_range(source):
        return
    moved = moved.mean(0)
    if weights.ndim == 1:
        moved, weights = moved[None], weights.expand_dims("perturbation")
    steps = compare_steps(source, key, moved, weights, old)
    beyond = ~steps.in_range() & np.isfinite(steps.norm_ratio)
    if beyond.mean() >= 0.5:
        warnings.warn(
            f"{source.name}: {beyond.sum()} of the {len(beyond)} longest steps, retrained for a draw, "
            f"are out of its range: predicted {np.median(steps.norm_ratio):.2g} times as long as "
            f"retrained, at a cosine of {np.median(steps.cosine):.2g} (medians). Expand about the "
            "middle of the step (at='centre'), damp more, remove less at a time, or retrain; "
            "diagnostics.linear_range says more",
            RuntimeWarning,
            stacklevel=3,
        )


def _bases(
    source: Source, key: PRNGKey, weights: xr.DataArray, old: Any
) -> Float[np.ndarray, "perturbation query *output"]:
    """Give the value that each step starts from: that of the training whose rows are left."""
    removed, found = num_removed(weights), {}
    for count in np.unique(removed):
        training = matched(training_of(source), int(count), weights.values)
        start = xr.DataArray(np.asarray(start_of(training, old)), dims="datum")
        training = training_of(training)
        found[count] = draw_all(training, key, 1, start, read_value, chunk_size=1).mean(0)
    return np.stack([found[count] for count in removed])
