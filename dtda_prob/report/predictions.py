"""What a model predicts for the examples that it is trained on, to be shown beside their targets."""

from collections.abc import Sequence

import jax
import numpy as np
import xarray as xr

from dtda_prob.measures import prediction
from dtda_prob.sampling import sample
from dtda_prob.studies.options import Options
from dtda_prob.studies.run import Where
from dtda_prob.studies.tree import values_of
from dtda_prob.training import Training


def predictions(
    training: Training, num_draws: int, dim: str, classes: Sequence[str] | None
) -> dict[str, xr.DataArray]:
    """Return the mean prediction for each training example: a number, or the likeliest class.

    Args:
        training: of a scalar target, or of classes.
        num_draws: models to average over, a multiple of 4, or of what the kernel keeps of each run.
        dim: the dimension of the examples.
        classes: names of the classes; None for a number.
    """
    program = training.program
    measure = prediction(*program.args, **program.kwargs)
    drawn = sample(
        Training(program, training.kernel, measure),
        jax.random.key(0),
        num_draws,
        options=Options(check=False),
        where=Where(progress=False),
    )
    mean = values_of(drawn).mean(("chain", "draw")).values
    shown = mean if classes is None else np.asarray(classes)[mean.argmax(-1)].astype(str)
    return {"predicted": xr.DataArray(shown, dims=dim)} if shown.ndim == 1 else {}
