"""Stochastic variational inference: a guide is fitted, and the outcome is a draw from it."""

from dataclasses import KW_ONLY
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int
from numpyro.infer.autoguide import AutoGuide

from dtda_prob.kernels import batches, optimizers
from dtda_prob.kernels import guide as guides
from dtda_prob.kernels.kernel import Sizes, Start, State, Step, no_step_size
from dtda_prob.kernels.optimizers import Optimizer
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class SVIState(NamedTuple):
    """The guide, its parameters and the optimizer's state; a draw is made when it is read."""

    variational: Params
    optimizer_state: Any
    order: batches.Order
    count: Int[Array, ""]
    key: PRNGKey
    guide: guides.Guide

    @property
    def params(self) -> Params:
        """Draw from the guide, in unconstrained space."""
        return self.guide.draw(self.key, self.variational)


class svi(batches.BatchPhase):
    """Fit a guide by gradient steps on NumPyro's ELBO of the weighted model, and draw from it.

    Its randomness is the initialisation, the noise of the ELBO, the batches, and the draw, whose noise
    the key fixes. Autoguides begin with their locations at the initial parameters.
    The loss is -ELBO / n, and so is its gradient, so that rates mean what they mean in `sgd`. The
    model's own `numpyro.param` sites are optimised along. The draw counts as one from the posterior of
    temperature 1, exact up to the guide's approximation error; a point guide (`AutoDelta`) draws from
    none. `unroll` differentiates every step and the draw.

    Args:
        guide: an autoguide of NumPyro, or a function of the model that returns a guide: a guide of your
            own is `lambda model: my_guide`. Its random initial values, where it has any, are fixed.
        optimizer: see `sgd`, as for the batches of each step.
        num_particles: draws of the guide in each estimate of the ELBO.
        num_steps: number of steps on all data; where rows are dropped, see `sgd`.
        num_epochs: number of epochs instead.
        batch_size: examples per step; all of them if None.
        replace: draw each batch afresh, with replacement, instead of by epochs.

    Raises:
        ValueError: if the number of steps or particles is not positive, or `guide` makes no guide or
            one that looks at the density of the model without weights (DAIS,
            `AutoLaplaceApproximation`); in `Training`, if the guide draws other sites than the
            program's latent ones.

    >>> from numpyro.infer.autoguide import AutoNormal
    >>> svi(AutoNormal, optax.adam(0.01), num_steps=1000).temperature
    1.0
    """

    guide: guides.MakeGuide
    optimizer: Optimizer
    _: KW_ONLY
    num_particles: int = 1

    def __check_init__(self) -> None:
        if self.num_particles < 1:
            raise ValueError(f"num_particles={self.num_particles} must be at least 1")
        guides.check(self.guide)

    @property
    def temperature(self) -> float | None:
        """Return 1, or None for a point guide."""
        return None if guides.is_point(self.guide) else 1.0

    @property
    def own_objective(self) -> str:
        """Return the name of the objective that is minimised."""
        return "the ELBO of a guide"

    def init(self, previous: State, program: Program) -> SVIState:
        guide = guides.bind(self.guide, program, self.num_particles)
        variational = guide.start(previous.params)
        state = self.transformation(program).init(variational)
        order, count = jnp.zeros(program.num_rows, int), jnp.zeros((), int)
        return SVIState(variational, state, order, count, jax.random.key(0), guide)

    def step(self, key: PRNGKey, state: SVIState, program: Program, weights: Weights) -> Step:
        batch_key, elbo_key, draw_key = jax.random.split(key, 3)
        indices, order = self.visits.take(batch_key, state.count, state.order, program, weights)
        loss, gradient = jax.value_and_grad(state.guide.loss, argnums=1)(
            elbo_key, state.variational, program, weights, indices
        )
        updates, optimizer_state = self.transformation(program).update(
            gradient, state.optimizer_state, state.variational
        )
        variational = optax.apply_updates(state.variational, updates)
        count = state.count + 1
        return SVIState(variational, optimizer_state, order, count, draw_key, state.guide), loss

    def transformation(self, program: Program) -> optax.GradientTransformation:
        """Return the optimizer for the number of steps on a program."""
        return optimizers.bind(self.optimizer, self.count_steps(program))

    def num_passes(self, program: Program) -> float:
        return self.num_particles * super().num_passes(program)

    def check_program(self, program: Program) -> None:
        super().check_program(program)
        guide = self.guide(program.model)
        drawn_at_once = program.local and program.follows_indices and isinstance(guide, AutoGuide)
        if self.batch_size is not None and drawn_at_once:
            raise ValueError(
                f"batch_size={self.batch_size}: {type(guide).__name__} draws the latent sites "
                f"{sorted(program.local)} of all examples at once; leave batch_size out, or write a "
                "guide whose plate visits a batch (numpyro.subsample)"
            )
        jax.eval_shape(lambda: self.init(Start(program.init(jax.random.key(0))), program))

    def step_sizes(self, program: Program) -> Sizes:
        raise no_step_size("the steps of svi move a guide's parameters, not the program's")
