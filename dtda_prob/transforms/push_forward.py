"""The interface of a push-forward: its directions and their cost."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dtda_prob.compiling import is_tracer
from dtda_prob.curvature import Curvature
from dtda_prob.curvature.moving import Moving, moving_of
from dtda_prob.module import Module, call, shown
from dtda_prob.training import Training
from dtda_prob.typing import Outcome, Params, PRNGKey, Queries, Weights, check_kind

Space = Literal["outputs", "parameters", "measurement"]
At = Literal["centre", "old", "midpoint"] | Float[Array, "*point example"]
Direction = Literal["push", "pull"]
Response = Float[Array, "state query *output example"]

TRAINING = "dtda.Training(program, kernel)"
SIDE_STREAM = 0x73696465
"""Folded into a draw's key; small numbers could coincide with keys that training itself uses."""


class Cost(NamedTuple):
    """The cost of a push-forward per draw, in trainings; NaN for a direction that it does not have.

    Attributes:
        push: the cost for each pair of old and new weights.
        pull: the cost of the response of all queries to all examples at once. In blocks of queries, the
            work that rows share is repeated for each block.
    """

    push: float
    pull: float


class PushForward(Module):
    """A transform that carries samples of the outcome of training from one dataset to another.

    Subclasses define the `directions` that they have: `push`, or `carry` if a push starts from the
    outcome at the old weights, and `pull`. They are pure functions that can be compiled, mapped over
    keys and differentiated; settings are fields, and `dataclasses.replace` changes them.

    Attributes:
        training: the stochastic kernel whose samples are carried.
    """

    training: Training

    directions: ClassVar[tuple[Direction, ...]] = ("push", "pull")
    """The directions that the transform has."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "PushForward":
        # Before any subclass looks at its training.
        for training in args[:1] or [each for name, each in kwargs.items() if name == "training"]:
            check_kind("training", training, Training, f"a training: {cls.__name__}({TRAINING})")
        return super().__new__(cls)

    def push(self, key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        """Carry the sample at the old weights to approximate the one at the new weights."""
        if self.carry is None:
            raise NotImplementedError(self._lacks("push"))
        return self.carry(key, self.training.draw(key, old), old, new)

    def pull(self, key: PRNGKey, weights: Weights, queries: Queries | None = None) -> Response:
        """Return d value / d weights, shape `(state, query, *output, example)`.

        Args:
            key: the key of the draw.
            weights: where the derivative is taken.
            queries: positions of some queries; all if None.
        """
        raise NotImplementedError(self._lacks("pull"))

    @property
    def carry(self) -> Callable[[PRNGKey, Outcome, Weights, Weights], Outcome] | None:
        """Return the push of an existing outcome `(key, outcome, old, new)`, if it starts from one."""
        return None

    def ready(self, outcome: Outcome, old: Weights) -> Outcome:
        """Return an outcome with what carrying it to any weights takes, to be computed once for all."""
        return outcome

    @property
    def cost(self) -> Cost:
        """Return the cost of both directions."""
        return Cost(float("nan"), float("nan"))

    @property
    def at(self) -> At | None:
        """Return where the response is taken, see `unroll`; None if that has no meaning."""
        return None

    @property
    def curvature(self) -> Curvature | None:
        """Return the curvature that is inverted, if any."""
        return None

    @property
    def weigh(self) -> Callable[[Weights], Any] | None:
        """Return the function from new weights to a weighted population, if there is a population."""
        return None

    @property
    def name(self) -> str:
        """Return the transform and its settings, without the training."""
        settings = {name: value for name, value in shown(self).items() if name != "training"}
        return call(type(self).__name__, **settings)

    def matched(self, num_removed: int, centre: Weights | None = None) -> "PushForward":
        """Return the transform of the kernel that a retraining on perturbed data will run.

        Args:
            num_removed: rows that the retraining drops, so that it takes fewer steps.
            centre: the mean of all new weights; the response is taken there if the transform has
                `at="centre"`.
        """
        training = self.training.drop(num_removed) if num_removed else self.training
        if centre is not None and is_at(self.at, "centre"):
            return replace(self, training=training, at=jnp.asarray(centre))
        return replace(self, training=training) if num_removed else self

    def _lacks(self, direction: Direction) -> str:
        others = " or ".join(f"direction={each!r}" for each in self.directions)
        return f"{type(self).__name__} has no {direction}; use {others}"


class Restricted(PushForward):
    """A push-forward in which only the parameters that training moves take part.

    Attributes:
        training: the stochastic kernel.
        moving: these parameters; all others (frozen by the optimizer, or pretrained) stay fixed.
    """

    moving: Moving = eqx.field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.moving = moving_of(self.training.kernel.moves(self.training.program))

    def change_of_gradient(self, params: Params, weights: Weights) -> Params:
        """Return grad L(params, weights) minus its value: zero, with the derivative d grad L / dw."""
        gradient = self.gradient(params, weights)
        return optax.tree.sub(gradient, jax.lax.stop_gradient(gradient))

    def gradient(self, params: Params, weights: Weights) -> Params:
        """Return grad L(params, weights) with respect to the parameters that move."""

        def objective(part: Params) -> Float[Array, ""]:
            return self.training.program.evaluated.objective(self.moving.whole(part, params), weights)

        return jax.grad(objective)(self.moving.part(params))

    def scale(self, distances: Params) -> Params:
        """Return the unit of each parameter that moves: the root of how far training has moved it.

        Not a number where training has moved none, as if a kernel takes no gradient of the objective.
        """
        squares = jax.tree.map(lambda leaf: jnp.maximum(leaf, 0.0), self.moving.part(distances))
        moved = jnp.stack([leaf.max() for leaf in jax.tree.leaves(squares)]).max() > 0
        return jax.tree.map(lambda leaf: jnp.where(moved, jnp.sqrt(leaf), jnp.nan), squares)

    def added(self, params: Params, step: Params) -> Params:
        """Return the parameters after a step of those that move."""
        return self.moving.whole(optax.tree.add(self.moving.part(params), step), params)


def is_at(at: At | None, name: str) -> bool:
    """Return whether the expansion point is this word; False for an array."""
    return isinstance(at, str) and at == name


def side_key(key: PRNGKey) -> PRNGKey:
    """Return the key of labels, sketches and walks, independent of training's randomness."""
    return jax.random.fold_in(key, SIDE_STREAM)


def of_queries(value: Float[Array, "..."], queries: Queries | None, axis: int) -> Array:
    """Return some queries of a measured value, by position along an axis; all if None."""
    return value if queries is None else jnp.take(value, queries, axis)


def check_posterior(training: Training, name: str) -> float:
    """Return the temperature of the posterior that the kernel draws from.

    Raises:
        ValueError: if it does not draw from one.
    """
    temperature = training.kernel.temperature
    if temperature is None or not (is_tracer(temperature) or temperature > 0):
        raise ValueError(
            f"{name} needs a kernel that draws from a posterior of known temperature, such as "
            "kernels.nuts or kernels.exact, and this one does not; use influence or unroll"
        )
    return temperature


def check_single(training: Training, name: str) -> None:
    """Check that a run keeps one state; raise ValueError if it keeps several."""
    if training.kernel.num_states > 1:
        raise ValueError(
            f"{name} follows training to its end, and the kernel keeps num_states="
            f"{training.kernel.num_states} of each run; keep one, or use influence, which moves each"
        )


def check_differentiable(training: Training, name: str) -> None:
    """Check that training itself has a derivative; raise ValueError otherwise."""
    reason = training.kernel.not_differentiable
    if reason:
        raise ValueError(
            f"{name} differentiates training, and {reason}; use `influence`, which moves each draw, or "
            "`covariance` or `importance`, which need draws from a posterior"
        )
