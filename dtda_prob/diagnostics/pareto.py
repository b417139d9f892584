"""The tail of importance weights, which says whether they carry samples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from dtda_prob.perturbations import check_weights
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward, importance
from dtda_prob.typing import PRNGKey, check_key


def pareto_k(
    training: Training,
    key: PRNGKey,
    perturbations: Any,
    *,
    num_draws: int = 256,
    match_moments: bool = False,
) -> xr.DataArray:
    """Give the Pareto k-hat of the importance weights of each perturbation; see `importance`.

    Below 0.7 the weights carry samples of the posterior reliably; above, remove less, take more draws,
    match moments, or refit (Vehtari et al., arXiv 1507.02646).

    Args:
        training: the stochastic kernel, which must draw from a posterior.
        key: key of the population.
        perturbations: weights `(perturbation, datum)`.
        num_draws: size of the population.
        match_moments: see `importance`.

    Raises:
        ValueError: for bad weights, fewer than 25 draws, or a kernel that draws from no posterior.
    """
    check_key(key)
    return k_hats(
        importance(training, key, num_draws=num_draws, match_moments=match_moments), perturbations
    )


def k_hats(push_forward: PushForward, perturbations: Any) -> xr.DataArray:
    """Give the k-hat of a transform's own importance weights at each perturbation; see `pareto_k`.

    Raises:
        ValueError: if the transform has no importance weights.
    """
    weigh = push_forward.weigh
    if weigh is None:
        raise ValueError(f"{push_forward.name} has no importance weights; `importance` has")
    weights = check_weights(push_forward.training.program, perturbations)
    dtype = push_forward.training.program.full_weights().dtype

    @jax.jit
    def each(rows: Float[Array, "perturbation datum"]) -> Float[Array, " perturbation"]:
        return jax.lax.map(lambda new: weigh(new).pareto_k, rows)

    found = np.asarray(each(jnp.atleast_2d(jnp.asarray(weights.values, dtype))))
    return weights.isel(datum=0, drop=True).copy(data=found.reshape(weights.shape[:-1])).rename("k_hat")
