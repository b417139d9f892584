"""Linear responses R = d outcome / d weights, and the two directions of each: push and pull."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from dtda_prob.blocks import map_blocks
from dtda_prob.training import Training, each_state
from dtda_prob.transforms.memory import at_once
from dtda_prob.transforms.push_forward import (
    At,
    PushForward,
    Response,
    Space,
    is_at,
    of_queries,
)
from dtda_prob.typing import Outcome, Params, PRNGKey, Queries, Weights

Mover = Callable[[Any, Weights], Params]
"""From a state and new weights to the parameters that it is carried to."""


def _as_point(at: Any) -> Any:
    return at if isinstance(at, str | jax.Array) else np.asarray(at)


class LinearResponse(PushForward):
    """A push-forward by a response operator R. Subclasses define `draw`, whose derivative is R.

    Attributes:
        training: the stochastic kernel.
        at: the weights at which the response is taken; see `unroll`.
        space: the quantity that moves; see `displace`.
        batch_size: the most queries at once in `pull`; those that fit into memory if None.
        factor: multiplies R, such as a factor that `choose` fitted to retrained effects.

    Raises:
        ValueError: if `at` or `space` is unknown.
    """

    at: At = eqx.field(default="centre", converter=_as_point, kw_only=True)
    space: Space = eqx.field(default="outputs", kw_only=True)
    batch_size: int | None = eqx.field(default=None, kw_only=True)
    factor: float = eqx.field(default=1.0, kw_only=True)

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
            change = self.factor * (new - old)
            return self.displace(*jax.jvp(lambda w: self.draw(key, w), (old,), (change,)))
        points = (old + new) / 2 if isinstance(self.at, str) else jnp.asarray(self.at, new.dtype)
        points = jnp.atleast_2d(points)

        def tangent_at(pair: tuple[Weights, Weights]) -> Outcome:
            point, share = pair
            change = self.factor * share * (new - old)
            base, tangent = jax.jvp(lambda w: self.draw(key, w), (point,), (change,))
            return jax.tree.map(_as_number, base, tangent)

        tangents = jax.lax.map(tangent_at, (points, shares(self.training, points)))
        mean = jax.tree.map(lambda leaf: leaf.mean(0), tangents)
        return self.displace(self.training.draw(key, old), mean)

    def pull(self, key: PRNGKey, weights: Weights, queries: Queries | None = None) -> Response:
        """Return R row by row, in reverse mode, at the given weights unless `at` is an array."""
        if isinstance(self.at, str) or jnp.ndim(self.at) == 1:
            point = weights if isinstance(self.at, str) else jnp.asarray(self.at, weights.dtype)
            return self.factor * self._pull_at(key, point, queries)
        points = jnp.asarray(self.at, weights.dtype)

        def weighted(pair: tuple[Weights, Weights]) -> Response:
            return self.factor * self._pull_at(key, pair[0], queries) * pair[1]

        return jax.lax.map(weighted, (points, shares(self.training, points))).mean(0)

    def displace(self, base: Outcome, tangent: Outcome) -> Outcome:
        """Move an outcome along a tangent.

        In space "outputs" the measure's outputs (logits, means) move and the measurement is computed
        from them; in "parameters" the moved model is measured; in "measurement" the measured value
        itself moves. The parameters move in all three cases; the losses along training do not.
        """
        params = _add(base.params, tangent.params)
        if self.space == "parameters":
            outputs, value = each_state(self.training.observe, params)
        else:
            outputs = _add(base.outputs, tangent.outputs)
            moves = self.space == "measurement"
            readout = self.training.measure.readout
            value = _add(base.value, tangent.value) if moves else each_state(readout, outputs)
        return base._replace(params=params, outputs=outputs, value=value)

    def extra_cost(self) -> float:
        """Return the cost of the second training of a push, if R is not taken at the old weights."""
        return 0.0 if is_at(self.at, "old") else 1.0

    def _pull_at(self, key: PRNGKey, point: Weights, queries: Queries | None) -> Response:
        def value_at(weights: Weights) -> Array:
            return of_queries(self.draw(key, weights).value, queries, 1)

        return rows(value_at, point, at_once(self))


class StateByState(PushForward):
    """A push-forward that moves each state of a finished outcome by itself; subclasses define `moved`.

    Its `pull` is the derivative of its `push` at the old weights.

    Attributes:
        training: the stochastic kernel.
        batch_size: the most queries at once in `pull`; those that fit into memory if None.
    """

    batch_size: int | None = eqx.field(default=64, kw_only=True)

    @abstractmethod
    def moved(self, key: PRNGKey, state: Any, old: Weights, new: Weights) -> Params:
        """Return the parameters of one state, carried from the old weights to the new ones."""

    def states(self, key: PRNGKey, outcome: Outcome, weights: Weights) -> Any:
        """Return the states of an outcome at these weights, as `moved` takes them: its parameters."""
        return outcome.params

    def drawn(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Return training's outcome, with all that `states` takes of it."""
        return self.training.draw(key, weights)

    def push(self, key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        """Carry the sample at the old weights."""
        return self.move_states(key, self.drawn(key, old), old, new)

    @property
    def carry(self) -> Callable[[PRNGKey, Outcome, Weights, Weights], Outcome] | None:
        """Return the push of an existing outcome."""
        return self.move_states

    def move_states(self, key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        """Move each state of an outcome, and measure it anew."""
        outcome = jax.lax.stop_gradient(outcome)
        states = jax.lax.stop_gradient(self.states(key, outcome, old))
        mover = self.mover(key, states, old)
        params = each_state(lambda state: mover(state, new), states)
        return self.training.measured(params, outcome.losses, outcome.stats)

    def mover(self, key: PRNGKey, states: Any, old: Weights) -> Mover:
        """Return how a state is carried from the old weights to others, given all states of its run."""
        return lambda state, new: self.moved(key, state, old, new)

    def pull(self, key: PRNGKey, weights: Weights, queries: Queries | None = None) -> Response:
        """Return the derivative of `push` at new = old, in reverse mode."""
        return self.rows_of_states(key, self.drawn(key, weights), weights, queries)

    def rows_of_states(
        self, key: PRNGKey, outcome: Outcome, weights: Weights, queries: Queries | None
    ) -> Response:
        """Return the derivative of what each state is carried to, row by row."""
        states = self.states(key, outcome, weights)
        mover = self.mover(key, states, weights)

        def rows_of_state(state: Any) -> Float[Array, "query *output example"]:
            def value_at(new: Weights) -> Array:
                return of_queries(self.training.observe(mover(state, new))[1], queries, 0)

            return rows(value_at, weights, at_once(self))

        return each_state(rows_of_state, states)


def rows(value_at: Callable[[Weights], Array], point: Weights, batch_size: int) -> Array:
    """Return the Jacobian in reverse mode, `batch_size` rows at a time."""
    value, pullback = jax.vjp(value_at, point)

    def row(index: Int[Array, ""]) -> Weights:
        cotangent = jnp.zeros(value.size, value.dtype).at[index].set(1.0)
        return pullback(cotangent.reshape(value.shape))[0]

    jacobian = map_blocks(row, value.size, batch_size)
    return jacobian.reshape(*value.shape, -1)


def shares(training: Training, points: Float[Array, "point example"]) -> Array:
    """Return how much each point counts for each example in a mean over points.

    A dropped row is never visited, so its derivative at such a point is meaningless: if rows are
    dropped, the mean for an example is over the points that include it.
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
