"""What a push-forward is: its two directions, what they cost, and where its response is taken."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from dtda_prob.curvature import Curvature
from dtda_prob.displays import Displayed
from dtda_prob.training import Training
from dtda_prob.typing import Outcome, Params, PRNGKey, Pull, Push, Weights

Space = Literal["outputs", "parameters", "measurement"]
At = Literal["centre", "old", "midpoint"] | Weights | Float[Array, "point datum"]

Carry = Callable[[PRNGKey, Outcome, Weights, Weights], Outcome]


class Cost(NamedTuple):
    """What a push-forward costs per draw, in trainings.

    Attributes:
        push: for each pair of old and new weights.
        pull: for the response of all queries to all data at once; in blocks of queries, what their rows
            have in common is paid for each.
    """

    push: float
    pull: float


class Weighed(NamedTuple):
    """Draws of a posterior, weighed for other data.

    Attributes:
        params: the draws, run after run, moved to match moments where that was asked for and helps.
        log_weights: smoothed and normalised log importance weights.
        pareto_k: the shape of their tail; estimates are reliable below 0.7.
        log_mean: log of the mean importance ratio before smoothing.
        shift: by how much draws were moved, after scaling.
        scale: by how much they were scaled.
    """

    params: Params
    log_weights: Float[Array, " draw"]
    pareto_k: Float[Array, ""]
    log_mean: Float[Array, ""]
    shift: Params
    scale: Params


@dataclass(frozen=True, eq=False, repr=False)
class PushForward(Displayed):
    """A way to carry samples of the outcome from one dataset to another.

    Attributes:
        name: the transform, and the settings it was made with.
        training: the stochastic kernel whose samples it carries.
        push: `(key, old, new) -> outcome`, the sample at `old` carried to approximate one at `new`.
        pull: `(key, weights, queries=None) -> response`, d value / d weights, shape
            `(*state, query, *output, datum)`, of all queries or of those at some positions.
        cost: what both cost, in trainings.
        rebuild: make the same transform of another training, expanded at other weights.
        at: where the response is taken, see `unroll`; None where that has no meaning.
        curvature: what it inverts, if anything.
        carry: `(key, outcome, old, new) -> outcome`, the push of an outcome that is there already,
            where a push starts from the outcome at the old weights.
        weigh: `(new) -> population`, the importance weights of the population, if it has any.
    """

    name: str
    training: Training
    push: Push
    pull: Pull
    cost: Cost
    rebuild: Callable[[Training, At | None], "PushForward"]
    at: At | None = None
    curvature: Curvature | None = None
    carry: Carry | None = None
    weigh: Callable[[Weights], Weighed] | None = None

    def facts(self) -> dict[str, object]:
        """Give what is shown of it."""
        cost = f"{self.cost.push:.3g} trainings a push, {self.cost.pull:.3g} a pull of all queries"
        return {"transform": self.name, "cost of a draw": cost, "training": self.training}

    def matched(self, num_removed: int, centre: Weights | None = None) -> "PushForward":
        """Give the transform of the kernel that a retraining on perturbed data really runs.

        Args:
            num_removed: rows that the retraining drops, so that it takes fewer steps.
            centre: the mean of the weights that are asked for together, where the response is taken
                if the transform was made `at="centre"`.
        """
        moves = centre is not None and isinstance(self.at, str) and self.at == "centre"
        if num_removed == 0 and not moves:
            return self
        training = self.training.drop(num_removed) if num_removed else self.training
        return self.rebuild(training, jnp.asarray(centre) if moves else self.at)
