"""One response operator R = d outcome / d weights, and its two directions: push and pull."""

from collections.abc import Callable

import jax.numpy as jnp

from dtda_prob.curvature import Curvature
from dtda_prob.training import Training
from dtda_prob.transforms.at_outcome import AtOutcome
from dtda_prob.transforms.pulling import pull_back
from dtda_prob.transforms.push_forward import At, Cost, PushForward, Space
from dtda_prob.transforms.pushing import carry_along, is_at, push_along, push_of_carry
from dtda_prob.typing import Draw


def push_forward(
    name: str,
    training: Training,
    draw: Draw | AtOutcome,
    at: At,
    space: Space,
    *,
    batch_size: int | None,
    cost: Cost,
    make: Callable[..., PushForward],
    curvature: Curvature | None = None,
) -> PushForward:
    """Build both directions from a draw whose value is training's, and whose derivative is R.

    Args:
        name: what the transform is called.
        training: the stochastic kernel.
        draw: its draw, or one with the same value and another derivative; an `AtOutcome` where that is
            a derivative of each outcome by itself.
        at: where the response is taken.
        space: what is moved; see `displace`.
        batch_size: queries at once in `pull`.
        cost: what it costs where the response is taken at the old weights.
        make: `(training, at=) -> transform`, to rebuild it.
        curvature: what it inverts, if anything.
    """
    extra = 0.0 if is_at(at, "old") else 1.0
    from_old = isinstance(draw, AtOutcome) and is_at(at, "old")
    carry = carry_along(training, draw, space) if from_old else None
    return PushForward(
        name=f"{name}(at={at if isinstance(at, str) else 'weights'}, space={space})",
        training=training,
        push=push_of_carry(training, carry) if carry else push_along(training, draw, at, space),
        pull=pull_back(training, draw, at, batch_size),
        cost=Cost(cost.push + extra, cost.pull),
        rebuild=lambda other, at: make(other, at=at),
        at=at,
        curvature=curvature,
        carry=carry,
    )


def check_differentiable(training: Training, name: str) -> None:
    """Refuse a transform that differentiates training itself, where training has no derivative.

    Raises:
        ValueError: if a phase of the kernel cannot be differentiated.
    """
    if training.kernel.not_differentiable:
        raise ValueError(
            f"{name} differentiates training, and {training.kernel.not_differentiable}; take "
            "`influence`, which moves each draw, or `covariance` or `reweigh`, which need draws from a "
            "posterior"
        )


def check_posterior(training: Training, name: str) -> float:
    """Give the temperature of the posterior that the kernel draws from.

    Raises:
        ValueError: if it draws from none.
    """
    temperature = training.kernel.temperature
    if not temperature:
        raise ValueError(
            f"{name} needs a kernel that draws from a posterior of known temperature, such as "
            "kernels.nuts or kernels.exact, and this one does not; take influence or unroll"
        )
    return temperature


def check_single(training: Training, name: str) -> None:
    """Refuse a transform that follows a run to its end, where several states are outcomes.

    Raises:
        ValueError: if the kernel keeps several states.
    """
    if training.kernel.num_states > 1:
        raise ValueError(
            f"{name} follows training to its end, and the kernel keeps num_states="
            f"{training.kernel.num_states} of each run; keep one, or take influence, which moves each"
        )


def check_options(at: At, space: Space = "outputs") -> None:
    """Refuse unknown options.

    Raises:
        ValueError: if `at` or `space` is not one of those listed.
    """
    named = at in ("centre", "old", "midpoint") if isinstance(at, str) else jnp.ndim(at) in (1, 2)
    if not named:
        raise ValueError(
            f"at={at!r} must be 'centre', 'old', 'midpoint', an array of weights (datum,) or several "
            "(point, datum), over which responses are averaged"
        )
    if space not in ("outputs", "parameters", "measurement"):
        raise ValueError(f"space={space!r} must be 'outputs', 'parameters' or 'measurement'")
