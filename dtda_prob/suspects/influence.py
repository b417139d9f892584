"""How far the predictions of a linear fit move without a row: exactly, for all rows at once."""

import numpy as np
from jaxtyping import Float

RIDGE = 1e-3
"""Penalty on squared slopes, in rows: it decides where features do not."""


def influence(
    x: Float[np.ndarray, "row feature"], y: Float[np.ndarray, "row output"]
) -> Float[np.ndarray, " row"]:
    """Return the root mean square change of all predictions without each row, over rows and outputs.

    Predictions are by least squares with a small ridge. Without row i they move by column i of the hat
    matrix times e_i / (1 - h_i), with the row's residual e_i and leverage h_i, as in Cook's distance.
    """
    left, singular, _ = np.linalg.svd(np.column_stack([np.ones(len(x)), x]), full_matrices=False)
    kept = singular**2 / (singular**2 + RIDGE)
    residual = y - left @ (kept[:, None] * (left.T @ y))
    leverage = (left**2 * kept).sum(1)
    length = np.sqrt((left**2 * kept**2).sum(1) / len(x))
    size = np.sqrt((residual**2).mean(1))
    return length * size / (1 - leverage)
