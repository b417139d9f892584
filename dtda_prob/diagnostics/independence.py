"""Does the loss of one example depend on the rows of others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from dtda_prob.compiling import compiled
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, check_key


def independence(program: Program, key: PRNGKey, *, num_rows: int = 4) -> xr.DataArray:
    """Compute how far the loss of each example moves when a row of another is exchanged.

    Weights and removal act on an example's own loss. A model that standardises its inputs by their
    mean, normalises by batch moments or contrasts examples with each other uses the rows of examples
    in other places too: at weight 0 such a row still acts, and no method that changes weights predicts
    what its removal does. Remedy: standardise before the program is made, or normalise within examples.

    Args:
        program: the model and its data.
        key: key of the parameters, and of the choice of rows.
        num_rows: number of rows that are exchanged, one at a time, for the row of another example.

    Returns:
        `(row, example)`: the absolute change of each example's loss at initial parameters, relative to
        the mean absolute loss; NaN for the row's own example. Zero throughout (up to rounding, about
        1e-6) where examples are independent.

    Raises:
        NotImplementedError: if examples share discrete latent sites.
        ValueError: for a bad number of rows.
    """
    check_key(key)
    if not 1 <= num_rows <= program.num_data - 1:
        raise ValueError(f"num_rows={num_rows} must lie between 1 and {program.num_data - 1}")
    init_key, row_key = jax.random.split(key)
    losses, params = compiled(_losses), program.init(init_key)
    before = np.asarray(losses(program, params), float)
    chosen = np.asarray(jax.random.choice(row_key, program.num_data, (num_rows,), replace=False))
    changed = [losses(_exchanged(program, row), params) for row in chosen]
    change = np.abs(np.asarray(changed, float) - before) / np.abs(before).mean()
    change[np.arange(num_rows), chosen] = np.nan
    labels = program.labels[: program.num_data]
    coords = {"row": labels[chosen], "example": labels}
    return xr.DataArray(change, coords, ("row", "example"), name="change")


def _losses(program: Program, params: Params) -> Float[Array, " example"]:
    return program.losses(params)


def _exchanged(program: Program, row: int) -> Program:
    """Return the program with a row of every array exchanged for the next one."""
    other = (row + 1) % program.num_data

    def exchange(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array | np.ndarray) or leaf.shape[:1] != (program.num_data,):
            return leaf
        array = jnp.asarray(leaf)
        new = array.at[row].set(array[other])
        return np.asarray(new) if isinstance(leaf, np.ndarray) else new

    return program.with_data(*jax.tree.map(exchange, (program.args, program.kwargs)))
