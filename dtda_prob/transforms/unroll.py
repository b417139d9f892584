"""Unrolled differentiation: the exact derivative through every step of training."""

from dtda_prob.transforms.push_forward import Cost, check_differentiable
from dtda_prob.transforms.response import LinearResponse
from dtda_prob.typing import Draw


class unroll(LinearResponse):
    """Differentiate training itself with respect to the weights.

    `push` is forward mode and costs about two trainings (three where `at` is not "old"), so for a
    single group of examples retraining is cheaper. `pull` is reverse mode and costs two to three
    trainings per query for the response to all examples at once; its memory grows as the square root
    of the number of steps. The derivative is exact; it is useful if the response is nearly linear in
    the weights over the step of interest. The removal of a whole class or of a large group is outside
    that range: `sample` and `attribute` retrain one draw and warn.

    Attributes:
        training: the stochastic kernel, which must be differentiable (a ValueError otherwise).
        at: the weights at which the response is taken. "centre" means, in `sample` and `attribute`,
            the mean of the weights of all perturbations; in `push`, the midpoint of old and new; in
            `pull`, its weights. "old" and "midpoint" refer to each push. An array `(example,)` gives
            the weights themselves; over several, `(point, example)`, the response is averaged.
        space: the quantity that moves, "outputs", "parameters" or "measurement"; see `displace`.
        batch_size: queries at once in `pull`; all if None.
    """

    def __check_init__(self) -> None:
        check_differentiable(self.training, "unroll")

    @property
    def draw(self) -> Draw:
        """Return training's own draw."""
        return self.training.draw

    @property
    def cost(self) -> Cost:
        num_rows = self.training.kernel.num_states * len(self.training.measure.queries)
        return Cost(2.0 + self.extra_cost(), 2.5 * num_rows)
