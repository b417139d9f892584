"""Retraining, which is the exact push-forward, and a short training from each sample."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dtda_prob import kernels
from dtda_prob.blocks import map_blocks
from dtda_prob.transforms.push_forward import Cost, PushForward, Response, of_queries, side_key
from dtda_prob.transforms.response import StateByState
from dtda_prob.typing import Params, PRNGKey, Push, Queries, Weights


class retrain(PushForward):
    """Train again with the same key at the new weights: the exact push-forward.

    Its `pull` is the finite effect of one whole step per example: value(w) - value(w - e_k), or
    value(w + e_k) - value(w) if w_k < 1. It costs one training per example.

    Attributes:
        training: the stochastic kernel.
        batch_size: trainings at once in `pull`.
    """

    batch_size: int = eqx.field(default=64, kw_only=True)

    def __check_init__(self) -> None:
        if self.training.kernel.num_runs is not None:
            raise ValueError(f"retrain trains again, and {self.training.kernel.not_differentiable}")

    @property
    def push(self) -> Push:
        """Return training's own push: a draw at the new weights."""
        return self.training.push

    def pull(self, key: PRNGKey, weights: Weights, queries: Queries | None = None) -> Response:
        """Return the effect of one whole step per example."""
        if self.training.program.settings:
            raise NotImplementedError(
                "a setting has no whole step whose effect could be measured; use direction='push'"
            )

        def value_at(weights: Weights) -> Float[Array, "..."]:
            return of_queries(self.training.draw(key, weights).value, queries, 1)

        value = value_at(weights)

        def effect(example: Int[Array, ""]) -> Float[Array, "..."]:
            step = jnp.where(weights[example] < 1, 1.0, -1.0).astype(weights.dtype)
            return step * (value_at(weights.at[example].add(step)) - value)

        effects: Array = map_blocks(effect, self.training.program.num_data, self.batch_size)
        return jnp.moveaxis(effects, 0, -1)

    @property
    def cost(self) -> Cost:
        return Cost(1.0, 1.0 + self.training.program.num_data)


class finetune(StateByState):
    """Train on from the sample at the old weights.

    The sample moves by the difference of two short runs from it with one key, at the new weights and at
    the old ones, so that the effect of longer training cancels. A push is not linear in the new
    weights; `pull` is its derivative at the old weights.

    Attributes:
        training: the stochastic kernel.
        kernel: the short training, such as `kernels.sgd(optax.sgd(0.01), num_epochs=2)`.
        batch_size: the most queries at once in `pull`; those that fit into memory if None.

    Raises:
        ValueError: if the program does not suit the kernel, or its steps have no derivative.
    """

    kernel: kernels.Kernel

    def __check_init__(self) -> None:
        self.kernel.check(self.training.program)
        if self.kernel.not_differentiable:
            raise ValueError(
                f"kernel must follow the weights, and {self.kernel.not_differentiable}; use sgd"
            )

    def moved(self, key: PRNGKey, state: Params, old: Weights, new: Weights) -> Params:
        """Return the parameters moved by the difference of two short runs from them."""

        def more(weights: Weights) -> Params:
            run = self.kernel.run(side_key(key), self.training.program, weights, state)
            return jax.tree.map(lambda leaf: leaf[-1], run.params)

        change = optax.tree.sub(more(new), jax.lax.stop_gradient(more(old)))
        return optax.tree.add(state, change)

    @property
    def cost(self) -> Cost:
        share = self.kernel.num_passes(self.training.program) / self.training.num_passes()
        return Cost(1.0 + 2 * share, 1.0 + 2.5 * share * len(self.training.measure.queries))
