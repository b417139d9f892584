"""Compare mean shifts with retraining under other seeds, and with shifts that other methods predict."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob import curvature
from dtda_prob.attribution import comparison
from dtda_prob.correlations import lengthened, pearson
from dtda_prob.studies.run import Where
from dtda_prob.studies.source import Source, training_of
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.influence import influence
from dtda_prob.transforms.segments import segments
from dtda_prob.transforms.unroll import unroll
from dtda_prob.typing import PRNGKey, check_key

MOST_RANK = 64
LEAST_RELIABILITY = 0.5
"""Reliability of the retrained shifts below which half of their variance is noise."""
LEAST_GAIN = 0.1
"""Gain in the correlation that counts as better."""
Shifts = Float[np.ndarray, "draw query perturbation *output"]


def across_seeds(
    methods: Mapping[str, Source],
    key: PRNGKey,
    perturbations: Any,
    *,
    num_draws: int = 16,
    num_retrainings: int = 8,
) -> xr.Dataset:
    """Correlate the mean shifts that methods predict with retraining under other seeds.

    A response may be exact for each seed and useless for the mean over seeds: where training is
    unstable, a few draws with very long steps decide it. `linear_range`, which compares seed by seed,
    does not see that. Costs `num_retrainings` trainings per perturbation, and the draws of each method.

    Args:
        methods: by name, what predicts; all of one training.
        key: key of the draws that predict; retrainings have another one.
        perturbations: weights `(perturbation, example)`.
        num_draws: draws that predict.
        num_retrainings: retrainings per perturbation, at least 4.

    Returns:
        For each method `correlation`, Pearson's over queries and perturbations together, its
        `correlation_error`, the delete-one jackknife's over retrainings, and `norm_ratio`, the length
        of the mean predicted shifts over the length of the retrained ones; and the `reliability` of the
        latter, from their correlation between halves of the retrainings.

    Raises:
        ValueError: for bad weights, too few retrainings, or what a method refuses.
    """
    check_key(key)
    truth = retrained_shifts(next(iter(methods.values())), key, perturbations, num_retrainings)
    predicted = {
        name: shifts(source, key, perturbations, num_draws) for name, source in methods.items()
    }
    return compare_shifts(predicted, truth)


def retrained_shifts(source: Source, key: PRNGKey, perturbations: Any, number: int) -> Shifts:
    """Retrain with keys that `key` does not lead to, coupled between both arms."""
    if number < 4:
        raise ValueError(f"num_retrainings={number} must be at least 4, to split them in halves")
    other = jax.random.fold_in(jax.random.split(key)[1], 1)
    return shifts(training_of(source), other, perturbations, number)


def shifts(source: Source, key: PRNGKey, perturbations: Any, num_draws: int) -> Shifts:
    """Compute the shifts of single draws, by the cheaper direction."""
    direction = cheaper(source, len(np.atleast_2d(perturbations)))
    compared = comparison(source, key, perturbations, direction)
    arms = compared.arms(num_draws, Where(progress=False))
    return arms.new.astype(float) - arms.old


def cheaper(source: Source, num_perturbations: int) -> Any:
    """Return the direction that costs less for so many perturbations."""
    if isinstance(source, Training):
        return "push"
    by_push = source.cost.push * num_perturbations
    return "push" if np.isnan(source.cost.pull) or by_push <= source.cost.pull else "pull"


def compare_shifts(predicted: Mapping[str, Shifts], retrained: Shifts) -> xr.Dataset:
    """Compare mean shifts with retrained ones; see `across_seeds`."""
    flat = retrained.reshape(len(retrained), -1)
    truth, n = flat.mean(0), len(flat)
    left = (n * truth - flat) / (n - 1)
    means = np.stack([each.reshape(len(each), -1).mean(0) for each in predicted.values()])
    jackknife = pearson(means[:, None], left)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.linalg.norm(means, axis=1) / np.linalg.norm(truth)
    halves = flat[: n // 2].mean(0), flat[n // 2 :].mean(0)
    fields = {
        "correlation": pearson(means, truth),
        "correlation_error": np.sqrt((n - 1) * jackknife.var(1)),
        "norm_ratio": ratio,
    }
    compared = xr.Dataset({name: ("transform", values) for name, values in fields.items()})
    reliability = float(lengthened(pearson(*halves)))
    return compared.assign_coords(transform=list(predicted)).assign(reliability=reliability)


def candidates(training: Training) -> dict[str, PushForward]:
    """Return methods that suit most trainings by gradient steps, by the code that makes them."""
    shapes = jax.eval_shape(training.program.init, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    damped = curvature.nystroem(rank=min(MOST_RANK, training.program.num_data, size))
    makers = {
        f"influence(training, curvature.{damped})": lambda: influence(training, damped),
        f"segments(training, curvature.{damped})": lambda: segments(training, damped),
        "unroll(training)": lambda: unroll(training),
    }
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except (ValueError, NotImplementedError):
            continue
    return made


def recommend(compared: xr.Dataset) -> str:
    """Return the method that agrees best with retraining, or "" if none beats the first."""
    table = compared["correlation"].to_series()
    own, others = table.iloc[0], table.iloc[1:].dropna()
    if others.empty or not others.max() > (own if np.isfinite(own) else -1.0) + LEAST_GAIN:
        return ""
    best = others.idxmax()
    error = float(compared["correlation_error"].sel(transform=best))
    return (
        f"{best}: its mean shifts correlate with retraining under other seeds by {others.max():.2g} +- "
        f"{error:.1g}, this method's by {own:.2g}"
    )
