"""What the solve of a curvature leaves over, measured without retraining."""

import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from dtda_prob.curvature import Curvature
from dtda_prob.curvature.matrices import resolve
from dtda_prob.curvature.quadratic import Quadratic
from dtda_prob.diagnostics.slopes import map_slopes
from dtda_prob.studies.source import draw_keys
from dtda_prob.training import Training
from dtda_prob.transforms.push_forward import side_key
from dtda_prob.typing import Params, PRNGKey, check_key


def residuals(training: Training, curvature: Curvature, key: PRNGKey) -> xr.DataArray:
    """Give |(H + damping I) x - v| / |v| of each query, v the gradient of its measurement.

    H is the curvature's whole matrix, by its products, and x what the curvature gives for its inverse:
    the residual tells what an iteration has left, and what an approximation gives away. It needs no
    retraining; 0 is exact, and above 1 the solution is worse than none.

    Args:
        training: the stochastic kernel.
        curvature: with a damping that is a number or "auto".
        key: key of one draw.

    Raises:
        ValueError: if the curvature has no matrix, or its damping is relative.
    """
    check_key(key)
    if curvature.matrix is None:
        raise ValueError(f"{curvature} has no matrix, so that it leaves no residual")
    matrix, damping = resolve(curvature.matrix), curvature.damping_after(training.total_step_size)
    curvature.check(training.program)
    ending, weights = training.single(), training.program.full_weights()

    @jax.jit
    def measure(key: PRNGKey) -> Float[Array, "query *output"]:
        params = ending.draw(key, weights).params
        h = Quadratic(training.program, matrix, side_key(key), params, weights)
        spectrum = curvature.decompose(h)
        inverse = curvature.inverse(spectrum, params, training.total_step_size)

        def residual(slope: Params) -> Float[Array, ""]:
            found = spectrum.apply(inverse, slope)
            left = optax.tree.sub(optax.tree.add_scale(h.product(found), damping, found), slope)
            return optax.tree.norm(left) / optax.tree.norm(slope)

        return map_slopes(residual, ending, params)

    found = np.asarray(measure(draw_keys(key, 1)[0]))
    dims = ("query", "output")[: found.ndim]
    return xr.DataArray(found, {"query": training.measure.queries}, dims, name="residual")
