"""Training as a stochastic kernel: a program, an algorithm and a measure make a distribution."""

from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from dtda_prob import kernels
from dtda_prob.blocks import map_rows
from dtda_prob.compiling import is_tracer
from dtda_prob.kernels.kernel import one_state
from dtda_prob.measures import Measure, parameters
from dtda_prob.module import Module
from dtda_prob.program import Program
from dtda_prob.program.whole import gradient_in_blocks
from dtda_prob.typing import Outcome, Params, PRNGKey, Weights, check_kind

KERNEL = (
    "a kernel of dtda_prob, such as kernels.nuts(), or kernels.pretrained(samples) for draws that exist"
)
MEASURE = "a measure, such as measures.parameters() or measures.function(lambda sites: sites['slope'])"
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
        check_kind("program", program, Program, "a program, dtda.Program(model, x, y=y)")
        check_kind("kernel", kernel, kernels.Kernel, KERNEL)
        kernel = kernel.bind(program)
        kernel.check(program)
        self.program, self.kernel = program, kernel
        self.measure = _bound(parameters() if measure is None else measure, program)

    def draw(self, key: PRNGKey, weights: Weights) -> Outcome:
        """Train once and measure the result."""
        return self.measured(*self.kernel.run(key, self.program, weights))

    def push(self, key: PRNGKey, old: Weights, new: Weights) -> Outcome:
        """Retrain: the exact push-forward, which ignores `old`."""
        return self.draw(key, new)

    def measured(
        self, params: Params, losses: Float[Array, "state step"], stats: dict[str, Array]
    ) -> Outcome:
        """Return the outcome of a run with these states, each of which is observed."""
        return Outcome(params, *each_state(self.observe, params), losses, stats)

    def observe(self, params: Params) -> tuple[PyTree, Float[Array, "query *output"]]:
        """Compute the measure's outputs and value at the parameters of one state."""
        outputs = self.measure.outputs(params)
        return outputs, self.measure.readout(outputs)

    def num_runs(self, num_draws: int, least: int = 1) -> int:
        """Return the number of runs that give so many draws, a draw for each state that they keep.

        Raises:
            ValueError: if whole runs do not add up to this number of draws, are fewer than `least`, or
                do not exist.
        """
        check_kind("num_draws", num_draws, Integral, "a whole number of draws")
        several, there = self.kernel.num_states, self.kernel.num_runs
        if there is not None and num_draws > there * several:
            raise ValueError(
                f"num_draws={num_draws}: {there * several} draws exist, and no more can be made; "
                "leave num_draws out to take all"
            )
        if num_draws % several or num_draws < least * several:
            runs = max(least, -(-num_draws // several))
            raise ValueError(
                f"num_draws={num_draws} must be a multiple of num_states={several}, the draws that the "
                f"kernel keeps of each run, and at least {least} times it; "
                f"take num_draws={runs * several}"
            )
        return num_draws // several

    def drop(self, num_removed: int) -> "Training":
        """Return the training in which removed rows are gone, not just of weight 0.

        It runs as many epochs over fewer rows. See `Program.drop`.
        """
        return replace(self, program=self.program.drop(num_removed))

    def num_passes(self) -> float:
        """Return the cost of training in gradients over all rows; 1 where it takes no step."""
        return self.kernel.num_passes(self.program) or 1.0

    def total_step_size(self) -> float | Float[Array, ""] | None:
        """Compute the time of training: how far it moves a parameter whose gradient is 1 throughout.

        None where parameters differ in this, as with Adam, or it depends on the run.

        Raises:
            ValueError: if a larger gradient does not lead to larger steps.
        """
        sizes = self.kernel.segment_sizes(self.program, 1)
        if sizes is None:
            return None
        total = sizes.sum()
        return total if is_tracer(total) else float(total)

    def stats(self, outcome: Outcome, weights: Weights) -> dict[str, Array]:
        """Compute statistics of each state of a run.

        Returns:
            The `objective` over all data, its `gradient_norm`, `diverging`: whether either or the
            measured value is not finite, or the algorithm reports it; the algorithm's own ones.
        """

        def of_state(outcome: Outcome) -> dict[str, Array]:
            objective, gradient = gradient_in_blocks(self.program.evaluated, outcome.params, weights)
            norm = optax.tree.norm(gradient)
            finite = jnp.isfinite(objective) & jnp.isfinite(norm) & jnp.isfinite(outcome.value).all()
            diverging = ~finite | outcome.stats.get("diverging", False)
            own = {"objective": objective, "gradient_norm": norm, "diverging": diverging}
            return outcome.stats | own

        return each_state(of_state, outcome)


def _bound(measure: Any, program: Program) -> Measure:
    """Return a measure bound to a program, which it may be already."""
    if isinstance(measure, Measure) and measure.program is not None:
        return measure
    if isinstance(measure, type) or not callable(measure):
        check_kind("measure", measure, Measure, MEASURE)
    try:
        bound = measure(program)
    except Exception as error:
        if not isinstance(measure, Measure):
            error.add_note(f"measure must be {MEASURE}, or a function from a program to one")
        raise
    check_kind("measure", bound, Measure, MEASURE)
    return bound


def each_state(function: Callable, *args: PyTree) -> PyTree:
    """Map a function over the states of a run, the leading axis of all leaves."""
    if len(jax.tree.leaves(args)[0]) == 1:  # The same numbers; a batch of one is slower to compile.
        return one_state(function(*jax.tree.map(lambda leaf: leaf[0], args)))
    return map_rows(lambda state: function(*state), args, STATES_AT_ONCE)
