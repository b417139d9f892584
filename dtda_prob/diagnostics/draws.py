"""Are there enough draws, are they independent, and do they have one mode."""

import arviz_stats
import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob.diagnostics.modes import modes
from dtda_prob.studies.tree import values_of

SAMPLE = ["chain", "draw"]
LEAST_DRAWS = 4
"""Draws a chain below which ArviZ knows no effective sample size."""


def draws(sample: xr.DataTree | xr.DataArray, *, num_null: int = 1999, seed: int = 0) -> xr.Dataset:
    """Describe the draws of each measured value, through ArviZ.

    Seeds are independent by construction, so that effective draws are about as many as draws and
    R-hat is near 1: anything else says that draws depend on each other, or on the block that they were
    made in. Chains of few draws have an R-hat above 1 by chance alone: `r_hat_limit` is the quantile
    below which it stays 19 times in 20. For m half chains of n draws R-hat^2 is (n - 1 + F) / n, with F
    the ratio of variances between and within chains (Vehtari et al., arXiv 1903.08008), which
    for independent draws of a normal has the F distribution with m - 1 and m (n - 1) degrees.

    Args:
        sample: what `dtda.sample` gives, or measured values with dimensions `chain` and `draw`.
        num_null: uniform samples that the dip of each value is compared with; see `modes`.
        seed: their seed.

    Returns:
        For each value: `effective_draws` (of the mean), `mcse_mean` and `mcse_sd` (standard errors of
        the mean and of the standard deviation over draws), `r_hat` (rank-normalised, split), `dip` and
        `dip_p_value` (see `modes`), and `not_finite`, the number of draws that are not: all else is
        then NaN, as are errors and R-hat where nothing varies. `num_draws` (of all chains),
        `num_chains` and `r_hat_limit` are one number each. Of short chains ArviZ finds more effective
        draws than draws: 64 in 4 chains count as some 80, so that the error of the mean comes out a
        tenth too small.

    Raises:
        ValueError: if a chain has fewer than 4 draws.
    """
    values = values_of(sample)
    if values.sizes["draw"] < LEAST_DRAWS:
        raise ValueError(
            f"a chain has {values.sizes['draw']} draws and needs {LEAST_DRAWS}: take more draws or "
            "fewer chains (num_chains)"
        )
    missing = xr.apply_ufunc(lambda x: ~np.isfinite(x), values).sum(SAMPLE)
    finite = values.where(missing == 0, 0.0)
    found = modes(np.moveaxis(finite.stack(all=SAMPLE).values, -1, 0), num_null, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        described = xr.Dataset(
            {
                "effective_draws": arviz_stats.ess(finite, sample_dims=SAMPLE, method="mean"),
                "mcse_mean": arviz_stats.mcse(finite, sample_dims=SAMPLE, method="mean"),
                "mcse_sd": arviz_stats.mcse(finite, sample_dims=SAMPLE, method="sd"),
                "r_hat": arviz_stats.rhat(finite, sample_dims=SAMPLE),
                "dip": (missing.dims, found.dip),
                "dip_p_value": (missing.dims, found.p_value),
            }
        ).where(missing == 0)
    num_chains, num_draws = values.sizes["chain"], values.sizes["draw"]
    limit = r_hat_limit(num_chains, num_draws)
    return described.assign(
        not_finite=missing,
        num_draws=num_chains * num_draws,
        num_chains=num_chains,
        r_hat_limit=limit,
    )


def r_hat_limit(num_chains: int, num_draws: int, level: float = 0.95) -> float:
    """Give what the R-hat of independent draws stays below with this probability; see `draws`.

    R-hat is the larger of two (of location and of scale), each of which gets half of the rest.

    Args:
        num_chains: chains, which are split in halves.
        num_draws: draws a chain.
        level: probability.
    """
    m, n = 2 * num_chains, num_draws // 2
    ratio = scipy.stats.f.ppf((1 + level) / 2, m - 1, m * (n - 1))
    return float(np.sqrt((n - 1 + ratio) / n))
