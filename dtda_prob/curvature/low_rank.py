"""Spectra known on a few directions, and taken for the prior's alone on all others."""

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dtda_prob.curvature.curvature import Spectrum
from dtda_prob.curvature.filters import Eigenvalues, Filter, Scalar
from dtda_prob.typing import Params


def low_rank(
    values: Eigenvalues, vectors: Float[Array, "rank parameter"], shift: Scalar, params: Params
) -> Spectrum:
    """Give the spectrum of H = V' diag(values) V + shift I, the rows of V orthonormal."""
    unravel = ravel_pytree(params)[1]
    largest = jnp.max(jnp.abs(values)) + shift

    def apply(function: Filter, vector: Params) -> Params:
        flat = ravel_pytree(vector)[0]
        rest = function(shift, largest)
        excess = function(values + shift, largest) - rest
        return unravel(rest * flat + vectors.T @ (excess * (vectors @ flat)))

    return Spectrum(apply, jnp.sum(values) / vectors.shape[1] + shift)
