"""Unrolled differentiation: the exact derivative through every step of training."""

from functools import partial

from dtda_prob.training import Training
from dtda_prob.transforms.push_forward import At, Cost, PushForward, Space
from dtda_prob.transforms.response import check_differentiable, check_options, push_forward


def unroll(
    training: Training,
    *,
    at: At = "centre",
    space: Space = "outputs",
    batch_size: int | None = None,
) -> PushForward:
    """Build the push-forward by differentiating training itself with respect to the weights.

    `push` is forward mode and costs about two trainings (three where `at` is not "old"), so for a
    single group of data retraining is the better buy. `pull` is reverse mode and costs two to three
    trainings per query for the response to all data at once; its memory grows as the square root of
    the number of steps. The derivative is exact, and of use where the response is near linear in
    the weights over the step that is asked for.

    Args:
        training: the stochastic kernel.
        at: where the response is taken. "centre" is the middle of what is asked for: in `sample` and
            `attribute` the mean of the weights of several perturbations, in `push` the midpoint of
            old and new, in `pull` the weights it is given. "old" and "midpoint" are those of each
            push; weights `(datum,)` are taken as they are, and over several, `(point, datum)`, the
            response is averaged.
        space: what is moved, "outputs", "parameters" or "measurement"; see `displace`.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: if `at` or `space` is unknown, or training cannot be differentiated.
    """
    check_options(at, space)
    check_differentiable(training, "unroll")
    num_rows = training.kernel.num_states * len(training.measure.queries)
    return push_forward(
        "unroll",
        training,
        training.draw,
        at,
        space,
        batch_size=batch_size,
        cost=Cost(push=2.0, pull=2.5 * num_rows),
        make=partial(unroll, space=space, batch_size=batch_size),
    )
