"""Check predicted steps against one retrained draw."""

import warnings
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from dtda_prob.perturbations import num_removed
from dtda_prob.studies.draw import values
from dtda_prob.studies.source import Source, matched, start_of, training_of
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.importance import GOOD_K
from dtda_prob.transforms.response import StateByState
from dtda_prob.transforms.retrain import retrain
from dtda_prob.typing import PRNGKey

NUM_CHECKED = 4
"""Perturbations that are retrained, with the longest predicted steps."""
LEAST_COSINE, MOST_RATIO, MOST_GROUP_RATIO = 0.5, 3.0, 1.4
"""A step is in range if it points about the right way, and is about as long as it should be.

Steps of single examples are compared with each other, so that a common factor does no harm. The effect
of a group is asked for by its size, and first-order steps fall short where the group is all of a class.
"""
MOST_SINGLE = 2
"""Weights that a perturbation of one example changes: its own, or the weights of two versions of it."""
FURTHEST, MOST_FAR = 0.01, 0.2
"""A share of the draws, and the most that their moves may add to the variance, relative to it."""
Values = Float[np.ndarray, "perturbation query *output"]
Arm = Float[np.ndarray, "draw ..."]


class Steps(NamedTuple):
    """Predicted steps of the measurement beside retrained ones, with the same key.

    Attributes:
        perturbation: which perturbations were retrained.
        norm_ratio: length of the predicted step over the length of the retrained one.
        cosine: of the angle between them.
        group: which of them change the weights of a group of examples.
    """

    perturbation: np.ndarray
    norm_ratio: Float[np.ndarray, " perturbation"]
    cosine: Float[np.ndarray, " perturbation"]
    group: Bool[np.ndarray, " perturbation"]

    def in_range(self) -> np.ndarray:
        """Return for each step whether it is about right."""
        return in_range(self.norm_ratio, self.cosine, self.group)


def in_range(norm_ratio: Any, cosine: Any, group: Any) -> Any:
    """Return for each step whether its length and direction are about right."""
    most = np.where(group, MOST_GROUP_RATIO, MOST_RATIO)
    return (cosine >= LEAST_COSINE) & (norm_ratio <= most) & (norm_ratio * most >= 1)


def changes_group(weights: Any, old: Any) -> Bool[np.ndarray, " perturbation"]:
    """Return which perturbations change the weights of more than one example."""
    return (np.asarray(weights) != np.asarray(old)).sum(-1) > MOST_SINGLE


def warn_beyond_range(
    source: Source, key: PRNGKey, moved: Values, weights: xr.DataArray, old: Any = None
) -> None:
    """Warn where half of the steps are out of range; see `compare_steps`."""
    if not has_range(source):
        return
    steps = compare_steps(source, key, moved, weights, old)
    beyond = ~steps.in_range() & np.isfinite(steps.norm_ratio)
    if beyond.mean() >= 0.5:
        warnings.warn(
            f"{source.name}: {beyond.sum()} of the {len(beyond)} longest steps, retrained for a draw, "
            f"are out of its range: predicted {np.median(steps.norm_ratio):.2g} times as long as "
            f"retrained, at a cosine of {np.median(steps.cosine):.2g} (medians). "
            f"{advice(source, steps)}; diagnostics.linear_range says more",
            RuntimeWarning,
            stacklevel=3,
        )


def warn_few_draws(source: PushForward, k_hat: np.ndarray) -> None:
    """Warn where importance weights rest on few draws of their population."""
    bad = k_hat > GOOD_K
    if bad.any():
        warnings.warn(
            f"{source.name}: Pareto k-hat is above {GOOD_K} for {bad.sum()} of {bad.size} "
            f"perturbations (largest {np.nanmax(k_hat):.2g}): importance weights rest on few draws: "
            "neither estimates nor errors mean anything. Remove less at a time, draw a larger "
            "population (num_draws), pass match_moments=True or a proposal, use gaussian, or retrain; "
            "diagnostics.pareto_k grades each perturbation",
            RuntimeWarning,
            stacklevel=3,
        )


def moves_far(source: Source) -> TypeGuard[PushForward]:
    """Return whether draws of a source move by themselves and none can be checked by retraining it."""
    return isinstance(source, StateByState) and bool(source.training.kernel.not_differentiable)


def far(old: Arm, new: Arm) -> Float[np.ndarray, "..."]:
    """Return the variance that the furthest moves add, relative to the variance of the draws.

    Moves count from their median, so that a common shift is not far; moves that are not finite are
    reported elsewhere. It has no scale, is about 0.08 where the spread doubles, and 0 of draws that are
    too few for it.
    """
    moves, number = new - old, round(FURTHEST * len(old))
    if not number:
        return np.zeros(moves.shape[1:])
    moves = np.nan_to_num(np.abs(moves - np.median(moves, axis=0)), nan=0.0, posinf=0.0)
    furthest = np.partition(moves, -number, axis=0)[-number:]
    return (furthest**2).sum(0) / len(moves) / old.var(0).clip(np.finfo(float).tiny)


def warn_far_moves(source: PushForward, far: Float[np.ndarray, "..."]) -> None:
    """Warn where a few draws move so far that they decide the spread; see `far`."""
    beyond = far > MOST_FAR
    if beyond.any():
        warnings.warn(
            f"{source.name}: {FURTHEST:.0%} of the draws move so far that they multiply the standard "
            f"deviation by up to {np.sqrt(1 + far.max()):.2g}, for {beyond.sum()} of {beyond.size} "
            "perturbed values: where the curvature at a draw is nearly singular, as in the neck of a "
            "funnel, its step means nothing. Means may be right, variances and distances are not. Take "
            "importance, gaussian or covariance, or write the model non-centred or with these sites "
            "integrated out",
            RuntimeWarning,
            stacklevel=3,
        )


def compare_steps(
    source: Source, key: PRNGKey, moved: Values, weights: xr.DataArray, old: Any = None
) -> Steps:
    """Retrain one draw at the perturbations of the longest predicted steps.

    Where a run has several states, their mean makes the step.

    Args:
        source: what predicted.
        key: the key that draws were made with, the first of which is retrained.
        moved: what was predicted for the first draw, for each perturbation.
        weights: the perturbations, `(perturbation, example)`.
        old: where the push-forward started.
    """
    base = _bases(source, key, weights, old)
    predicted = (moved - base).reshape(len(moved), -1)
    longest = np.argsort(-np.linalg.norm(predicted, axis=1))[:NUM_CHECKED]
    retrained = values(training_of(source), key, 1, weights[longest], chunk_size=NUM_CHECKED).mean(0)
    predicted, true = predicted[longest], (retrained - base[longest]).reshape(len(longest), -1)
    smallest = np.finfo(predicted.dtype).tiny
    lengths = np.linalg.norm(predicted, axis=1), np.linalg.norm(true, axis=1).clip(smallest)
    product = (lengths[0] * lengths[1]).clip(smallest)
    group = changes_group(weights[longest], start_of(source, old))
    return Steps(longest, lengths[0] / lengths[1], (predicted * true).sum(1) / product, group)


def has_range(source: Source) -> TypeGuard[PushForward]:
    """Return whether steps of a source can be out of range.

    Steps of retraining never are. Where a draw jumps (a kernel without a derivative, importance
    weights), it is not the draw that follows the weights, but its distribution. Where the kernel takes
    no step, parameters were trained elsewhere, and there is nothing to retrain.
    """
    if isinstance(source, Training | retrain):
        return False
    kernel = source.training.kernel
    takes_steps = kernel.count_steps(source.training.program) > 0
    return takes_steps and not (kernel.not_differentiable or source.weigh)


def advice(source: PushForward, steps: Steps) -> str:
    """Return what to do about steps that are out of range, given what was done."""
    long, aside = np.median(steps.norm_ratio) > 1, np.median(steps.cosine) < LEAST_COSINE
    group = bool(np.median(steps.group))
    options = {
        "expand at the middle of the step (at='centre')": _is_at_old(source),
        f"damp {'more' if long else 'less'}": source.curvature is not None,
        BETTER: source.curvature is None and (long or aside or not group),
        "remove less at a time": group,
        "retrain": True,
    }
    *others, last = (option for option, fits in options.items() if fits)
    return f"{', '.join(others)}, or {last}".capitalize()


BETTER = (
    "take a damped response, such as influence(training, curvature.nystroem(rank=100)), segments or "
    "unroll(training, matrix='gauss_newton'): an exact derivative says little where training is "
    "unstable"
)


def _is_at_old(source: PushForward) -> bool:
    return isinstance(source.at, str) and source.at == "old"


def _bases(source: Source, key: PRNGKey, weights: xr.DataArray, old: Any) -> Values:
    """Return the value that each step starts from, trained on the rows that are left."""
    removed, bases = num_removed(weights), {}
    for count in np.unique(removed):
        training = matched(training_of(source), int(count), weights.values)
        start = xr.DataArray(np.asarray(start_of(training, old)), dims="example")
        bases[count] = values(training, key, 1, start, chunk_size=1).mean(0)
    return np.stack([bases[count] for count in removed])
