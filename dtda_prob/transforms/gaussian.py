"""Posteriors moved as their Gaussian approximations, by gradients and curvatures that are means."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from dtda_prob.curvature import Curvature, dense
from dtda_prob.curvature.matrices import resolve
from dtda_prob.training import each_state
from dtda_prob.transforms.averaged import LEAST_STATES, MOST_STATES, mean_program
from dtda_prob.transforms.push_forward import (
    Cost,
    Restricted,
    check_posterior,
    side_key,
)
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights


class gaussian(Restricted):
    """Move the mean and covariance of posterior draws as the nearest Gaussian moves.

    A Gaussian that approximates exp(-n L / temperature) has a mean where the expected gradient of L is
    zero, and the covariance temperature E[H]^-1 / n (Opper and Archambeau, 2009). On other data the
    mean moves by a Newton step -E[H(new)]^-1 E[grad L(new) - grad L(old)], and the covariance to
    temperature E[H(new)]^-1 / n, by one affine map of the states of a run. Expectations are means over
    these states, which know more of the posterior than one of them: exact where L is quadratic, and
    about as good as a Gaussian is where it is not. Costs two decompositions a perturbation and run.

    Attributes:
        training: the stochastic kernel, which must draw from a posterior and keep several states.
        curvature: how E[H] is inverted, from `dtda.curvature`, with the Hessian for its matrix; the
            dense pseudo-inverse if None.

    Raises:
        ValueError: if the kernel draws from no posterior or keeps fewer than three states of a run, or
            the curvature is of another matrix or can only be inverted.
    """

    curvature: Curvature = eqx.field(
        default=dense(), converter=lambda chosen: dense() if chosen is None else chosen
    )

    directions = ("push",)

    def __check_init__(self) -> None:
        check_posterior(self.training, "gaussian")
        states, matrix = self.training.kernel.num_states, self.curvature.matrix
        if states < LEAST_STATES:
            raise ValueError(
                f"gaussian takes means over the states of a run, and the kernel keeps "
                f"num_states={states}: keep more (kernels.keep), or use newton"
            )
        if self.curvature.inverse_only or matrix is None or resolve(matrix).factored:
            raise ValueError(
                f"curvature={self.curvature} must be of the Hessian and apply its roots: take "
                "curvature.dense() or curvature.lanczos('hessian', ...)"
            )

    def carry(self, key: PRNGKey, outcome: Outcome, old: Weights, new: Weights) -> Outcome:
        """Move all states of an outcome by one affine map."""
        states = jax.lax.stop_gradient(outcome.params)
        centre, mean = mean_program(self.training.program, states)
        args = side_key(key), centre
        before, after = (self.curvature.at(mean, *args, w, self.moving) for w in (old, new))
        slopes = jax.vmap(lambda theta: optax.tree.sub(*(self.gradient(theta, w) for w in (new, old))))
        change = jax.tree.map(lambda leaf: leaf.mean(0), slopes(states))
        point = self.moving.part(centre)
        inverse = self.curvature.inverse(after, point, self.training.total_step_size)
        step = optax.tree.scale(-1, after.apply(inverse, change))

        def moved(theta: Params) -> Params:
            away = optax.tree.sub(self.moving.part(theta), point)
            wider = after.apply(_inverse_root, before.apply(_root, away))
            return self.added(theta, optax.tree.add(step, optax.tree.sub(wider, away)))

        params = each_state(moved, states)
        return self.training.measured(params, outcome.losses, outcome.stats)

    @property
    def cost(self) -> Cost:
        passes = 2 * self.curvature.passes(self.training.program, 1)
        return Cost(1.0 + passes * MOST_STATES / self.training.num_passes(), float("nan"))


def _root(values: Any, largest: Any) -> Array:
    return jnp.where(values > 1e-6 * largest, jnp.sqrt(jnp.maximum(values, 0.0)), 1.0)


def _inverse_root(values: Any, largest: Any) -> Array:
    return 1 / _root(values, largest)
