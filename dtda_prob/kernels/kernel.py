"""The contract of a training algorithm, and the loop that runs it."""

import itertools
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from dtda_prob.checkpoints import scan_in_blocks
from dtda_prob.compiling import is_tracer
from dtda_prob.module import Module
from dtda_prob.program import Program
from dtda_prob.program.state import check_carried
from dtda_prob.sharding import by_parameter
from dtda_prob.typing import Params, PRNGKey, Weights

Sizes = Float[np.ndarray | Array, " step"]
Masks = PyTree[Bool[np.ndarray, "..."]]
"""A mask for each parameter, in the program's tree."""
Step = tuple[Any, Float[Array, ""]]
"""The next state of a phase, and the loss of the step."""


class State(Protocol):
    """Whatever a phase carries from step to step; the parameters are read off it."""

    @property
    def params(self) -> Params: ...


class Start(NamedTuple):
    """The state before the first phase: parameters alone."""

    params: Params


class Run(NamedTuple):
    """The states that a training run keeps, its end the last; every leaf has a leading axis `state`.

    Attributes:
        params: the trained parameters.
        losses: the loss of each step; of several states, of the steps since the previous one.
        stats: statistics of the last phase at each state.
    """

    params: Params
    losses: Float[Array, "state step"]
    stats: dict[str, Array]


class Path(NamedTuple):
    """The trajectory of a training run, segment by segment.

    Attributes:
        ends: the parameters at the end of each segment, stacked; the last are the trained ones.
        means: their mean over the steps of each segment.
        losses: the loss of each step.
        distances: how far each segment moves each parameter; None unless measured, see `distances`.
    """

    ends: Params
    means: Params
    losses: Float[Array, " step"]
    distances: Params | None = None


class Kernel(Module):
    """A training algorithm: phases run one after the other, each from where the previous one ended.

    Kernels are plain data: their fields are their settings. Those that are floats may be traced, so
    that one compilation serves all their values.
    """

    @property
    @abstractmethod
    def phases(self) -> tuple["Phase", ...]:
        """Return the phases in the order in which they run."""

    @property
    def num_states(self) -> int:
        """Return the number of states of a run that are draws, its last ones; see `keep`."""
        return 1

    @property
    def thinning(self) -> int:
        """Return the number of steps from one of these states to the next."""
        return 1

    @property
    def num_runs(self) -> int | None:
        """Return the number of runs that there are, None where training makes any number."""
        return None

    def bind(self, program: Program) -> "Kernel":
        """Return the kernel for a program, in whose space it keeps what it holds."""
        return self

    def keys(self, key: PRNGKey, runs: Int[Array, " run"] | np.ndarray) -> Key[Array, " run"]:
        """Return the key of each run, by its position."""
        return jax.vmap(partial(jax.random.fold_in, key))(runs)

    @property
    def temperature(self) -> float | None:
        """Return T where draws are from the posterior exp(-n L / T), None where they are from none."""
        return self.phases[-1].temperature

    @property
    def resolution(self) -> float:
        """Return the relative difference of draws that an optimizer's tolerance leaves."""
        return self.phases[-1].resolution

    @property
    def not_differentiable(self) -> str:
        """Return why training has no derivative in the weights, an empty string where it has one."""
        return next((each.not_differentiable for each in self.phases if each.not_differentiable), "")

    def count_steps(self, program: Program) -> int:
        """Return the number of steps on a program, which may depend on its `num_rows`."""
        return sum(phase.count_steps(program) for phase in self.phases)

    def num_passes(self, program: Program) -> float:
        """Return the cost of a run in gradients over all rows."""
        return sum(phase.num_passes(program) for phase in self.phases)

    def check(self, program: Program) -> None:
        """Raise if the program does not suit the algorithm.

        Raises:
            ValueError: if a phase cannot run on it, the last is too short for its states, or a setting
                varies that is neither an argument of the model nor a hyper-parameter.
        """
        for phase in self.phases:
            check_carried(program.structure.state, type(phase).__name__, phase.keeps_state)
            phase.check_program(program)
        known = frozenset().union(*(phase.hyperparameters(program) for phase in self.phases))
        unknown = [name for name in program.hyperparameters if name not in known]
        if unknown:
            raise ValueError(
                f"settings {unknown} vary, and are neither arguments of the model nor hyper-parameters "
                f"of the kernel that can vary, which are {sorted(known)}"
            )
        available = self.phases[-1].count_steps(program)
        if self.num_states > 1 and self.num_states * self.thinning > available:
            raise ValueError(
                f"num_states={self.num_states}, {self.thinning} steps apart, do not fit into the "
                f"{available} steps of the last phase; keep fewer or train longer"
            )

    def moves(self, program: Program) -> Masks:
        """Return which parameters training moves: a mask for each, in the program's tree.

        False is what stays as it was initialised or given whatever the data: frozen by the optimizer,
        or set by `pretrained` and not trained after it; and the state of layers, which no gradient
        moves. Responses leave it where it is. Where no step is taken at all the parameters were trained
        elsewhere, and all are True but the state.
        """
        moved = jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), program.shapes)
        for phase in self.phases:
            moved = phase.moved(program, moved, phase.count_steps(program))
        moved = moved if self.count_steps(program) else jax.tree.map(np.ones_like, moved)
        state = {name: moved[name] for name in program.structure.state}
        return moved | jax.tree.map(np.zeros_like, state)

    def run(
        self, key: PRNGKey, program: Program, weights: Weights, params: Params | None = None
    ) -> Run:
        """Train once: a pure function of key and weights, differentiable in both modes.

        Reverse mode keeps few states and recomputes the rest; see `checkpoints.scan_in_blocks`.

        Args:
            key: all randomness of the run; the same key means the same initialisation, batches and
                noise.
            program: the model and its data.
            weights: one per example.
            params: initial parameters; a draw of `program.init` if None.
        """
        phases = self.phases
        init_key, *keys = jax.random.split(key, 1 + len(phases))
        state: State = Start(program.init(init_key) if params is None else params)
        losses = []
        for phase, phase_key in zip(phases, keys, strict=True):
            body, state = _body(phase, phase_key, program, weights), phase.init(state, program)
            length = phase.count_steps(program)
            if self.num_states > 1 and phase_key is keys[-1]:
                return _late_states(body, phase, state, length, self)
            state, some = scan_in_blocks(body, state, length)
            losses.append(some)
        return one_state(Run(state.params, jnp.concatenate(losses), phases[-1].stats(state)))

    def path(self, key: PRNGKey, program: Program, weights: Weights, num_segments: int) -> Path:
        """Train once and keep `num_segments` segments of each phase.

        Args:
            key: all randomness, as in `run`.
            program: the model and its data.
            weights: one per example.
            num_segments: segments of about equal length in each phase (fewer where it has fewer steps).
        """
        init_key, *keys = jax.random.split(key, 1 + len(self.phases))
        state: State = Start(program.init(init_key))
        parts, losses = [], []
        for phase, phase_key in zip(self.phases, keys, strict=True):
            body, state = _body(phase, phase_key, program, weights), phase.init(state, program)
            for start, length in segments(phase, program, num_segments):
                (state, total), some = jax.lax.scan(
                    partial(_with_sum, body),
                    (state, jax.tree.map(jnp.zeros_like, state.params)),
                    start + jnp.arange(length),
                )
                mean = jax.tree.map(lambda x, n=length: x / n, total)
                parts.append((state.params, mean, getattr(state, "distance", None)))
                losses.append(some)
        if not parts:  # No step is taken: training stays where it starts.
            parts, losses = [(state.params, state.params, None)], [jnp.zeros(0)]
        ends, means, reached = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
        distances = jax.tree.map(lambda leaf: jnp.diff(leaf, axis=0, prepend=0), reached)
        return Path(ends, means, jnp.concatenate(losses), distances)

    def segment_sizes(
        self, program: Program, num_segments: int
    ) -> Float[np.ndarray | Array, " segment"] | None:
        """Return the total step size of each segment of `path`; see `Phase.step_sizes`.

        None where it is not one number for all parameters: their distances are then measured along
        the run, see `distances`.
        """
        each = [phase.step_sizes(program) for phase in self.phases]
        known = [steps for steps in each if steps is not None]
        traced = any(is_tracer(steps) for steps in known)
        if len(known) < len(each):
            at_rest = not traced and np.isinf(np.concatenate([*known, np.zeros(0)])).any()
            return np.array([np.inf]) if at_rest else None
        sizes = [
            steps[a : a + n].sum()
            for phase, steps in zip(self.phases, known, strict=True)
            for a, n in segments(phase, program, num_segments)
        ]
        return jnp.stack(sizes) if traced else np.array(sizes)


class Phase(Kernel):
    """A kernel of one loop: subclass it, with `step` and `count_steps`, for your own algorithm."""

    @property
    def phases(self) -> tuple["Phase", ...]:
        """Return the kernel itself, its only phase."""
        return (self,)

    @property
    def temperature(self) -> float | None:
        """Return T of the posterior exp(-n L / T) that the algorithm draws from, if it does."""
        return None

    @property
    def resolution(self) -> float:
        """Return 0: what the steps end at differs by their randomness alone."""
        return 0.0

    @property
    def not_differentiable(self) -> str:
        """Return why the steps have no derivative, as a clause, an empty string if they have one."""
        return ""

    @property
    def keeps_state(self) -> bool:
        """Return whether each step takes over the state that layers leave: running statistics."""
        return False

    @property
    def rounds(self) -> bool:
        """Return whether steps evaluate the objective with fewer digits than float32."""
        return False

    @property
    def own_objective(self) -> str:
        """Return the name of the objective that is minimised, where it is not the program's."""
        return ""

    def init(self, previous: State, program: Program) -> Any:
        """Return the state before the first step, from the state that the previous phase ended with."""
        return Start(previous.params)

    @abstractmethod
    def step(self, key: PRNGKey, state: Any, program: Program, weights: Weights) -> Step:
        """Return the next state and the loss of the step: a pure function."""

    @abstractmethod
    def count_steps(self, program: Program) -> int:
        """Return the number of steps on a program, which may depend on its `num_rows`."""

    def num_passes(self, program: Program) -> float:
        """Return the cost of the phase in gradients over all rows."""
        return float(self.count_steps(program))

    def check_program(self, program: Program) -> None:
        """Raise if the program does not suit the algorithm."""

    def step_sizes(self, program: Program) -> Sizes | None:
        """Return how far each step moves a parameter whose gradient is 1 throughout.

        Infinite for steps that end at a stationary point. None if steps are not one multiple of the
        gradient, or not known to be: the distance of each parameter is then measured along the run.

        Raises:
            ValueError: if a larger gradient of the program's objective does not lead to larger steps.
        """
        return None

    def stats(self, state: Any) -> dict[str, Array]:
        """Return statistics of a state to be kept: energy, acceptance, convergence."""
        return {}

    def hyperparameters(self, program: Program) -> frozenset[str]:
        """Return the names of hyper-parameters that may vary as settings of the program."""
        return frozenset()

    def moved(self, program: Program, before: Masks, num_steps: int) -> Masks:
        """Return which parameters the data have moved after the first steps; see `Kernel.moves`.

        Args:
            program: the model and its data.
            before: which ones earlier phases have moved.
            num_steps: steps that are taken, at most `count_steps`.
        """
        return jax.tree.map(np.ones_like, before) if num_steps else before


def no_step_size(reason: str) -> ValueError:
    """Return the error of steps that have no size, for a reason given as a clause."""
    return ValueError(
        "the size of the steps of training is needed (damping='auto', segments or trajectory), and "
        f"{reason}; use influence with its damping as a number"
    )


def one_state(tree: PyTree) -> PyTree:
    """Return what belongs to the only state of a run with the axis `state` in front."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


def segments(phase: Phase, program: Program, num_segments: int) -> list[tuple[int, int]]:
    """Return the first step and the number of steps of each segment of a phase."""
    num_steps = phase.count_steps(program)
    bounds = np.linspace(0, num_steps, min(num_segments, num_steps) + 1).astype(int)
    return [(int(a), int(b - a)) for a, b in itertools.pairwise(bounds)]


def _with_sum(body: Callable, carry: tuple[Any, Params], count: Int[Array, ""]) -> tuple:
    state, total = carry
    state, loss = body(state, count)
    return (state, jax.tree.map(jnp.add, total, state.params)), loss


def _late_states(body: Callable, phase: Phase, state: Any, length: int, kernel: Kernel) -> Run:
    """Run up to the first state that is kept, then from each to the next."""
    before = length - kernel.num_states * kernel.thinning
    if before:
        state, _ = scan_in_blocks(body, state, before)

    def block(state: Any, start: Int[Array, ""]) -> tuple[Any, Run]:
        state, losses = jax.lax.scan(body, state, start + jnp.arange(kernel.thinning))
        return state, Run(state.params, losses, phase.stats(state))

    starts = before + kernel.thinning * jnp.arange(kernel.num_states)
    return jax.lax.scan(jax.checkpoint(block, prevent_cse=False), state, starts)[1]


def _body(phase: Phase, key: PRNGKey, program: Program, weights: Weights) -> Callable:
    def body(state: Any, count: Int[Array, ""]) -> tuple[Any, Float[Array, ""]]:
        state, loss = phase.step(jax.random.fold_in(key, count), by_parameter(state), program, weights)
        return by_parameter(state), loss

    return body
