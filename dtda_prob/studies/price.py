"""What tasks cost before they start: their calls are compiled, and a few draws are timed."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from dtda_prob.checkpoints import memory_of_device
from dtda_prob.compiling import split
from dtda_prob.studies.devices import mesh_of, num_devices
from dtda_prob.studies.draw import CHUNK, Draws, draws
from dtda_prob.studies.perturbed import perturbed
from dtda_prob.studies.pull import Responses, responses
from dtda_prob.studies.run import counts
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, check_key

PILOT_DRAWS = 8
"""Draws of a pilot call on each device: enough that one draw costs what it does in a chunk."""
LIGHT = 1e10
"""Operations of a chunk that are soon done: such a chunk is timed itself, with no smaller call."""
MANY_PASSES = 1000
"""Passes over the data that hardly any training exceeds."""
WRITING = 0.02
"""Seconds to write a block of a result, about."""
LONG = 1.0
"""Seconds from which on the first call of a compiled function is timed well enough."""


class Price(NamedTuple):
    """What a task costs.

    Attributes:
        trainings: their number, or what amounts to it, as the transform counts it.
        seconds: on the devices of this process, writing included and compilation left out.
        bytes: the most that a compiled call holds on a device, beside its arguments.
        memory: bytes that a device has.
        fitting: draws of a call that the memory of a device has room for; 1 where a call is one draw.
    """

    trainings: float
    seconds: float
    bytes: float
    memory: float
    fitting: float

    def __str__(self) -> str:
        each = "trainings" if self.trainings != 1 else "training"
        parts = [f"{self.trainings:,.6g} {each}"] if np.isfinite(self.trainings) else []
        parts += [f"about {_duration(self.seconds)}", f"{_size(self.bytes)} of memory at a time"]
        return ", ".join(parts)


class Plan(NamedTuple):
    """What each way to a study costs.

    Attributes:
        table: rows "retrain", "push" and "pull"; columns are the fields of `Price`.
        advice: which to buy, and whether the chunk fits, in words.
    """

    table: pd.DataFrame
    advice: str

    def __str__(self) -> str:
        return f"{self.table.to_string(float_format='{:.3g}'.format)}\n{self.advice}"


def price(*tasks: Draws | Responses) -> Price:
    """Price tasks that follow each other; what is compiled for it is not compiled again when they run.

    A push from draws that are carried to all perturbations costs less than this.
    """
    parts = [_of_draws(task) if isinstance(task, Draws) else _of_responses(task) for task in tasks]
    trainings, seconds, held, memory, fitting = map(np.asarray, zip(*parts, strict=True))
    return Price(trainings.sum(), seconds.sum(), held.max(), memory.max(), fitting.min())


def plan(
    push_forward: PushForward,
    key: PRNGKey,
    *,
    num_draws: int = 16,
    perturbations: Any = None,
    chunk_size: int = CHUNK,
    mesh: Mesh | None = None,
) -> Plan:
    """Price a study by retraining, pushing and pulling, calibrated by a short pilot of each.

    The pilot compiles the calls that `sample` and `attribute` make, and runs eight trainings and eight
    pushes on each device, and a pull of one block of queries. Trainings are counted by the transform's
    own `cost`, seconds are measured. Bytes are those that the compiler reports of a call. Compilation,
    which is paid once, and the comparison of the samples are left out.

    Args:
        push_forward: the transform; it is matched to the rows that are dropped.
        key: key of the pilot.
        num_draws: draws that the study takes.
        perturbations: weights `(perturbation, example)`; the removal of each example in turn if None.
        chunk_size: trainings per compiled call, over all devices; see `Options`.
        mesh: devices that share the calls; all of this process if None.

    Returns:
        The table and the advice; `print` shows both.

    Raises:
        ValueError: for bad weights.
    """
    check_key(key)
    training = push_forward.training
    chosen, runs = perturbed(training.program, perturbations), training.num_runs(num_draws)
    one, count, mesh = chosen.weights(slice(1)), len(chosen), mesh_of(mesh)
    drawn = partial(draws, key=key, num_runs=runs, weights=one, chunk_size=chunk_size, mesh=mesh)
    train, push = price(drawn(training)), _tried(lambda: drawn(push_forward))
    rows = {
        "retrain": _all(train, train, count),
        "push": _all(train, push, count),
        "pull": _tried(lambda: responses(push_forward, key, runs, chosen, mesh=mesh)),
    }
    table = pd.DataFrame([*rows.values()], index=[*rows])
    queries = len(training.measure.queries)
    what = f"{num_draws} draws of {count} perturbations and all {queries} queries"
    return Plan(
        table, f"{_advise(push_forward.name, table['seconds'], what)} {_room(rows, chunk_size)}"
    )


def _tried(task: Callable[[], Draws | Responses]) -> Price:
    """Price a task, or return NaN where the transform does not have this direction."""
    try:
        return price(task())
    except (NotImplementedError, ValueError):
        return Price(*[np.nan] * len(Price._fields))


def _all(full: Price, each: Price, count: int) -> Price:
    """Price draws on all data, and on so many perturbed datasets."""
    trainings, seconds = (np.add(full[:2], np.multiply(count, each[:2]))).tolist()
    return each._replace(trainings=trainings, seconds=seconds)


def _of_draws(task: Draws) -> Price:
    function, arguments = task.call()
    call = function.lower(*arguments).compile()
    pairs, held = task.num_runs * len(task.rows), _bytes(call)
    each = 1.0 if isinstance(task.source, Training) else task.source.cost.push
    memory, size = memory_of_device(), task.pairs_in_call
    devices = num_devices(task.devices)
    few = PILOT_DRAWS * devices
    if size > 2 * few and _is_heavy(task.training, size):
        function, arguments = task.call(few)
        call, size = function.lower(*arguments).compile(), few
    seconds = seconds_of(call, arguments) / size
    fitting = np.floor(memory * task.pairs_in_call / max(held, 1.0))
    seconds = pairs * seconds + WRITING * math.prod(counts(task))
    return Price(pairs * each, seconds, held, memory, float(fitting))


def _of_responses(task: Responses) -> Price:
    function, arguments = task.call()
    call = function.lower(*arguments).compile()
    runs, columns = task.block
    seconds = seconds_of(call, arguments) / runs
    blocks = -(-task.shape[1] // columns)
    trainings = task.num_runs * (blocks + task.source.cost.pull)
    whole = task.num_runs * blocks * seconds + WRITING * math.prod(counts(task))
    return Price(trainings, whole, _bytes(call), memory_of_device(), runs)


def seconds_of(call: Any, arguments: tuple[Any, ...]) -> float:
    """Time a call, and once more where it is short, since the first one is slower."""
    traced, _ = split(arguments)
    first = _timed(call, traced)
    return first if first > LONG else _timed(call, traced)


def _timed(call: Any, traced: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call(traced))
    return time.perf_counter() - start


def _bytes(call: Any) -> float:
    """Return the bytes that a call holds on a device, beside its arguments."""
    memory = call.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes if memory else np.nan


def _is_heavy(training: Training, size: int) -> bool:
    """Return whether so many trainings take many operations, by their passes over the data.

    Passes are counted only if it depends on them: for a mode they are counted by searching it.
    """
    params = jax.eval_shape(training.program.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    of_pass = 6.0 * size * count * training.program.num_rows
    return of_pass * MANY_PASSES > LIGHT and of_pass * training.num_passes() > LIGHT


def _advise(name: str, seconds: pd.Series, what: str) -> str:
    cheapest = seconds.idxmin()
    if cheapest == "retrain":
        others = seconds[["push", "pull"]].min()
        return (
            f"For {what}, retraining is cheaper: it takes {seconds['retrain']:.3g} s and is "
            f"exact; {name} takes {others:.3g} s."
        )
    return (
        f"For {what}, {name} by {cheapest} takes {seconds[cheapest]:.3g} s, "
        f"{seconds['retrain'] / seconds[cheapest]:.3g} times less than retraining."
    )


def _room(rows: dict[str, Price], chunk_size: int) -> str:
    """Write what a chunk takes, and whether it fits."""
    largest = max(
        (rows[name] for name in ("retrain", "push")), key=lambda row: np.nan_to_num(row.bytes)
    )
    fits = largest.fitting >= chunk_size
    words = "fits" if fits else f"does not fit: give chunk_size={largest.fitting:.0f} at most"
    held = f"{largest.bytes:.3g} of {largest.memory:.3g} bytes"
    return f"A call of {chunk_size} draws takes {held} on a device, and {words}."


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
