"""How far each parameter moves in training if its gradient is larger by 1 throughout.

For SGD it is the total step size, the same for all parameters; for Adam it is the sum over the steps of
rate over root of second moment. It is measured along the run itself, for any algorithm that takes
gradients of the program's objective.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dtda_prob.kernels.held import Slopes, carried, filled, held_jvp
from dtda_prob.kernels.kernel import State, Step
from dtda_prob.kernels.wrappers import PhaseWrapper, Wrapper
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights

DISTANCE = "distance"
"""The statistic of a state that holds its distances."""


class with_distances(Wrapper):
    """Measure the distances of a run beside it, which itself stays the same.

    They are the `DISTANCE` among the statistics of each state: the sum over the steps up to it of the
    derivative of the step along a constant change of the gradient, with momentum, schedules, bias
    correction and weight decay as they are. Second moments and clipping factors are held; see `held`.
    """

    @property
    def phases(self) -> tuple["Measured", ...]:
        """Return the phases, with the distances in their states."""
        return tuple(Measured(phase) for phase in self.kernel.phases)


class MeasuredState(NamedTuple):
    """The state of a phase, its slopes along the change of the gradient, and the distance before it."""

    inner: Any
    slopes: Slopes
    before: Params

    @property
    def params(self) -> Params:
        """Return the parameters."""
        return self.inner.params

    @property
    def distance(self) -> Params:
        """Return how far each parameter has moved."""
        leaves, structure = jax.tree.flatten(self.inner)
        zeros = (0 * x if eqx.is_inexact_array(x) else x for x in leaves)
        pairs = zip(zeros, self.slopes, strict=True)
        slopes = structure.unflatten([x if slope is None else slope for x, slope in pairs])
        return optax.tree.sub(self.before, slopes.params)


class Measured(PhaseWrapper):
    """A phase that carries the derivative of its state along a constant change of the gradient."""

    def init(self, previous: State, program: Program) -> MeasuredState:
        earlier = isinstance(previous, MeasuredState)
        inner = self.phase.init(previous.inner if earlier else previous, program)
        before = previous.distance if earlier else optax.tree.zeros_like(inner.params)
        key, weights = jax.random.key(0), program.full_weights()

        def step(inner: Any, tilt: Params) -> tuple[Any, None]:
            return self._tilted_step(key, inner, tilt, program, weights)[0], None

        flags, _ = carried(step, inner, inner.params)
        return MeasuredState(inner, filled(inner, [None] * len(flags), flags), before)

    def step(self, key: PRNGKey, state: MeasuredState, program: Program, weights: Weights) -> Step:
        step = lambda pair: self._tilted_step(key, *pair, program, weights)  # noqa: E731
        nothing = optax.tree.zeros_like(state.params)
        slopes = [*state.slopes, *map(jnp.ones_like, jax.tree.leaves(nothing))]
        (inner, loss), moved = held_jvp(step, (state.inner, nothing), slopes)
        flags = [slope is not None for slope in state.slopes]
        return state._replace(inner=inner, slopes=filled(inner, moved[:-1], flags)), loss

    def _tilted_step(
        self, key: PRNGKey, inner: Any, tilt: Params, program: Program, weights: Weights
    ) -> Step:
        other: Any = tilted(program, tilt)
        return self.phase.step(key, inner, other, weights)

    def stats(self, state: MeasuredState) -> dict[str, Any]:
        return self.phase.stats(state.inner) | {DISTANCE: state.distance}


class tilted:
    """A program whose gradient is larger by a constant, and does not change with the parameters.

    Attributes:
        program: the model and its data.
        tilt: what is added to the gradient.
    """

    def __init__(self, program: Program, tilt: Params):
        self.program, self.tilt = program, tilt

    def __getattr__(self, name: str) -> Any:
        return getattr(self.program, name)

    def cast(self, dtype: DTypeLike) -> "tilted":
        """Return it with the objective in another precision."""
        return tilted(self.program.cast(dtype), self.tilt)

    def objective(self, params: Params, *args: Any, **kwargs: Any) -> Float[Array, ""]:
        """Return the objective to first order about the parameters, as they are."""
        here = jax.lax.stop_gradient(params)
        value, slope = jax.value_and_grad(self.program.objective)(here, *args, **kwargs)
        away = optax.tree.sub(params, here)
        return value + optax.tree.sum(optax.tree.mul(optax.tree.add(slope, self.tilt), away))

    def value_and_grad(
        self, params: Params, *args: Any, **kwargs: Any
    ) -> tuple[Float[Array, ""], Params, Params]:
        """Return the objective, its gradient, larger by the constant, and the state of layers."""
        here = jax.lax.stop_gradient(params)
        value, slope, left = self.program.value_and_grad(here, *args, **kwargs)
        return value, optax.tree.add(slope, self.program.trained(self.tilt)), left
