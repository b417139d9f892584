"""Are there enough draws, are they independent, and what is sharing keys worth."""

from collections.abc import Callable

import arviz_stats
import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Float

from dtda_prob.diagnostics.modes import modes
from dtda_prob.studies.tree import draws_of, values_of

SAMPLE = ["chain", "draw"]
LEAST_DRAWS = 4
"""Draws a chain needs before ArviZ estimates an effective sample size."""

Sample = xr.DataTree | xr.DataArray
Draws = Float[np.ndarray, "... draw"]
Values = Float[np.ndarray, "..."]
COUPLING = ("correlation", "correlation_error", "variance_ratio", "variance_ratio_error")


def draws(sample: Sample, *, num_null: int = 1999, seed: int = 0) -> xr.Dataset:
    """Describe the draws of each measured value, with ArviZ's statistics.

    Seeds are independent by construction, so the effective sample size should be close to the number of
    draws and R-hat close to 1; anything else means that draws depend on each other, or on their block.
    Short chains have an R-hat above 1 by chance: `r_hat_limit` is its 95 % quantile under independence.
    For m half chains of n draws R-hat^2 = (n - 1 + F) / n, where F, the ratio of the variances between
    and within chains (Vehtari et al., arXiv 1903.08008), has an F distribution with m - 1 and m (n - 1)
    degrees of freedom for independent normal draws.

    Args:
        sample: a sample set from `dtda.sample`, or values with dimensions `chain` and `draw`.
        num_null: uniform samples that each value's dip is compared with; see `modes`.
        seed: seed of the uniform samples.

    Returns:
        For each value `effective_draws` (for the mean), `mcse_mean` and `mcse_sd` (standard errors of
        the mean and of the standard deviation), `r_hat` (rank-normalised, split), `dip` and
        `dip_p_value` (see `modes`), and `not_finite`, the number of draws that are not finite: where it
        is positive the rest is NaN, as are errors and R-hat where nothing varies. `num_draws` (of all
        chains), `num_chains` and `r_hat_limit` are scalars. ArviZ overestimates the effective sample
        size of short chains: 64 draws in 4 chains count as about 80, so that errors of the mean come
        out a tenth too small.

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
    test = modes(np.moveaxis(finite.stack(all=SAMPLE).values, -1, 0), num_null, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        described = xr.Dataset(
            {
                "effective_draws": arviz_stats.ess(finite, sample_dims=SAMPLE, method="mean"),
                "mcse_mean": arviz_stats.mcse(finite, sample_dims=SAMPLE, method="mean"),
                "mcse_sd": arviz_stats.mcse(finite, sample_dims=SAMPLE, method="sd"),
                "r_hat": arviz_stats.rhat(finite, sample_dims=SAMPLE),
                "dip": (missing.dims, test.dip),
                "dip_p_value": (missing.dims, test.p_value),
            }
        ).where(missing == 0)
    num_chains, num_draws = values.sizes["chain"], values.sizes["draw"]
    return described.assign(
        not_finite=missing,
        num_draws=num_chains * num_draws,
        num_chains=num_chains,
        r_hat_limit=r_hat_limit(num_chains, num_draws),
    )


def r_hat_limit(num_chains: int, num_draws: int, level: float = 0.95) -> float:
    """Compute a quantile of R-hat for independent draws; see `draws`.

    R-hat is the larger of two statistics (location and scale), each at half of the error rate.

    Args:
        num_chains: number of chains, which are split in halves.
        num_draws: draws per chain.
        level: probability of the quantile.
    """
    m, n = 2 * num_chains, num_draws // 2
    ratio = scipy.stats.f.ppf((1 + level) / 2, m - 1, m * (n - 1))
    return float(np.sqrt((n - 1 + ratio) / n))


def r_hat_chance(r_hat: float, num_chains: int, num_draws: int) -> float:
    """Compute the probability that independent draws have an R-hat as large; see `r_hat_limit`."""
    m, n = 2 * num_chains, num_draws // 2
    return min(1.0, 2 * float(scipy.stats.f.sf(n * r_hat**2 - (n - 1), m - 1, m * (n - 1))))


def coupling(old: Sample, new: Sample) -> xr.Dataset:
    """Measure how closely draws that share a key move together on both sides of a comparison.

    The mean difference of n draws has variance Var(old - new) / n if the arms are coupled, and
    (Var(old) + Var(new)) / n if they are not. `variance_ratio` is the second over the first: the number
    of independent draws that one coupled draw is worth. Standard errors are the delete-one jackknife's
    over draws, taken on the logarithm for the variance ratio, which is closer to normal.

    Args:
        old: a sample set from `dtda.sample`, or values with dimension `draw`.
        new: another one with the same keys. Further dimensions, such as `perturbation`, are matched by
            name.

    Returns:
        `correlation`, `variance_ratio` and their standard errors (`..._error`). The ratio is infinite
        where only the mean moves, and NaN where nothing varies.

    Raises:
        ValueError: if the arms differ in their number of draws or keys, or have fewer than 3 draws.
    """
    _check_keys(old, new)
    first, second = draws_of(old), draws_of(new)
    if first.sizes["draw"] != second.sizes["draw"] or first.sizes["draw"] < 3:
        raise ValueError(
            f"coupled arms need as many draws each, at least 3; got {first.sizes['draw']} and "
            f"{second.sizes['draw']}"
        )
    over = [["draw"], ["draw"]]
    values = xr.apply_ufunc(_couple, first, second, input_core_dims=over, output_core_dims=[[]] * 4)
    return xr.Dataset(dict(zip(COUPLING, values, strict=True)))


def _couple(old: Draws, new: Draws) -> tuple[Values, Values, Values, Values]:
    old, new = (arm - arm.mean(-1, keepdims=True) for arm in np.broadcast_arrays(old, new))
    products = old**2, new**2, old * new, (old - new) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation, error = _jackknife(_correlation, products)
        log_ratio, log_error = _jackknife(_log_ratio, products)
    return correlation, error, np.exp(log_ratio), np.exp(log_ratio) * log_error


def _correlation(old: Values, new: Values, shared: Values, difference: Values) -> Values:
    return shared / np.sqrt(old * new)


def _log_ratio(old: Values, new: Values, shared: Values, difference: Values) -> Values:
    return np.log(old + new) - np.log(difference)


def _jackknife(statistic: Callable, products: tuple[Draws, ...]) -> tuple[Values, Values]:
    """Compute a statistic of sums of squares and its error; leaving a draw out moves means too."""
    n = products[0].shape[-1]
    value = statistic(*(product.sum(-1) for product in products))
    left = [product.sum(-1, keepdims=True) - product * n / (n - 1) for product in products]
    return value, np.sqrt((n - 1) * statistic(*left).var(-1))


def _check_keys(old: Sample, new: Sample) -> None:
    trees = [arm for arm in (old, new) if isinstance(arm, xr.DataTree)]
    keys = [tree.children["sample_stats"].to_dataset()["key"].values for tree in trees]
    if len(keys) == 2 and not np.array_equal(keys[0], keys[1]):
        raise ValueError("the arms were drawn with other keys, so they are not coupled: share one key")
