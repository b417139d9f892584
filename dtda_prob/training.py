"""Training as a stochastic kernel: a program, an algorithm and a measure make a distribution."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from dtda_prob import kernels
from dtda_prob.compiling import is_tracer
from dtda_prob.measures import Measure, parameters
from dtda_prob.module import Module
from dtda_prob.program import Program
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights

STATES_AT_ONCE = 64
"""States of a run that are measured together."""


class Training(Module):
    """The stochastic kernel K(weights, .): one key and one weight per example give one trained model.

    `draw` is a pure function of key and weights; it can be compiled, vmapped over either and
    differentiated with respect to the weights. The same key means the same initialisation, batches
    and noise, so draws at different weights with one key are coupled.

    Attributes:
        program: the model and its data.
        kernel: the training algorithm.
        measure: what is asked of a trained model (bound to the program on construction); its parameters
            if None.

    Raises:
        ValueError: if the program does not suit the kernel or the measure.
    """

    program: Program
    kernel: kernels.Kernel
    measure: Measure

    def __init__(
        self,
        program: Program,
        kernel: kernels.Kernel,
        measure: Measure | Callable[[Program], Measure] | None = None,
    ):
        kernel = kernel.bind(program)
        kernel.check(program)
        measure = parameters() if measure is None else measure
        is_bound = isinstance(measure, Measure) and measure.program is not None
        self.program, self.kernel = program, kernel
        self.measure = measure if is_bound else measure(program)

    def draw(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Train once and measure the result."""
        run = self.kernel.run(key, self.program, weights)
        return Outcome(run.params, *self.observe(run.params), run.losses, run.stats)

    def push(self, key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        """Retrain: the exact push-forward, which ignores `old`."""
        return self.draw(key, new)

    def observe(self, params: Params) -> tuple[PyTree, Float[Array, "..."]]:
        """Compute the measure's outputs and value at the parameters of a run."""

        def of_state(params: Params) -> tuple[PyTree, Array]:
            outputs = self.measure.outputs(params)
            return outputs, self.measure.readout(outputs)

        return self.each_state(of_state)(params)

    def readout(self, outputs: PyTree) -> Float[Array, "..."]:
        """Compute the measured value from the outputs of a run."""
        return self.each_state(self.measure.readout)(outputs)

    def num_runs(self, num_draws: int) -> int:
        """Return the number of runs for so many draws: one each, unless runs keep several states.

        Raises:
            ValueError: if whole runs do not add up to this number of draws, or do not exist.
        """
        several, there = self.kernel.num_states, self.kernel.num_runs
        if there is not None and num_draws > there * several:
            raise ValueError(
                f"num_draws={num_draws}: {there * several} draws exist, and no more can be made; "
                "leave num_draws out to take all"
            )
        if num_draws < 1 or num_draws % several:
            raise ValueError(
                f"num_draws={num_draws} must be a positive multiple of the num_states={several} that "
                "the kernel keeps of each run"
            )
        return num_draws // several

    def keys_of_states(self, key: PRNGKey) -> Key[Array, "*state"]:
        """Split a key over the states of a run, unless there is only one."""
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
        """Return the training in which removed rows are gone, not just of weight 0.

        It runs as many epochs over fewer rows. See `Program.drop`.
        """
        return replace(self, program=self.program.drop(num_removed))

    def single(self) -> "Training":
        """Return the training whose outcome is the last state of a run alone."""
        return replace(self, kernel=kernels.keep(self.kernel, 1))

    def num_passes(self) -> float:
        """Return the cost of training in gradients over all rows; 1 where it takes no step."""
        return self.kernel.num_passes(self.program) or 1.0

    def total_step_size(self) -> float | Float[Array, ""]:
        """Compute the time of training: how far it moves a parameter whose gradient is 1 throughout.

        Raises:
            ValueError: if the kernel's steps are not proportional to gradients.
        """
        total = self.kernel.segment_sizes(self.program, 1).sum()
        return total if is_tracer(total) else float(total)

    def stats(self, outcome: Outcome, weights: Weights) -> dict[str, Array]:
        """Compute statistics of the end of a run.

        Returns:
            The `objective` over all data, its `gradient_norm`, `diverging`: whether either or the
            measured value is not finite, or the algorithm reports it; the algorithm's own ones.
        """

        def of_state(outcome: Outcome) -> dict[str, Array]:
            objective, gradient = jax.value_and_grad(self.program.objective)(outcome.params, weights)
            norm = optax.tree.norm(gradient)
            finite = jnp.isfinite(objective) & jnp.isfinite(norm) & jnp.isfinite(outcome.value).all()
            diverging = ~finite | outcome.stats.get("diverging", False)
            own = {"objective": objective, "gradient_norm": norm, "diverging": diverging}
            return outcome.stats | own

        return self.each_state(of_state)(outcome)
