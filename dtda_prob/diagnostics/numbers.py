"""The numbers that checks compare with thresholds, read off the results of diagnostics."""

import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob.diagnostics.across_seeds import LEAST_RELIABILITY
from dtda_prob.diagnostics.sampling import r_hat_chance
from dtda_prob.studies.check import in_range

Number = tuple[float, float]
"""A value and its standard error."""
FDR = 0.05
"""False discovery rate at which values count as having several modes."""
LEVEL = 0.9
"""The central interval whose coverage is checked."""


def median(values: xr.DataArray) -> Number:
    """Return the median, and half of the central 68 %."""
    low, high = np.nanquantile(values, [0.16, 0.84], method="inverted_cdf")
    return float(values.median()), float(high - low) / 2 if np.isfinite(high) else np.inf


def over_draws(values: xr.DataArray) -> Number:
    """Return the median over everything, and the standard error over draws of medians."""
    each = values.median([dim for dim in values.dims if dim != "draw"])
    error = float(each.std("draw", ddof=1)) / each.size**0.5 if each.size > 1 else np.nan
    return float(values.median()), error


def correlation(result: xr.Dataset) -> Number | None:
    """Return the method's own correlation, unless the retrained shifts are mostly noise."""
    own = result.isel(transform=0)
    noisy = not float(result["reliability"]) >= LEAST_RELIABILITY
    return None if noisy else (float(own["correlation"]), float(own["correlation_error"]))


def halves(result: xr.Dataset) -> Number | None:
    """Return how far responses at both ends are apart, unless the transform has no response."""
    apart = result["halves"]
    return None if apart.isnull().all() else over_draws(apart)


def lengths(result: xr.Dataset, group: bool) -> Number | None:
    """Return the length of predicted steps over retrained, of single examples or of groups."""
    ratio = result["norm_ratio"][:, result["group"].values == group]
    return over_draws(ratio) if ratio.size else None


def out_of_range(result: xr.Dataset) -> Number:
    """Return the share of steps out of range, with its standard error over draws."""
    each = 1 - in_range(result["norm_ratio"], result["cosine"], result["group"]).mean("perturbation")
    error = float(each.std("draw", ddof=1)) / each.size**0.5 if each.size > 1 else np.nan
    return float(each.mean()), error


def spread_of_lengths(result: xr.Dataset) -> Number | None:
    """Return the length of the longest draw's steps over the median length."""
    if "length" not in result:
        return None
    median = float(result["length"].median())
    return (float(result["length"].max()) / median, np.nan) if median > 0 else None


def furthest(result: xr.Dataset) -> Number | None:
    """Return the variance that the furthest moves add, relative, where draws move by themselves."""
    return (float(result["far"].max()), np.nan) if "far" in result else None


def noise(result: xr.Dataset) -> Number:
    """Return the error of each query's mean shifts, relative to their size without it."""
    noise = np.sqrt((result["error"] ** 2).sum("perturbation"))
    size = (result["mean"] ** 2).sum("perturbation") - noise**2
    return median(xr.where(size > 0, noise / np.sqrt(size.where(size > 0, 1.0)), np.inf))


def r_hat(result: xr.Dataset) -> Number | None:
    """Return the probability of so large an R-hat of any query, if blocks are alike."""
    num_chains, num_draws = int(result["num_chains"]), int(result["num_draws"])
    largest = float(result["r_hat"].max())
    if not np.isfinite(largest):
        return None
    chance = r_hat_chance(largest, num_chains, num_draws // num_chains)
    return min(1.0, result["r_hat"].size * chance), np.nan


def num_several(result: xr.Dataset) -> Number:
    """Count values with several modes, at a false discovery rate (Benjamini and Hochberg)."""
    known = result["dip_p_value"].values[np.isfinite(result["dip_p_value"].values)]
    return (scipy.stats.false_discovery_control(known) < FDR).sum() if known.size else 0, np.nan


def largest_k(result: xr.DataArray) -> Number:
    """Return the largest k-hat and its error; one that is not finite counts as the largest."""
    largest = int(np.argmax(np.nan_to_num(result.values.ravel(), nan=np.inf)))
    return result.values.ravel()[largest], np.ravel(result.coords["error"].values)[largest]


def coverage(result: xr.Dataset) -> Number:
    """Return the coverage of 90 % intervals, all queries together, and its error."""
    if LEVEL not in result["level"]:
        raise ValueError(f"calibration has levels {result['level'].values}; give it {LEVEL} too")
    chosen = result.sel(level=LEVEL)
    return float(chosen["pooled_coverage"]), float(chosen["pooled_coverage_error"])


def agreement(result: xr.Dataset) -> Number:
    """Return the median correlation at the end of training, and the median of its errors."""
    last = result.isel(share=-1)
    return float(last["pearson"].median()), float(last["pearson_error"].median())
