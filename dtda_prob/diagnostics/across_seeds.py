"""Mean shifts beside retraining under other seeds, for a verdict on a few perturbations.

A response may be exact for each seed and useless for the mean over seeds: where training is unstable,
a few draws with very long steps decide it. `linear_range`, which compares seed by seed, does not see
that.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from dtda_prob.attribution.methods import Shifts
from dtda_prob.correlations import lengthened, pearson

LEAST_RELIABILITY = 0.5
"""Reliability of the retrained shifts below which half of their variance is noise."""
LEAST_GAIN = 0.1
"""Gain in the correlation that counts as better."""


def compare_shifts(predicted: Mapping[str, Shifts], retrained: Shifts) -> xr.Dataset:
    """Compare mean shifts with retrained ones, over all queries and perturbations together.

    Returns:
        For each method `correlation`, Pearson's, its `correlation_error`, the delete-one jackknife's
        over retrainings, and `norm_ratio`, the length of the mean predicted shifts over the length of
        the retrained ones; and the `reliability` of the latter, from their correlation between halves
        of the retrainings.
    """
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
