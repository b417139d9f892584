"""What one posterior sample implies for each example, the prior and the likelihood; and k-hat."""

import json
import warnings
from typing import Any

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from dtda_prob.compiling import compiled
from dtda_prob.perturbations import check_weights
from dtda_prob.studies.tree import values_of
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.importance import importance
from dtda_prob.typing import PRNGKey, Weights, check_key

SAMPLE = ["chain", "draw"]
COMPONENTS = ("prior", "likelihood")
GOOD_K, USABLE_K = 0.5, 0.7
"""K-hat up to which errors hold, and up to which estimates mean anything."""
GRADES = ("good", "doubtful", "bad")
"""Errors hold; they come out up to half too small; neither estimate nor error means anything."""


def pareto_k(
    training: Training,
    key: PRNGKey,
    perturbations: Any,
    *,
    num_draws: int | None = None,
    match_moments: bool = False,
) -> xr.DataArray:
    """Compute the Pareto k-hat of the importance weights of each perturbation; see `importance`.

    K-hat is the shape of the tail of the weights, estimated from its M largest ones, with a standard
    error of about (1 + k) / sqrt(M): 0.17 at 0.65 for 1,000 draws, so that it grades and does not
    decide (Vehtari et al., arXiv 1507.02646).

    Args:
        training: the stochastic kernel, which must draw from a posterior.
        key: key of the population.
        perturbations: weights `(perturbation, example)`.
        num_draws: size of the population.
        match_moments: see `importance`.

    Returns:
        K-hat of each perturbation, with coordinates `error` and `grade`: "good" up to 0.5, where errors
        of estimates hold; "doubtful" up to 0.7, where they come out up to half too small; "bad" above,
        where estimates mean nothing.

    Raises:
        ValueError: for bad weights, fewer than 25 draws, or a kernel that draws from no posterior.
    """
    check_key(key)
    weighed = importance(training, key, num_draws=num_draws, match_moments=match_moments)
    return k_hats(weighed, perturbations)


def k_hats(push_forward: PushForward, perturbations: Any) -> xr.DataArray:
    """Compute the k-hat of a transform's own importance weights at each perturbation; see `pareto_k`.

    Raises:
        ValueError: if the transform has no importance weights.
    """
    if not isinstance(push_forward, importance):
        raise ValueError(f"{push_forward.name} has no importance weights; `importance` has")
    weights = check_weights(push_forward.training.program, perturbations)
    dtype = push_forward.training.program.full_weights().dtype

    rows = jnp.atleast_2d(jnp.asarray(weights.values, dtype))
    values, num_draws = compiled(_each_k_hat)(push_forward, rows)
    like = weights.isel(example=0, drop=True)
    return _graded(like.copy(data=np.asarray(values).reshape(like.shape)), int(num_draws[0]))


def _each_k_hat(
    push_forward: importance, rows: Float[Array, "perturbation example"]
) -> tuple[Array, Array]:
    def of_row(new: Weights) -> tuple[Array, Array]:
        weighted = push_forward.weigh(new)
        return weighted.pareto_k, jnp.asarray(weighted.log_weights.size)

    return jax.lax.map(of_row, rows)


def _graded(k_hat: xr.DataArray, num_draws: int) -> xr.DataArray:
    """Add the error and the grade of each k-hat as coordinates.

    The error is the asymptotic one of a maximum likelihood estimate of the generalised Pareto shape,
    from the min(S / 5, 3 sqrt(S)) largest of S weights.
    """
    tail = min(0.2 * num_draws, 3 * num_draws**0.5)
    error, grade = (1 + k_hat.values) / tail**0.5, _grades(k_hat.values)
    coords = {"error": (k_hat.dims, error), "grade": (k_hat.dims, grade)}
    return k_hat.rename("k_hat").assign_coords(coords)


def _grades(k_hat: np.ndarray, usable: float = USABLE_K) -> np.ndarray:
    return np.array(GRADES)[np.searchsorted([min(GOOD_K, usable), usable], k_hat)]


def sensitivity(tree: xr.DataTree) -> xr.Dataset:
    """Leave out each example, and raise prior and likelihood to a power, by importance sampling.

    Nothing is drawn again: weights come from the densities that the tree holds, smoothed by ArviZ with
    a Pareto distribution (Vehtari et al., arXiv 1507.02646); the effective share of draws is estimated
    from the measured values.

    Args:
        tree: a posterior sample at all data, `sample(..., keep=["log_likelihood", "log_prior"])`.

    Returns:
        For each example `elpd_loo`, its log predictive density in nats given all others; `k_hat` of its
        weights (NaN where all are equal) and its `grade`, see `pareto_k`, where "bad" begins at the
        attribute `k_hat_limit`, min(1 - 1 / log10 S, 0.7) for S draws; and the `effective_draws`. K-hat
        has no scale: weights of an example about which all draws agree may have heavy tails about 1 and
        many effective draws. For each query and example `mean_shift`, the mean of the measurement
        without the example minus the mean with it, in units of the measurement. For each component
        (prior, likelihood) and query `power_scaling`: how far the distribution moves as the component
        is raised to a power, in cumulative Jensen-Shannon distance per doubling; above 0.05 counts as
        sensitive (Kallioinen et al., arXiv 2107.14054).

        `elpd_loo_error` and `mean_shift_error` are standard errors that count correlation along
        chains. They hold for k-hat below 0.5, come out up to half too small from there to 0.7, and mean
        nothing above. `power_scaling_error` is the delete-one jackknife's over chains. The attributes
        `elpd_loo` and `elpd_loo_error` are ArviZ's sum over data and its standard error over data.

    Raises:
        ValueError: if the tree lacks the densities, holds several perturbations or weights other than
            1, or the kernel does not draw from a posterior at temperature 1.

    Warns:
        RuntimeWarning: if k-hat of some examples is out of range.
    """
    _check(tree)
    values = values_of(tree)
    left_out = _leave_out(tree, values)
    shifts = _shifts(values, left_out["weights"])
    _warn(left_out)
    parts = [left_out.drop_vars("weights"), shifts, _power_scaling(tree, values)]
    return xr.merge(parts, combine_attrs="drop_conflicts", join="exact")


def _leave_out(tree: xr.DataTree, values: xr.DataArray) -> xr.Dataset:
    """Compute ArviZ's leave-one-out statistics of each example, and its importance weights."""
    densities = tree["log_likelihood/log_likelihood"].astype(float)
    holder = xr.DataTree.from_dict({"log_likelihood": densities.to_dataset()})
    share = float(values.azstats.ess(method="mean", relative=True).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about k-hat, which is reported by name below
        loo = arviz_stats.loo(holder, pointwise=True, reff=share)
    weights, excess = np.exp(loo.log_weights), np.exp(densities - loo.elpd_i) - 1
    return xr.Dataset(
        {
            "elpd_loo": loo.elpd_i,
            "elpd_loo_error": _error(weights * excess),
            "k_hat": loo.pareto_k,
            "grade": loo.pareto_k.copy(data=_grades(np.nan_to_num(loo.pareto_k.values), loo.good_k)),
            "effective_draws": share / (weights**2).sum(SAMPLE),
            "weights": weights,
        },
        attrs={"k_hat_limit": loo.good_k, "elpd_loo": loo.elpd, "elpd_loo_error": loo.se},
    )


def _shifts(values: xr.DataArray, weights: xr.DataArray) -> xr.Dataset:
    """Compute mean shifts, query by query; means before and after share draws, and errors count it."""

    def shift(one: xr.DataArray) -> xr.Dataset:
        centred = one - one.mean(SAMPLE)
        moved = (weights * centred).sum(SAMPLE)
        influence = weights * (centred - moved) - centred / _num_draws(one)
        return xr.Dataset({"mean_shift": moved, "mean_shift_error": _error(influence)})

    return xr.concat([shift(values.isel(query=[k])) for k in range(values.sizes["query"])], "query")


def _power_scaling(tree: xr.DataTree, values: xr.DataArray) -> xr.Dataset:
    """Compute ArviZ's sensitivity of the measurement to both components, and its error over chains."""
    groups = {f"log_{name}": tree[f"log_{name}"].to_dataset().astype(float) for name in COMPONENTS}
    groups["posterior"] = values.to_dataset(name="power_scaling")

    def scaled(chains: np.ndarray) -> xr.DataArray:
        some = xr.DataTree.from_dict({name: group.isel(chain=chains) for name, group in groups.items()})
        each = [arviz_stats.psense(some, group=name)["power_scaling"] for name in COMPONENTS]
        return xr.concat(each, xr.Variable("component", [*COMPONENTS]))

    chains = np.arange(values.sizes["chain"])
    without = xr.concat([scaled(np.delete(chains, chain)) for chain in chains], "chain")
    error = np.sqrt((len(chains) - 1) * without.var("chain"))
    return xr.Dataset({"power_scaling": scaled(chains), "power_scaling_error": error})


def _error(contribution: xr.DataArray) -> xr.DataArray:
    """Compute the standard error of an estimate from each draw's contribution to it."""
    return (contribution * _num_draws(contribution)).azstats.mcse(method="mean")


def _num_draws(sample: xr.DataArray) -> int:
    return sample.sizes["chain"] * sample.sizes["draw"]


def _warn(left_out: xr.Dataset) -> None:
    bad = left_out["example"].values[left_out["grade"].values == "bad"]
    if len(bad):
        warnings.warn(
            f"k-hat of {len(bad)} of {left_out.sizes['example']} examples is above "
            f"{left_out.attrs['k_hat_limit']:.2f}, {bad[:5].tolist()} among them: their estimates rest "
            "on few draws; take more draws, or refit without these examples",
            RuntimeWarning,
            stacklevel=3,
        )


def _check(tree: xr.DataTree) -> None:
    missing = [name for name in ("log_likelihood", "log_prior") if name not in tree.children]
    if missing:
        raise ValueError(
            f"no groups {missing} in tree; keep them: sample(..., keep=['log_likelihood', 'log_prior'])"
        )
    weights = tree["constant_data/weights"]
    if weights.ndim > 1 or (weights != 1).any():
        raise ValueError(
            f"tree has weights of shape {weights.shape}, not all 1; sample at all data, weights=None"
        )
    temperature = json.loads(tree.attrs["dtda_prob"])["temperature"]
    if temperature != 1:
        raise ValueError(
            f"tree is a sample at temperature {temperature}, and a posterior has 1; take a kernel that "
            "draws from one, such as kernels.nuts"
        )
