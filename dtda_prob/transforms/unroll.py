"""Unrolled differentiation: the derivative through every step of training."""

import warnings
from typing import Literal, get_args

import equinox as eqx

from dtda_prob.curvature.matrices import check_features, gauss_newton
from dtda_prob.program.convex import convex
from dtda_prob.transforms.push_forward import Cost, check_differentiable
from dtda_prob.transforms.response import LinearResponse
from dtda_prob.typing import Draw

Second = Literal["hessian", "gauss_newton"]
ROUNDING = (
    "the model computes in less than float32, and an optimizer like Adam divides the rounding of small "
    "gradients by itself: its derivative can be noise of many times the size. Build the network with "
    "dtype=jnp.float32 for attribution, or take dtda.influence"
)


class unroll(LinearResponse):
    """Differentiate training itself with respect to the weights.

    `push` is forward mode and costs about two trainings (three where `at` is not "old"), so for a
    single group of examples retraining is cheaper. `pull` is reverse mode and costs two to three
    trainings per query for the response to all examples at once; its memory grows as the square root
    of the number of steps. The derivative is exact; it is useful if the response is nearly linear in
    the weights over the step of interest. The removal of a whole class or of a large group is outside
    that range: `sample` and `attribute` retrain one draw and warn.

    Where training is unstable (large steps, the edge of stability) exact derivatives grow along
    training, differ between draws by orders, and their mean says little. With
    `matrix="gauss_newton"` each step carries displacements by the Gauss-Newton matrix of its batch in
    place of the Hessian: negative curvature no longer amplifies them. Everything else stays exact, for
    any optimizer: momentum, second moments, clipping, schedules.

    Attributes:
        training: the stochastic kernel, which must be differentiable (a ValueError otherwise).
        matrix: the second derivative of the objective that each step uses, "hessian" or
            "gauss_newton"; a ValueError where the program has no Gauss-Newton matrix (see
            `curvature.gauss_newton`) or the kernel minimises another objective (`svi`).
        at: the weights at which the response is taken. "centre" means, in `sample` and `attribute`,
            the mean of the weights of all perturbations; in `push`, the midpoint of old and new; in
            `pull`, its weights. "old" and "midpoint" refer to each push. An array `(example,)` gives
            the weights themselves; over several, `(point, example)`, the response is averaged.
        space: the quantity that moves, "outputs", "parameters" or "measurement"; see `displace`.
        batch_size: the most queries at once in `pull`; those that fit into memory if None.
    """

    matrix: Second = eqx.field(default="hessian", kw_only=True)

    def __check_init__(self) -> None:
        check_differentiable(self.training, "unroll")
        if self.matrix not in get_args(Second):
            raise ValueError(f"matrix={self.matrix!r} must be one of {[*get_args(Second)]}")
        if self.matrix == "gauss_newton":
            self._check_gauss_newton()
        if self._rounds() and self._rescales():
            warnings.warn(ROUNDING, RuntimeWarning, stacklevel=4)

    @property
    def draw(self) -> Draw:
        """Return training's own draw; its derivative uses the chosen matrix in each step."""
        if self.matrix == "hessian":
            return self.training.draw
        training, program = self.training, self.training.program
        return eqx.tree_at(lambda t: t.program, training, convex(program)).draw

    @property
    def cost(self) -> Cost:
        num_rows = self.training.kernel.num_states * len(self.training.measure.queries)
        return Cost(2.0 + self.extra_cost(), 2.5 * num_rows)

    def _rounds(self) -> bool:
        """Return whether training computes with fewer digits than float32."""
        training = self.training
        return training.program.structure.rounds or any(each.rounds for each in training.kernel.phases)

    def _rescales(self) -> bool:
        """Return whether the optimizer divides gradients by what they have been, as Adam does."""
        try:
            return self.training.kernel.segment_sizes(self.training.program, 1) is None
        except ValueError:
            return True

    def _check_gauss_newton(self) -> None:
        own = [each.own_objective for each in self.training.kernel.phases if each.own_objective]
        if own:
            raise ValueError(
                f"matrix='gauss_newton': the kernel minimises {own[0]}, which has no Gauss-Newton "
                "matrix of the likelihood; use matrix='hessian'"
            )
        check_features(gauss_newton(), self.training.program)
