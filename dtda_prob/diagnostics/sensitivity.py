"""What a posterior owes to each datum, to its prior and to its likelihood, from one sample of it."""

import json
import warnings

import arviz_stats
import numpy as np
import xarray as xr

from dtda_prob.studies.tree import values_of

SAMPLE = ["chain", "draw"]
COMPONENTS = ("prior", "likelihood")


def sensitivity(tree: xr.DataTree) -> xr.Dataset:
    """Leave each datum out, and raise prior and likelihood to a power, by importance weights (ArviZ's).

    Nothing is drawn again: weights come from the densities that the tree holds, and are smoothed by
    Pareto's distribution (Vehtari et al., arXiv 1507.02646); the effective share of draws is that of
    the measured values.

    Args:
        tree: a sample of a posterior on all data, `sample(..., keep=["log_likelihood", "log_prior"])`.

    Returns:
        For each datum `elpd_loo`, its log predictive density in nats given all others; `k_hat` of its
        weights (NaN where they are alike), and `reliable`, whether that is at most the attribute
        `k_hat_limit`, min(1 - 1 / log10 S, 0.7) for S draws; and the `effective_draws` of the weights.
        K-hat has no scale: the weights of a datum that every draw is sure of have heavy tails about 1,
        and many effective draws. For each query and datum `mean_shift`, the mean of the measurement
        without the datum less its mean with it, in the measurement's units, as `attribute` scores it.
        For each component (prior, likelihood) and query `power_scaling`: how far the distribution
        moves as the component is raised to a power, in cumulative Jensen-Shannon distance for each
        doubling of it; above 0.05 counts as sensitive (Kallioinen et al., arXiv 2107.14054).

        `elpd_loo_error` and `mean_shift_error` are standard errors that count correlation along
        chains. They hold for k-hat below 0.5; from there to 0.7 they come out up to half too small, and
        above they mean nothing. `power_scaling_error` is the delete-one jackknife's over chains.
        The attributes `elpd_loo` and `elpd_loo_error` are ArviZ's sum over data and its error from
        datum to datum.

    Raises:
        ValueError: if the tree lacks the densities, holds several perturbations or weights other than
            1, or the kernel draws from no posterior at temperature 1.

    Warns:
        RuntimeWarning: if k-hat of some data is out of range.
    """
    _check(tree)
    values = values_of(tree)
    left_out = _leave_out(tree, values)
    shifts = _shifts(values, left_out["weights"])
    _warn(left_out)
    parts = [left_out.drop_vars("weights"), shifts, _power_scaling(tree, values)]
    return xr.merge(parts, combine_attrs="drop_conflicts", join="exact")


def _leave_out(tree: xr.DataTree, values: xr.DataArray) -> xr.Dataset:
    """Give what ArviZ's leave-one-out says of each datum, and its importance weights."""
    densities = tree["log_likelihood/log_likelihood"].astype(float)
    holder = xr.DataTree.from_dict({"log_likelihood": densities.to_dataset()})
    share = float(values.azstats.ess(method="mean", relative=True).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of k-hat, which is reported by name below
        found = arviz_stats.loo(holder, pointwise=True, reff=share)
    weights, excess = np.exp(found.log_weights), np.exp(densities - found.elpd_i) - 1
    return xr.Dataset(
        {
            "elpd_loo": found.elpd_i,
            "elpd_loo_error": _error(weights * excess),
            "k_hat": found.pareto_k,
            "reliable": ~(found.pareto_k > found.good_k),
            "effective_draws": share / (weights**2).sum(SAMPLE),
            "weights": weights,
        },
        attrs={"k_hat_limit": found.good_k, "elpd_loo": found.elpd, "elpd_loo_error": found.se},
    )


def _shifts(values: xr.DataArray, weights: xr.DataArray) -> xr.Dataset:
    """Give mean shifts, query by query; the means before and after share draws, and errors count it."""

    def shift(one: xr.DataArray) -> xr.Dataset:
        centred = one - one.mean(SAMPLE)
        moved = (weights * centred).sum(SAMPLE)
        influence = weights * (centred - moved) - centred / _num_draws(one)
        return xr.Dataset({"mean_shift": moved, "mean_shift_error": _error(influence)})

    return xr.concat([shift(values.isel(query=[k])) for k in range(values.sizes["query"])], "query")


def _power_scaling(tree: xr.DataTree, values: xr.DataArray) -> xr.Dataset:
    """Give ArviZ's sensitivity of the measurement to both components, and its error over chains."""
    groups = {f"log_{name}": tree[f"log_{name}"].to_dataset().astype(float) for name in COMPONENTS}
    groups["posterior"] = values.to_dataset(name="power_scaling")

    def scaled(chains: np.ndarray) -> xr.DataArray:
        some = xr.DataTree.from_dict({name: group.isel(chain=chains) for name, group in groups.items()})
        found = [arviz_stats.psense(some, group=name)["power_scaling"] for name in COMPONENTS]
        return xr.concat(found, xr.Variable("component", [*COMPONENTS]))

    chains = np.arange(values.sizes["chain"])
    without = xr.concat([scaled(np.delete(chains, chain)) for chain in chains], "chain")
    error = np.sqrt((len(chains) - 1) * without.var("chain"))
    return xr.Dataset({"power_scaling": scaled(chains), "power_scaling_error": error})


def _error(influence: xr.DataArray) -> xr.DataArray:
    """Give the standard error of an estimate from what each draw adds to it."""
    return (influence * _num_draws(influence)).azstats.mcse(method="mean")


def _num_draws(sample: xr.DataArray) -> int:
    return sample.sizes["chain"] * sample.sizes["draw"]


def _warn(left_out: xr.Dataset) -> None:
    bad = left_out["datum"].values[~left_out["reliable"].values]
    if len(bad):
        warnings.warn(
            f"k-hat of {len(bad)} of {left_out.sizes['datum']} data is above "
            f"{left_out.attrs['k_hat_limit']:.2f}, {bad[:5].tolist()} among them: what is said of them "
            "rests on few draws; take more draws, or refit without these data",
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
