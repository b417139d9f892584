"""One response operator R = d outcome / d weights, and its two directions: push and pull."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from dtda_prob.blocks import map_blocks
from dtda_prob.curvature import Curvature
from dtda_prob.training import Training
from dtda_prob.typing import Draw, Outcome, Params, PRNGKey, Pull, Push, Weights

SIDE_STREAM = 0x73696465
"""Folded into a draw's key. Small numbers would give keys that training itself is split into."""

Space = Literal["outputs", "parameters", "measurement"]
At = Literal["centre", "old", "midpoint"] | Weights | Float[Array, "point datum"]


Move = Callable[[PRNGKey, Params, Weights, Weights], Params]
Carry = Callable[[PRNGKey, Outcome, Weights, Weights], Outcome]


class Cost(NamedTuple):
    """What a push-forward costs per draw, in trainings.

    Attributes:
        push: for each pair of old and new weights.
        pull: for the response of all queries to all data.
    """

    push: float
    pull: float


class AtOutcome(NamedTuple):
    """A draw with the value of training, and at each of its states the derivative of `move`.

    Its weights may be `(state, datum)`: equal rows, which give each state a derivative of its own.

    Attributes:
        training: the stochastic kernel.
        move: `(key, params, here, weights) -> params`, which is `params` where `weights` is `here`.
    """

    training: Training
    move: Move

    def __call__(self, key: PRNGKey, weights: Weights) -> Outcome:
        return self.of_outcome(key, self.training.draw(key, _here(weights)), weights)

    def of_outcome(self, key: PRNGKey, outcome: Outcome, weights: Weights) -> Outcome:
        """Give an outcome at these weights their derivative."""
        outcome, here = jax.lax.stop_gradient(outcome), _here(weights)

        def moved(params: Params, weights: Weights) -> Params:
            return self.move(side_key(key), params, here, weights)

        own = weights_of_states(self.training, weights)
        params = self.training.each_state(moved)(outcome.params, own)
        outputs, value = self.training.observe(params)
        return outcome._replace(params=params, outputs=outputs, value=value)


def _here(weights: Weights) -> Weights:
    return jax.lax.stop_gradient(weights if weights.ndim == 1 else weights[0])


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


@dataclass(frozen=True, eq=False)
class PushForward:
    """A way to carry samples of the outcome from one dataset to another.

    Attributes:
        name: the transform, and the settings it was made with.
        training: the stochastic kernel whose samples it carries.
        push: `(key, old, new) -> outcome`, the sample at `old` carried to approximate one at `new`.
        pull: `(key, weights) -> response`, d value / d weights, shape `(query, *output, datum)`.
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
    extra = 0.0 if _is(at, "old") else 1.0
    from_old = isinstance(draw, AtOutcome) and _is(at, "old")
    carry = _carry_along(training, draw, space) if from_old else None
    return PushForward(
        name=f"{name}(at={at if isinstance(at, str) else 'weights'}, space={space})",
        training=training,
        push=push_of_carry(training, carry) if carry else _push_along(training, draw, at, space),
        pull=_pull_back(training, draw, at, batch_size),
        cost=Cost(cost.push + extra, cost.pull),
        rebuild=lambda other, at: make(other, at=at),
        at=at,
        curvature=curvature,
        carry=carry,
    )


def push_of_carry(training: Training, carry: Carry) -> Push:
    """Give the push that draws at the old weights, and carries the outcome to the new ones."""

    def push(key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        return carry(key, training.draw(key, old), old, new)

    return push


def _carry_along(training: Training, draw: AtOutcome, space: Space) -> Carry:
    def carry(key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        _, tangent = jax.jvp(lambda w: draw.of_outcome(key, outcome, w), (old,), (new - old,))
        return displace(training, outcome, tangent, space)

    return carry


def _push_along(training: Training, draw: Draw, at: At, space: Space) -> Push:
    """Move the outcome at `old` by the response at `at` times `new - old`."""

    def push(key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        if _is(at, "old"):
            base, tangent = jax.jvp(lambda weights: draw(key, weights), (old,), (new - old,))
            return displace(training, base, tangent, space)
        points = jnp.atleast_2d((old + new) / 2 if isinstance(at, str) else jnp.asarray(at, new.dtype))

        def tangent_at(pair: tuple[Weights, Weights]) -> Outcome:
            point, share = pair
            base, tangent = jax.jvp(lambda w: draw(key, w), (point,), (share * (new - old),))
            return jax.tree.map(_as_number, base, tangent)

        tangents = jax.lax.map(tangent_at, (points, _shares(training, points)))
        mean = jax.tree.map(lambda leaf: leaf.mean(0), tangents)
        return displace(training, training.draw(key, old), mean, space)

    return push


def weights_of_states(training: Training, weights: Weights) -> Float[Array, "*state datum"]:
    """Give each state of a run its own copy of the weights, unless there is only one."""
    several = training.kernel.num_states
    if several == 1 or weights.ndim == 2:
        return weights
    return jnp.broadcast_to(weights, (several, *weights.shape))


def _pull_back(training: Training, draw: Draw | AtOutcome, at: At, batch_size: int | None) -> Pull:
    """Give the response row by row, in reverse mode, at the weights given unless `at` is an array."""

    def pull_at(key: PRNGKey, point: Weights) -> Float[Array, "... datum"]:
        own = weights_of_states(training, point) if isinstance(draw, AtOutcome) else point
        return _rows(lambda weights: draw(key, weights).value, own, batch_size)

    def pull(key: PRNGKey, weights: Weights) -> Float[Array, "... datum"]:
        if isinstance(at, str) or jnp.ndim(at) == 1:
            return pull_at(key, weights if isinstance(at, str) else jnp.asarray(at, weights.dtype))
        points = jnp.asarray(at, weights.dtype)
        pairs = points, _shares(training, points)
        return jax.lax.map(lambda pair: pull_at(key, pair[0]) * pair[1], pairs).mean(0)

    return pull


def _shares(training: Training, points: Float[Array, "point datum"]) -> Array:
    """Say how much each point counts for each datum in a mean over points.

    A dropped row is never visited, so that its derivative at such a point says nothing: where rows
    are dropped, the mean is over the points that hold the datum.
    """
    if len(points) == 1 or training.program.num_rows == training.program.num_data:
        return jnp.ones_like(points)
    is_setting = jnp.arange(points.shape[-1]) >= training.program.num_data
    present = ((points != 0) | is_setting).astype(points.dtype)
    return present / jnp.maximum(present.mean(0), 1 / len(points))


def pull_of_push(training: Training, push: Push, batch_size: int | None) -> Pull:
    """Give d push(key, weights, new) / d new at new = weights, in reverse mode, state by state."""

    def pull(key: PRNGKey, weights: Weights) -> Float[Array, "... datum"]:
        own = weights_of_states(training, weights)
        return _rows(lambda new: push(key, weights, new).value, own, batch_size)

    return pull


def _rows(
    value_at: Callable[[Weights], Array], point: Float[Array, "*state datum"], batch_size: int | None
) -> Float[Array, "... datum"]:
    """Give the Jacobian in reverse mode, `batch_size` rows at a time.

    Where states have weights of their own, a row is that of one query for all of them.
    """
    value, pullback = jax.vjp(value_at, point)
    shape = value.shape[point.ndim - 1 :]
    size = math.prod(shape)

    def row(index: Int[Array, ""]) -> Float[Array, "*state datum"]:
        cotangent = jnp.zeros(size, value.dtype).at[index].set(1.0)
        return pullback(jnp.broadcast_to(cotangent.reshape(shape), value.shape))[0]

    rows = map_blocks(row, size, batch_size or size)
    return jnp.moveaxis(rows, 0, -2).reshape(*value.shape, point.shape[-1])


def displace(training: Training, base: Outcome, tangent: Outcome, space: Space) -> Outcome:
    """Move an outcome along a tangent.

    In space "outputs" the measure's outputs (logits, means) move and the measurement is read off
    them; in "parameters" the parameters move and the measurement is taken of the moved model; in
    "measurement" the measurement itself moves. The parameters move in all three; the trace is that
    of the run the sample came from.
    """
    params = _move(base.params, tangent.params)
    if space == "parameters":
        outputs, value = training.observe(params)
    else:
        outputs = _move(base.outputs, tangent.outputs)
        moved = space == "measurement"
        value = _move(base.value, tangent.value) if moved else training.readout(outputs)
    return base._replace(params=params, outputs=outputs, value=value)


def side_key(key: PRNGKey) -> PRNGKey:
    """Give the randomness of labels, sketches and walks: it shares nothing with training's."""
    return jax.random.fold_in(key, SIDE_STREAM)


def check_differentiable(training: Training, name: str) -> None:
    """Refuse a transform that differentiates training itself, where training has no derivative.

    Raises:
        ValueError: if a phase of the kernel cannot be differentiated.
    """
    if training.kernel.no_derivative:
        raise ValueError(
            f"{name} differentiates training, and {training.kernel.no_derivative}; take `influence`, "
            "which moves each draw, or `covariance` or `reweigh`, which need draws from a posterior"
        )


def check_posterior(training: Training, name: str) -> float:
    """Give the temperature of the posterior that the kernel draws from.

    Raises:
        ValueError: if it draws from none.
    """
    temperature = training.kernel.phases[-1].temperature
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


def _is(at: At, name: str) -> bool:
    return isinstance(at, str) and at == name


def _as_number(base: Array, tangent: Array) -> Array:
    return jnp.zeros(base.shape) if tangent.dtype == jax.dtypes.float0 else tangent


def _move(tree: PyTree, tangent: PyTree) -> PyTree:
    def move(x: Array, t: Array) -> Array:
        return x if t.dtype == jax.dtypes.float0 else x + t.astype(x.dtype)

    return jax.tree.map(move, tree, tangent)
