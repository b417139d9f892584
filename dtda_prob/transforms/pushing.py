"""The forward direction: outcomes that are carried along a response, or moved by it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dtda_prob.training import Training
from dtda_prob.transforms.at_outcome import AtOutcome
from dtda_prob.transforms.push_forward import At, Carry, Space
from dtda_prob.typing import Draw, Outcome, PRNGKey, Push, Weights


def push_of_carry(training: Training, carry: Carry) -> Push:
    """Give the push that draws at the old weights, and carries the outcome to the new ones."""

    def push(key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        return carry(key, training.draw(key, old), old, new)

    return push


def carry_along(training: Training, draw: AtOutcome, space: Space) -> Carry:
    """Move an outcome that is there already by the response at its own weights."""

    def carry(key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        _, tangent = jax.jvp(lambda w: draw.of_outcome(key, outcome, w), (old,), (new - old,))
        return displace(training, outcome, tangent, space)

    return carry


def push_along(training: Training, draw: Draw, at: At, space: Space) -> Push:
    """Move the outcome at `old` by the response at `at` times `new - old`."""

    def push(key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        if is_at(at, "old"):
            base, tangent = jax.jvp(lambda weights: draw(key, weights), (old,), (new - old,))
            return displace(training, base, tangent, space)
        points = jnp.atleast_2d((old + new) / 2 if isinstance(at, str) else jnp.asarray(at, new.dtype))

        def tangent_at(pair: tuple[Weights, Weights]) -> Outcome:
            point, share = pair
            base, tangent = jax.jvp(lambda w: draw(key, w), (point,), (share * (new - old),))
            return jax.tree.map(_as_number, base, tangent)

        tangents = jax.lax.map(tangent_at, (points, shares(training, points)))
        mean = jax.tree.map(lambda leaf: leaf.mean(0), tangents)
        return displace(training, training.draw(key, old), mean, space)

    return push


def shares(training: Training, points: Float[Array, "point datum"]) -> Array:
    """Say how much each point counts for each datum in a mean over points.

    A dropped row is never visited, so that its derivative at such a point says nothing: where rows
    are dropped, the mean is over the points that hold the datum.
    """
    if len(points) == 1 or training.program.num_rows == training.program.num_data:
        return jnp.ones_like(points)
    is_setting = jnp.arange(points.shape[-1]) >= training.program.num_data
    present = ((points != 0) | is_setting).astype(points.dtype)
    return present / jnp.maximum(present.mean(0), 1 / len(points))


def displace(training: Training, base: Outcome, tangent: Outcome, space: Space) -> Outcome:
    """Move an outcome along a tangent.

    In space "outputs" the measure's outputs (logits, means) move and the measurement is read off
    them; in "parameters" the parameters move and the measurement is taken of the moved model; in
    "measurement" the measurement itself moves. The parameters move in all three; the losses are those
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


def is_at(at: At, name: str) -> bool:
    """Say whether the response is taken where this word says, which an array never is."""
    return isinstance(at, str) and at == name


def _as_number(base: Array, tangent: Array) -> Array:
    return jnp.zeros(base.shape) if tangent.dtype == jax.dtypes.float0 else tangent


def _move(tree: PyTree, tangent: PyTree) -> PyTree:
    def move(x: Array, t: Array) -> Array:
        return x if t.dtype == jax.dtypes.float0 else x + t.astype(x.dtype)

    return jax.tree.map(move, tree, tangent)
