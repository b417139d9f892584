"""Linear responses R = d outcome / d weights, and the two directions of each: push and pull."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from dtda_prob.blocks import map_blocks
from dtda_prob.training import Training
from dtda_prob.transforms.push_forward import (
    At,
    PushForward,
    Response,
    Space,
    is_at,
    of_queries,
    weights_of_states,
)
from dtda_prob.typing import Outcome, PRNGKey, Queries, Weights


def _as_point(at: Any) -> Any:
    return at if isinstance(at, str | jax.Array) else np.asarray(at)


class LinearResponse(PushForward):
    """A push-forward by a response operator R. Subclasses define `draw`, whose derivative is R.

    Attributes:
        training: the stochastic kernel.
        at: where the response is taken; see `unroll`.
        space: the quantity that moves; see `displace`.
        batch_size: queries at once in `pull`; all if None.

    Raises:
        ValueError: if `at` or `space` is unknown.
    """

    at: At = eqx.field(default="centre", converter=_as_point, kw_only=True)
    space: Space = eqx.field(default="outputs", kw_only=True)
    batch_size: int | None = eqx.field(default=None, kw_only=True)

    by_state: ClassVar[bool] = False
    """Whether each state of a run has a derivative of its own, `draw` taking weights for each."""

    def __check_init__(self) -> None:
        known = ("centre", "old", "midpoint")
        if not (self.at in known if isinstance(self.at, str) else jnp.ndim(self.at) in (1, 2)):
            raise ValueError(
                f"at={self.at!r} must be 'centre', 'old', 'midpoint', an array of weights (example,), "
                "or several (point, example), over which responses are averaged"
            )
        if self.space not in ("outputs", "parameters", "measurement"):
            raise ValueError(f"space={self.space!r} must be 'outputs', 'parameters' or 'measurement'")

    @abstractmethod
    def draw(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Return training's outcome, with R for its derivative."""

    def push(self, key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        """Move the outcome at the old weights by R times the change of weights."""
        if is_at(self.at, "old"):
            return self.displace(*jax.jvp(lambda w: self.draw(key, w), (old,), (new - old,)))
        points = (old + new) / 2 if isinstance(self.at, str) else jnp.asarray(self.at, new.dtype)
        points = jnp.atleast_2d(points)

        def tangent_at(pair: tuple[Weights, Weights]) -> Outcome:
            point, share = pair
            base, tangent = jax.jvp(lambda w: self.draw(key, w), (point,), (share * (new - old),))
            return jax.tree.map(_as_number, base, tangent)

        tangents = jax.lax.map(tangent_at, (points, shares(self.training, points)))
        mean = jax.tree.map(lambda leaf: leaf.mean(0), tangents)
        return self.displace(self.training.draw(key, old), mean)

    def pull(self, key: PRNGKey, weights: Weights, queries: Queries | None = None) -> Response:
        """Return R row by row, in reverse mode, at the given weights unless `at` is an array."""
        if isinstance(self.at, str) or jnp.ndim(self.at) == 1:
            point = weights if isinstance(self.at, str) else jnp.asarray(self.at, weights.dtype)
            return self._pull_at(key, point, queries)
        points = jnp.asarray(self.at, weights.dtype)

        def weighted(pair: tuple[Weights, Weights]) -> Response:
            return self._pull_at(key, pair[0], queries) * pair[1]

        return jax.lax.map(weighted, (points, shares(self.training, points))).mean(0)

    def displace(self, base: Outcome, tangent: Outcome) -> Outcome:
        """Move an outcome along a tangent.

        In space "outputs" the measure's outputs (logits, means) move and the measurement is computed
        from them; in "parameters" the parameters move and the moved model is measured; in "measurement"
        the measured value itself moves. The parameters move in all three; the losses along training
        stay those of the base.
        """
        params = _add(base.params, tangent.params)
        if self.space == "parameters":
            outputs, value = self.training.observe(params)
        else:
            outputs = _add(base.outputs, tangent.outputs)
            moves = self.space == "measurement"
            value = _add(base.value, tangent.value) if moves else self.training.readout(outputs)
        return base._replace(params=params, outputs=outputs, value=value)

    def extra_cost(self) -> float:
        """Return the cost of a push's second training, where R is not taken at the old weights."""
        return 0.0 if is_at(self.at, "old") else 1.0

    def _pull_at(self, key: PRNGKey, point: Weights, queries: Queries | None) -> Response:
        own = weights_of_states(self.training, point) if self.by_state else point

        def value_at(weights: Float[Array, "*state example"]) -> Array:
            return of_queries(self.training, self.draw(key, weights).value, queries)

        return rows(value_at, own, self.batch_size)


def rows(
    value_at: Callable[[Weights], Array], point: Float[Array, "*state example"], batch_size: int | None
) -> Response:
    """Return the Jacobian in reverse mode, `batch_size` rows at a time.

    Where states have weights of their own, a row belongs to one query of every state.
    """
    value, pullback = jax.vjp(value_at, point)
    shape = value.shape[point.ndim - 1 :]
    size = math.prod(shape)

    def row(index: Int[Array, ""]) -> Float[Array, "*state example"]:
        cotangent = jnp.zeros(size, value.dtype).at[index].set(1.0)
        return pullback(jnp.broadcast_to(cotangent.reshape(shape), value.shape))[0]

    jacobian = map_blocks(row, size, batch_size or size)
    return jnp.moveaxis(jacobian, 0, -2).reshape(*value.shape, point.shape[-1])


def rows_of_push(
    push_forward: PushForward,
    key: PRNGKey,
    weights: Weights,
    queries: Queries | None,
    batch_size: int | None,
) -> Response:
    """Return d push(key, weights, new) / d new at new = weights, in reverse mode, state by state."""
    training = push_forward.training

    def value_at(new: Float[Array, "*state example"]) -> Array:
        return of_queries(training, push_forward.push(key, weights, new).value, queries)

    return rows(value_at, weights_of_states(training, weights), batch_size)


def shares(training: Training, points: Float[Array, "point example"]) -> Array:
    """Return how much each point counts for each example in a mean over points.

    A dropped row is never visited, so that its derivative at such a point means nothing: where rows
    are dropped, the mean is over the points that hold the example.
    """
    program = training.program
    if len(points) == 1 or program.num_rows == program.num_data:
        return jnp.ones_like(points)
    is_setting = jnp.arange(points.shape[-1]) >= program.num_data
    present = ((points != 0) | is_setting).astype(points.dtype)
    return present / jnp.maximum(present.mean(0), 1 / len(points))


def _as_number(base: Array, tangent: Array) -> Array:
    return jnp.zeros(base.shape) if tangent.dtype == jax.dtypes.float0 else tangent


def _add(tree: PyTree, tangent: PyTree) -> PyTree:
    def add(x: Array, t: Array) -> Array:
        return x if t.dtype == jax.dtypes.float0 else x + t.astype(x.dtype)

    return jax.tree.map(add, tree, tangent)
