"""Outcomes of training that are given a derivative of their own."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dtda_prob.training import Training
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights

SIDE_STREAM = 0x73696465
"""Folded into a draw's key. Small numbers would give keys that training itself is split into."""

Move = Callable[[PRNGKey, Params, Weights, Weights], Params]


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


def weights_of_states(training: Training, weights: Weights) -> Float[Array, "*state datum"]:
    """Give each state of a run its own copy of the weights, unless there is only one."""
    several = training.kernel.num_states
    if several == 1 or weights.ndim == 2:
        return weights
    return jnp.broadcast_to(weights, (several, *weights.shape))


def side_key(key: PRNGKey) -> PRNGKey:
    """Give the randomness of labels, sketches and walks: it shares nothing with training's."""
    return jax.random.fold_in(key, SIDE_STREAM)
