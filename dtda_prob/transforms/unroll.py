"""Unrolled differentiation: the exact derivative through every step of training."""

from dtda_prob.training import Training
from dtda_prob.transforms.response import (
    At,
    Cost,
    PushForward,
    Space,
    check_options,
    describe,
    is_old,
    pull_back,
    push_along,
)


def unroll(
    training: Training,
    *,
    at: At = "old",
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
        at: where the derivative is taken: at the "old" weights, at the "midpoint" of old and new,
            or at given weights. `pull` takes it at the weights it is given unless `at` is an array.
        space: what is moved, "outputs", "parameters" or "measurement"; see `displace`.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: if `at` or `space` is unknown.
    """
    check_options(at, space)
    num_queries = len(training.measure.queries)
    return PushForward(
        name=describe("unroll", at, space),
        training=training,
        push=push_along(training, training.draw, at, space),
        pull=pull_back(training.draw, at, batch_size),
        cost=Cost(push=2.0 if is_old(at) else 3.0, pull=2.5 * num_queries),
        rebuild=lambda other: unroll(other, at=at, space=space, batch_size=batch_size),
    )
