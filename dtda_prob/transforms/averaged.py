"""The mean of an objective over the states of a run: its curvature is the mean Hessian."""

from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from dtda_prob.module import Module
from dtda_prob.program import Program
from dtda_prob.typing import Params, Weights

LEAST_STATES = 3
"""States of a run that a mean is taken over, at least."""
MOST_STATES = 64
"""States of a run that a curvature is averaged over."""


def mean_program(program: Program, states: Params) -> tuple[Params, Any]:
    """Return the mean of the states of a run, and the mean of the objective over offsets from it."""
    centre = jax.tree.map(lambda leaf: leaf.mean(0), states)
    every = -(-len(jax.tree.leaves(states)[0]) // MOST_STATES)
    return centre, averaged(program, jax.tree.map(lambda x, mean: x[::every] - mean, states, centre))


class averaged(Module):
    """The mean of a program's objective about a point, in the place of the program in a curvature.

    Attributes:
        program: the model and its data.
        offsets: where it is evaluated, stacked, relative to the point.
    """

    program: Program
    offsets: Params

    def objective(self, params: Params, weights: Weights) -> Float[Array, ""]:
        """Return the mean of the objective over the offsets."""
        return jax.vmap(lambda offset: self.program.objective(optax.tree.add(params, offset), weights))(
            self.offsets
        ).mean()

    @property
    def evaluated(self) -> "averaged":
        """The mean itself, in evaluation as in training."""
        return self

    @property
    def has_prior(self) -> bool:
        """Whether anything but the observations enters the objective."""
        return self.program.has_prior

    @property
    def num_data(self) -> int:
        """Number of examples."""
        return self.program.num_data

    @property
    def num_rows(self) -> int:
        """Number of examples that the objective is normalised by."""
        return self.program.num_rows
