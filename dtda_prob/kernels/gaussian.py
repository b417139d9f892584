"""A Gaussian draw around a mode, as the Cholesky root of its precision gives it."""

import jax
from jaxtyping import Array, Float

from dtda_prob.typing import PRNGKey


def around(
    key: PRNGKey,
    mode: Float[Array, " parameter"],
    root: Float[Array, "parameter parameter"],
    temperature: float,
) -> Float[Array, " parameter"]:
    """Draw from N(mode, temperature H^-1), where the root is the lower Cholesky factor of H.

    The same key gives the same standard normal noise whatever the mode and the root.
    """
    noise = jax.random.normal(key, mode.shape, mode.dtype)
    spread = jax.scipy.linalg.solve_triangular(root, noise, lower=True, trans="T")
    return mode + temperature**0.5 * spread
