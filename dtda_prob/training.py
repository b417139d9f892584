"""Training as a stochastic kernel: a program, an algorithm and a measure make a distribution."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from dtda_prob import kernels
from dtda_prob.displays import Displayed
from dtda_prob.measures import Measure, Unbound
from dtda_prob.program import Program
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights

STATES_AT_ONCE = 64
"""States of a run that are measured together."""


@dataclass(frozen=True, eq=False, repr=False)
class Training(Displayed):
    """The stochastic kernel K(weights, .): one key and one weight per datum give one trained model.

    `draw` is a pure function of key and weights; it can be compiled, vmapped over either and
    differentiated with respect to the weights. The same key means the same initialisation, batches
    and noise, so draws at different weights with one key are coupled.

    Attributes:
        program: the model and its data.
        kernel: the training algorithm.
        measure: what is asked of a trained model (bound to the program on construction).

    Raises:
        ValueError: if the program does not suit the kernel or the measure.
    """

    program: Program
    kernel: kernels.Kernel
    measure: Measure

    def __init__(self, program: Program, kernel: kernels.Kernel, measure: Measure | Unbound):
        kernel.check(program)
        bound = measure if isinstance(measure, Measure) else measure(program)
        for name, value in (("program", program), ("kernel", kernel), ("measure", bound)):
            object.__setattr__(self, name, value)

    def facts(self) -> dict[str, object]:
        """Give what is shown of it."""
        several = self.kernel.num_states
        found = {
            **self.program.facts(),
            "kernel": self.kernel,
            "measure": self.measure,
        }
        return found | ({"states of each run": several} if several > 1 else {})

    def draw(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Train once and measure the result."""
        run = self.kernel.run(key, self.program, weights)
        return Outcome(run.params, *self.observe(run.params), run.losses, run.stats)

    def push(self, key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        """Retrain: the exact push-forward, which has no need of `old`."""
        return self.draw(key, new)

    def observe(self, params: Params) -> tuple[PyTree, Float[Array, "..."]]:
        """Give the measure's outputs and value for the parameters of a run."""

        def of_state(params: Params) -> tuple[PyTree, Array]:
            outputs = self.measure.outputs(params)
            return outputs, self.measure.readout(outputs)

        return self.each_state(of_state)(params)

    def readout(self, outputs: PyTree) -> Float[Array, "..."]:
        """Read the measurement off the outputs of a run."""
        return self.each_state(self.measure.readout)(outputs)

    def num_runs(self, num_draws: int) -> int:
        """Count the runs that so many draws take: one each, unless several states of a run are kept.

        Raises:
            ValueError: if runs do not give this very number of draws.
        """
        several = self.kernel.num_states
        if num_draws < 1 or num_draws % several:
            raise ValueError(
                f"num_draws={num_draws} must be a positive multiple of the num_states={several} that "
                "the kernel keeps of each run"
            )
        return num_draws // several

    def keys_of_states(self, key: PRNGKey) -> Key[Array, "*state"]:
        """Give each state of a run a key of its own, unless there is only one."""
        several = self.kernel.num_states
        return key if several == 1 else jax.random.split(key, several)

    def each_state(self, function: Callable) -> Callable:
        """Map a function over the states of a run, or leave it as it is where a run has only one."""
        if self.kernel.num_states == 1:
            return function

        def of_states(*args: PyTree) -> PyTree:
            return jax.lax.map(lambda state: function(*state), args, batch_size=STATES_AT_ONCE)

        return of_states

    def drop(self, num_removed: int) -> "Training":
        """Give the training in which the rows of removed data are gone, not just weighed 0.

        It runs as many epochs over fewer rows. See `Program.drop`.
        """
        return replace(self, program=self.program.drop(num_removed))

    def single(self) -> "Training":
        """Give the training whose outcome is the end of a run alone."""
        return replace(self, kernel=kernels.keep(self.kernel, 1))

    def num_passes(self) -> float:
        """Count the gradients over all rows that a training amounts to, 1 where it takes no step."""
        return self.kernel.num_passes(self.program) or 1.0

    def total_step_size(self) -> float:
        """Give the time of training: how far it moves a parameter whose gradient is 1 throughout.

        Raises:
            ValueError: if the kernel's steps are not proportional to gradients.
        """
        return float(self.kernel.segment_sizes(self.program, 1).sum())

    def stats(self, outcome: Outcome, weights: Weights) -> dict[str, Array]:
        """Say how a run ended.

        Returns:
            The `objective` over all data, its `gradient_norm`, `diverging`: whether either or the
            measured value is not finite, or the algorithm says so; and what else the algorithm says.
        """

        def of_state(outcome: Outcome) -> dict[str, Array]:
            objective, gradient = jax.value_and_grad(self.program.objective)(outcome.params, weights)
            norm = optax.tree.norm(gradient)
            finite = jnp.isfinite(objective) & jnp.isfinite(norm) & jnp.isfinite(outcome.value).all()
            diverging = ~finite | outcome.stats.get("diverging", False)
            own = {"objective": objective, "gradient_norm": norm, "diverging": diverging}
            return outcome.stats | own

        return self.each_state(of_state)(outcome)
