"""Methods that could predict: which ones suit a training, and how far each agrees with retraining."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob import curvature
from dtda_prob.attribution.arms import comparison
from dtda_prob.correlations import lengthened, mean_of_known, pearson
from dtda_prob.curvature.matrices import num_features
from dtda_prob.studies.run import Where
from dtda_prob.studies.source import Source, training_of
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.covariance import covariance
from dtda_prob.transforms.gaussian import gaussian
from dtda_prob.transforms.influence import influence
from dtda_prob.transforms.segments import segments
from dtda_prob.transforms.unroll import unroll
from dtda_prob.typing import PRNGKey

MOST_RANK = 100
MOST_FEATURES = 32
"""Outputs of an example, over all tokens, up to which EK-FAC takes a backward pass for each of them."""
Shifts = Float[np.ndarray, "draw query perturbation *output"]
Effects = Float[np.ndarray, "query perturbation"]
Maker = Callable[[], PushForward]


def candidates(training: Training) -> tuple[dict[str, PushForward], dict[str, str]]:
    """Return the methods that suit a training, by name, and why the others do not."""
    tried = {name: attempt(make) for name, make in makers(training).items()}
    made = {each.name: each for each in tried.values() if not isinstance(each, str)}
    return made, {name: each for name, each in tried.items() if isinstance(each, str)}


def makers(training: Training) -> dict[str, Maker]:
    """Return functions that make the methods which may suit a training, in the order to try them."""
    posterior = training.kernel.temperature is not None
    return _of_posterior(training) if posterior else _of_steps(training)


def attempt(make: Maker) -> PushForward | str:
    """Make a method, or return why it does not suit."""
    try:
        return make()
    except (ValueError, NotImplementedError) as error:
        return str(error)


def _of_posterior(training: Training) -> dict[str, Maker]:
    return {
        "influence": lambda: influence(training),
        "gaussian": lambda: gaussian(training),
        "covariance": lambda: covariance(training),
    }


def _of_steps(training: Training) -> dict[str, Maker]:
    size = sum(leaf.size for leaf in jax.tree.leaves(training.program.shapes))
    rank = min(MOST_RANK, training.program.num_data, size)
    return {
        "unroll": lambda: unroll(training),
        "unroll by Gauss-Newton steps": lambda: unroll(training, matrix="gauss_newton"),
        "influence by EK-FAC": lambda: influence(training, _ekfac(training)),
        "influence by EK-FAC, refined": lambda: influence(
            training, curvature.chebyshev(preconditioner=_ekfac(training))
        ),
        "segments": lambda: segments(training, curvature.nystroem(rank=rank)),
    }


def _ekfac(training: Training) -> curvature.kronecker:
    """Return EK-FAC, by one sampled label where an example has many outputs, as a text has."""
    many = num_features("gauss_newton", training.program) > MOST_FEATURES
    return curvature.kronecker("fisher" if many else "gauss_newton")


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


def retrained_shifts(source: Source, key: PRNGKey, perturbations: Any, number: int) -> Shifts:
    """Retrain with keys that `key` does not lead to, coupled between both arms."""
    if number < 4:
        raise ValueError(f"num_retrainings={number} must be at least 4, to split them in halves")
    other = jax.random.fold_in(jax.random.split(key)[1], 1)
    return shifts(training_of(source), other, perturbations, number)


def compare(predicted: Mapping[str, Shifts], retrained: Shifts) -> xr.Dataset:
    """Compare predicted mean shifts with retrained ones, in direction and in size.

    Args:
        predicted: the shifts of single draws, by the name of a method.
        retrained: the shifts of retrainings under other seeds.

    Returns:
        Along `transform`: `direction`, the correlation over perturbations, averaged over queries;
        `size`, retrained effects over predicted ones by least squares, corrected for the noise of few
        draws; `explained`, the share of the retrained effects' squares that predictions explain, each
        scaled by the size that the other perturbations give; `limit`, the direction that more draws
        would lead to, without the noise of these; and `gap`, what is missing to the best direction;
        with `_error` the crossed jackknife's over perturbations and retrainings. Also `ceiling`, the
        root of the reliability of the retrained effects, which no direction exceeds but by chance, and
        `expected`, the direction that the choice of the best one reaches on perturbations which had no
        part in it.
    """
    means = {name: _mean(each) for name, each in predicted.items()}
    truth = _by_query(retrained)
    tables = _jackknifed(list(means.values()), truth)
    tables["limit"] = tables["direction"] / np.array([_kept(each) for each in predicted.values()])
    fields = {name: ("transform", values) for name, values in tables.items()}
    compared = xr.Dataset(fields, {"transform": list(means)})
    halves = truth[: len(truth) // 2].mean(0), truth[len(truth) // 2 :].mean(0)
    reliable = lengthened(mean_of_known(pearson(*halves), -1))
    ceiling = np.sqrt(np.maximum(reliable, 0.0)) if np.isfinite(reliable) else np.nan
    return compared.assign(ceiling=float(ceiling), expected=_expected(list(means.values()), truth))


class _Mean(NamedTuple):
    """The mean shift of a method over its draws, and the noise in the mean square of it.

    Attributes:
        value: shape `(query, perturbation)`.
        noise: the variance of the mean over draws, of the same shape; 0 of one draw.
    """

    value: Effects
    noise: Effects


def _mean(each: Shifts) -> _Mean:
    flat = _by_query(each)
    noise = flat.var(0, ddof=1) / len(flat) if len(flat) > 1 else np.zeros_like(flat[0])
    return _Mean(flat.mean(0), noise)


def _kept(each: Shifts) -> float:
    """Return the factor by which the noise of draws lowers correlations with their mean.

    Queries that move by no more than the noise count 0.
    """
    flat = _by_query(each)
    if len(flat) == 1:
        return np.nan
    apart = flat - flat.mean(-1, keepdims=True)
    noise = apart.var(0, ddof=1).mean(-1) / len(flat)
    reliable = 1 - noise / apart.mean(0).var(-1)
    return float(mean_of_known(np.sqrt(np.maximum(reliable, 0.0)), -1))


def _by_query(each: Shifts) -> Float[np.ndarray, "draw query perturbation"]:
    """Return shifts with one row for each query and output."""
    moved = np.moveaxis(each, 2, -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])


def _jackknifed(means: list[_Mean], truth: np.ndarray) -> dict[str, np.ndarray]:
    """Return directions, sizes, gaps and shares explained of all methods, and their errors."""
    numbers = _numbers(means, truth.mean(0), slice(None))
    some = [np.delete(np.arange(truth.shape[2]), i) for i in range(truth.shape[2])]
    by_perturbation = np.stack([_numbers(means, truth.mean(0), part) for part in some])
    fewer = [np.delete(truth, i, 0).mean(0) for i in range(len(truth))]
    by_retraining = np.stack([_numbers(means, each, slice(None)) for each in fewer])
    variance = sum((len(left) - 1) * left.var(0) for left in (by_perturbation, by_retraining))
    names = ("direction", "size", "gap")
    fields = dict(zip(names, numbers, strict=True))
    fields |= {f"{k}_error": v for k, v in zip(names, np.sqrt(variance), strict=True)}
    return fields | {"explained": _explained(means, truth.mean(0), by_perturbation[:, 1])}


def _numbers(means: list[_Mean], truth: Effects, some: Any) -> Float[np.ndarray, "3 method"]:
    """Return directions, sizes and gaps for some of the perturbations."""
    truth = truth[:, some]
    directions = np.array([mean_of_known(pearson(m.value[:, some], truth), -1) for m in means])
    sizes = np.array([_size(m.value[:, some], m.noise[:, some], truth) for m in means])
    known = directions[np.isfinite(directions)]
    best = known.max() if known.size else np.nan
    return np.stack([directions, sizes, best - directions])


def _size(value: Effects, noise: Effects, truth: Effects) -> float:
    square = (value**2).sum() - noise.sum()
    return (value * truth).sum() / square if square > 0 else np.nan


def _explained(means: list[_Mean], truth: Effects, sizes: np.ndarray) -> np.ndarray:
    """Return 1 - sum (truth - size * predicted)^2 / sum truth^2, sizes given by other perturbations."""
    left = [((truth - size * m.value) ** 2).sum() for m, size in zip(means, sizes.T, strict=True)]
    return 1 - np.array(left) / (truth**2).sum()


def _expected(means: list[_Mean], truth: np.ndarray) -> float:
    """Return the direction of what is chosen for each perturbation by the others."""
    target = truth.mean(0)
    chosen = np.empty_like(target)
    for i in range(target.shape[1]):
        others = np.delete(np.arange(target.shape[1]), i)
        directions, sizes, _ = _numbers(means, target, others)
        if not np.isfinite(directions).any():
            return float("nan")
        best = int(np.nanargmax(directions))
        chosen[:, i] = sizes[best] * means[best].value[:, i]
    return float(mean_of_known(pearson(chosen, target), -1))
