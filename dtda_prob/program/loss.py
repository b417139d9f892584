"""A loss that is no distribution, with outputs of its own, so that curvature can be taken in them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array
from numpyro.distributions import Distribution, constraints


class Loss(Distribution):
    """Observe data through a loss: the log density of y is -loss(outputs, y).

    Unlike `numpyro.factor` it has outputs, so that the Gauss-Newton matrix J' H J exists, H the Hessian
    of the loss in the outputs. Nothing can be drawn from it: the Fisher matrix is refused.

    Args:
        outputs: of each example, shape `(example, output)`, or `(example,)` for one number.
        loss: `(outputs, y) -> loss` of one example, outputs and y without the axis of examples.
        event_dim: number of axes of one example's outputs; 1, or 0 for one number.

    >>> hinge = Loss(jnp.array([0.3, -2.0]), lambda margin, y: jnp.maximum(0.0, 1 - y * margin), 0)
    >>> hinge.log_prob(jnp.array([1.0, 1.0]))
    Array([-0.7, -3. ], dtype=float32)
    """

    arg_constraints = {"outputs": constraints.real}  # noqa: RUF012
    support = constraints.real
    pytree_data_fields = ("outputs",)
    pytree_aux_fields = ("loss", "output_dim")

    def __init__(
        self, outputs: Array, loss: Callable[[Array, Array], Array], event_dim: int = 1
    ) -> None:
        self.outputs, self.loss, self.output_dim = outputs, loss, event_dim
        shape = jnp.shape(outputs)
        super().__init__(shape[: len(shape) - event_dim], ())

    def log_prob(self, value: ArrayLike, intermediates: list[Any] | None = None) -> ArrayLike:
        """Return minus the loss of each example."""
        function = self.loss
        for _ in self.batch_shape:
            function = jax.vmap(function)
        return -function(self.outputs, jnp.asarray(value))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Refuse: a loss is no distribution."""
        raise NotImplementedError(
            "dtda.Loss is a loss and no distribution to draw from; take matrix='gauss_newton', "
            "'empirical_fisher' or 'hessian'"
        )
