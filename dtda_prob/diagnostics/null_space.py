"""How much of a measurement lies where the curvature is flat, and influence is a matter of damping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from dtda_prob.curvature import Curvature
from dtda_prob.curvature.curvature import Spectrum
from dtda_prob.curvature.filters import NullSpace
from dtda_prob.diagnostics.slopes import map_slopes
from dtda_prob.studies.source import draw_keys
from dtda_prob.training import Training
from dtda_prob.transforms.push_forward import side_key
from dtda_prob.typing import Params, PRNGKey, check_key

EVERYTHING = NullSpace(float("inf"))
"""The filter that keeps every vector as it is."""


def null_space(
    training: Training,
    curvature: Curvature,
    key: PRNGKey,
    *,
    num_draws: int = 4,
    rtol: float | None = None,
) -> xr.Dataset:
    """Give |P0 g|^2 / |g|^2 of each query, g the gradient of its measurement.

    P0 projects on the eigenvectors of the curvature whose eigenvalues are, in size, at most `rtol`
    times the largest. Along them the objective is flat: nothing brings parameters back, so that where
    they end depends on the run, and what a response says of them is the damping's doing, or nothing
    where there is none. Costs a training and a decomposition a draw, and a product a query.

    Args:
        training: the stochastic kernel.
        curvature: one that can apply any function of its eigenvalues. For `lanczos` and `nystroem`
            all that they have not captured counts as flat, up to the prior's curvature.
        key: key of the draws.
        num_draws: number of draws.
        rtol: relative cutoff; that of the curvature's own pseudo-inverse if None.

    Returns:
        `share`, per draw and query (NaN where a gradient is zero), and `random_share`, per draw, that
        of a random direction, which is about the share of dimensions that are flat.

    Raises:
        ValueError: if the curvature can apply inverses alone, or works between random directions.
    """
    check_key(key)
    if curvature.inverse_only:
        raise ValueError(
            f"curvature={curvature} can apply inverses alone, and the projection on its null "
            "space is none; take dense or gram (factorization='eigen'), kronecker, lanczos, nystroem, "
            "block_diagonal or diagonal"
        )
    curvature.check(training.program)
    ending = training.single()
    weights = training.program.full_weights()

    @jax.jit
    def measure(key: PRNGKey) -> tuple[Float[Array, "query *output"], Array, Array]:
        params = ending.draw(key, weights).params
        spectrum = curvature.at(training.program, side_key(key), params, weights)
        flat = NullSpace(curvature.cutoff(params) if rtol is None else rtol)
        # Sketches start from the side key itself, and would know a probe that was drawn with it.
        probe_key = jax.random.fold_in(side_key(key), 1)
        probe = optax.tree.random_like(probe_key, params, jax.random.normal)
        shares = map_slopes(lambda slope: _share(spectrum, flat, slope), ending, params)
        return shares, _share(spectrum, flat, probe), _loss(spectrum, probe)

    found = [np.asarray(part) for part in jax.lax.map(measure, draw_keys(key, num_draws))]
    if (found[2] > 1e-2).any():
        raise ValueError(
            f"curvature={curvature} works between random directions and has no eigenvalues on all "
            "parameters, so no null space either; take dense, gram, kronecker, lanczos or nystroem"
        )
    dims = ("draw", "query", "output")[: found[0].ndim]
    return xr.Dataset(
        {"share": (dims, found[0]), "random_share": ("draw", found[1])},
        {"query": training.measure.queries},
        attrs={"curvature": repr(curvature)},
    )


def _share(spectrum: Spectrum, flat: NullSpace, vector: Params) -> Float[Array, ""]:
    part = spectrum.apply(flat, vector)
    return jnp.asarray(optax.tree.norm(part, squared=True) / optax.tree.norm(vector, squared=True))


def _loss(spectrum: Spectrum, vector: Params) -> Float[Array, ""]:
    """Say how much of a vector is lost where every eigenvalue is kept."""
    kept = spectrum.apply(EVERYTHING, vector)
    return jnp.asarray(optax.tree.norm(optax.tree.sub(kept, vector)) / optax.tree.norm(vector))
