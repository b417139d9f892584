"""Stochastic variational inference: a guide is fitted, and the outcome is a draw from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from dtda_prob.kernels import batches
from dtda_prob.kernels import guide as guides
from dtda_prob.kernels.kernel import Kernel, Phase, State
from dtda_prob.kernels.optimizer import Optimizer, bind
from dtda_prob.kernels.steps import steps
from dtda_prob.program import Program
from dtda_prob.typing import Params, PRNGKey, Weights


class SVIState(NamedTuple):
    """The guide's parameters and the optimizer's state; the guide is drawn from when it is asked to."""

    variational: Params
    optimizer_state: Any
    order: batches.Order
    count: Int[Array, ""]
    key: PRNGKey
    draw: Partial

    @property
    def params(self) -> Params:
        """Draw from the guide, in unconstrained space."""
        return self.draw(self.key, self.variational)


def svi(
    guide: guides.MakeGuide,
    optimizer: Optimizer,
    *,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    batch_size: int | None = None,
    replace: bool = False,
    num_particles: int = 1,
) -> Kernel:
    """Fit a guide by gradient steps on NumPyro's ELBO of the weighed model, and draw from it.

    Its randomness is the initialisation, the noise of the ELBO, the batches, and the draw, whose noise
    the key fixes. Autoguides begin with their locations at the parameters that training starts from.
    The loss is -ELBO / n, and so is its gradient, so that rates mean what they mean in `sgd`. The
    model's own `numpyro.param` sites are optimised along. The draw counts as one from the posterior of
    temperature 1, which it is as far as the guide is; a point guide (`AutoDelta`) draws from none.
    `unroll` differentiates every step and the draw.

    Args:
        guide: an autoguide of NumPyro, or a function of the model that returns a guide: a guide of your
            own is `lambda model: my_guide`. Its random initial values, where it has any, are fixed.
        optimizer: see `sgd`, as for the data of each step.
        num_steps: number of steps on all data (fewer, in proportion, when rows are dropped).
        num_epochs: number of epochs instead.
        batch_size: data per step; all of them if None.
        replace: draw each batch afresh, with replacement, instead of by epochs.
        num_particles: draws of the guide in each estimate of the ELBO.

    Raises:
        ValueError: if the number of steps or particles is not positive, or `guide` makes no guide or
            one that looks at the density of the model without weights (DAIS,
            `AutoLaplaceApproximation`); in `Training`, if the guide draws other sites than the
            program's latent ones.

    >>> from numpyro.infer.autoguide import AutoNormal
    >>> svi(AutoNormal, optax.adam(0.01), num_steps=1000).phases[-1].temperature
    1.0
    """
    if num_particles < 1:
        raise ValueError(f"num_particles={num_particles} must be at least 1")
    plan = steps(num_steps, num_epochs, batch_size, replace)
    transformation = bind(optimizer, plan)

    def bound(program: Program) -> guides.Guide:
        return guides.bind(guide, program, num_particles)

    def init(previous: State, program: Program) -> SVIState:
        variational = bound(program).start(previous.params)
        state = transformation(program).init(variational)
        order, draw = jnp.zeros(program.num_rows, int), Partial(bound(program).draw)
        return SVIState(variational, state, order, jnp.zeros((), int), jax.random.key(0), draw)

    def step(
        key: PRNGKey, state: SVIState, program: Program, weights: Weights
    ) -> tuple[SVIState, Float[Array, ""]]:
        batch_key, elbo_key, draw_key = jax.random.split(key, 3)
        indices, order = plan.visits.take(batch_key, state.count, state.order, program, weights)
        loss, gradient = jax.value_and_grad(bound(program).loss, argnums=1)(
            elbo_key, state.variational, program, weights, indices
        )
        updates, optimizer_state = transformation(program).update(
            gradient, state.optimizer_state, state.variational
        )
        variational = optax.apply_updates(state.variational, updates)
        return SVIState(
            variational, optimizer_state, order, state.count + 1, draw_key, state.draw
        ), loss

    def check(program: Program) -> None:
        plan.visits.check(program)
        if batch_size is not None and program.local:
            raise ValueError(
                f"batch_size={batch_size}: a guide draws the latent sites {sorted(program.local)} of "
                "all data at once; leave batch_size out"
            )
        bound(program)

    phase = Phase(
        init,
        step,
        num_steps=plan.count,
        num_passes=lambda program: num_particles * plan.count_passes(program),
        check=check,
        step_sizes=_refuse_step_sizes,
        temperature=None if guides.is_point(guide) else 1.0,
        own_objective="the ELBO of a guide",
        name="svi",
    )
    return Kernel((phase,))


def _refuse_step_sizes(program: Program) -> Float[np.ndarray, " step"]:
    raise ValueError(
        "the total step size of training is asked for (damping='auto', segments or trajectory), and "
        "the steps of svi move a guide's parameters, not the program's; take influence with its "
        "damping as a number"
    )
