"""What one step of a study will cost: the call that it makes is compiled, and a few draws are tried."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled

from dtda_prob.attribution.stored import Request, effects_in, request_of
from dtda_prob.outcomes.drawing import Drawing
from dtda_prob.outcomes.draws import CHUNK, lay_out
from dtda_prob.outcomes.pulling import compile_block
from dtda_prob.outcomes.reading import Reading
from dtda_prob.outcomes.source import Source, keys_of, training_of
from dtda_prob.perturbations import check_weights
from dtda_prob.pricing import calls
from dtda_prob.training import Training
from dtda_prob.typing import PRNGKey

LIGHT = 1e10
"""Operations of a chunk that are soon done: such a chunk is timed itself, with no smaller call."""


class Price(NamedTuple):
    """What a step costs.

    Attributes:
        trainings: their number, or what amounts to it, as the transform counts it.
        seconds: on the devices of this process, compilation left out.
        bytes: the most that a compiled call holds on a device, beside its arguments.
        memory: bytes that a device has.
    """

    trainings: float
    seconds: float
    bytes: float
    memory: float

    def __str__(self) -> str:
        each = "trainings" if self.trainings != 1 else "training"
        parts = [f"{self.trainings:,.6g} {each}"] if np.isfinite(self.trainings) else []
        parts += [f"about {_duration(self.seconds)}", f"{_size(self.bytes)} of memory at a time"]
        return ", ".join(parts)


def together(*prices: Price) -> Price:
    """Give the price of steps that follow each other."""
    trainings, seconds, held, memory = (np.asarray(part) for part in zip(*prices, strict=True))
    return Price(trainings.sum(), seconds.sum(), held.max(), memory.max())


def price_draws(
    source: Source,
    key: PRNGKey,
    num_draws: int,
    weights: Any = None,
    *,
    chunk_size: int = CHUNK,
    engine: Any = None,
) -> Price:
    """Price a sample set; what is compiled for it is not compiled again when it is drawn.

    A push from a sample that is drawn once for all perturbations costs less than this.

    Args:
        source: see `sample`, as for the others.
        key: key of the pilot.
        num_draws: draws to be priced.
        weights: one per datum, or several perturbations; ones if None.
        chunk_size: trainings per compiled call.
        engine: a mesh of devices; the price is that of this process for any other.

    Raises:
        ValueError: for bad weights, or a bad number of draws.
        NotImplementedError: for a push-forward that cannot push.
    """
    training = training_of(source)
    new, read = check_weights(training.program, weights), Reading(training, frozenset())
    runs, multiple = training.num_runs(num_draws), 4 if training.kernel.num_states == 1 else 1
    drawing = lay_out(
        source, key, runs, new, read, chunk_size=chunk_size, engine=engine, multiple=multiple
    )
    call, arguments = drawing.compiled()
    held, pairs = calls.bytes_of(call), runs * drawing.num_perturbations
    each = 1.0 if isinstance(source, Training) else source.cost.push
    seconds = pairs * _seconds_each(drawing, call, arguments)
    return Price(pairs * each, seconds, held, calls.memory_of_device())


def price_attribution(
    source: Source,
    key: PRNGKey,
    num_draws: int,
    perturbations: Any = None,
    *,
    engine: Any = None,
    kept: bool = False,
) -> Price:
    """Price scores in a store; see `price_draws`.

    Args:
        source: see `attribute`, as for the others.
        key: key of the pilot.
        num_draws: draws to be priced.
        perturbations: weights `(perturbation, datum)`; the removal of each datum in turn if None.
        engine: see `price_draws`.
        kept: whether the effect of each datum on each draw is kept, so that a call is one run.

    Raises:
        ValueError: for bad weights, or a bad number of draws.
    """
    request = request_of(source, key, num_draws, perturbations, None, None)
    if request.direction == "pull":
        return _by_pull(request, engine, kept)
    full = price_draws(request.training, key, num_draws, engine=engine)
    return together(full, price_draws(source, key, num_draws, request.weights, engine=engine))


def _by_pull(request: Request, engine: Any, kept: bool) -> Price:
    effects = effects_in(request, engine, kept)
    devices = effects.grid().runs
    arguments = keys_of(request.key, np.arange(devices)), effects.start, effects.point
    queries = jnp.arange(effects.columns)
    call = compile_block(effects.source, *arguments, queries, effects.devices())
    seconds = calls.seconds_of(call, *arguments, queries) / devices
    blocks = -(-len(request.training.measure.queries) // effects.columns)
    trainings = request.num_runs * (blocks + effects.source.cost.pull)
    held, memory = calls.bytes_of(call), calls.memory_of_device()
    return Price(trainings, request.num_runs * blocks * seconds, held, memory)


def _seconds_each(drawing: Drawing, call: Compiled, arguments: tuple[Any, ...]) -> float:
    """Time one draw: in the call itself where that is soon done, else in a smaller one."""
    size = len(arguments[0])
    few = calls.PILOT_DRAWS * (1 if drawing.devices is None else drawing.devices.size)
    if size > 2 * few and size * _operations(drawing.training) > LIGHT:
        call, arguments = drawing.compiled(few)
    return calls.seconds_of(call, *arguments) / len(arguments[0])


def _operations(training: Training) -> float:
    """Estimate the operations of a training from its passes over the data; see docs/design.md."""
    params = jax.eval_shape(training.program.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return 6.0 * count * training.program.num_rows * training.num_passes()


def _duration(seconds: float) -> str:
    units = [(86400, "days"), (3600, "hours"), (60, "minutes")]
    for size, name in units:
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {name}"
    return f"{max(seconds, 0.1):.2g} s"


def _size(num_bytes: float) -> str:
    for size, name in [(2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")]:
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {name}"
    return f"{num_bytes:.0f} bytes"
