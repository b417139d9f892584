"""What a study will cost, in trainings, seconds and bytes, before it starts."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh
from jax.stages import Compiled

from dtda_prob.outcomes.compiled import compile_chunk
from dtda_prob.outcomes.devices import all_devices
from dtda_prob.outcomes.draws import CHUNK
from dtda_prob.outcomes.pulling import compile_block, queries_at_once
from dtda_prob.outcomes.reading import Reading
from dtda_prob.outcomes.source import draw_keys
from dtda_prob.perturbations import check_weights, num_removed
from dtda_prob.pricing import calls
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, Queries, Weights, check_key


class Plan(NamedTuple):
    """What each way to a study costs.

    Attributes:
        table: rows "retrain", "push" and "pull"; columns `trainings`, `seconds`, `bytes` (the most that
            a compiled call holds on a device, beside its arguments: one of `chunk_size` draws, or by
            pull of a run on each device and a block of queries) and `fitting` (draws of a call that the
            memory of the devices has room for; by pull, runs come one after another on each).
        advice: which to buy, and whether the chunk fits, in words.
    """

    table: pd.DataFrame
    advice: str

    def __str__(self) -> str:
        return f"{self.table.to_string(float_format='{:.3g}'.format)}\n{self.advice}"


class _Call(NamedTuple):
    """What a compiled call takes.

    Attributes:
        seconds: for each draw.
        base: bytes on a device, whatever the number of draws.
        each: bytes on a device for each draw of the call.
        most: draws of a call, however large the memory.
    """

    seconds: float
    base: float
    each: float
    most: float = np.inf

    def bytes(self, num_draws: int) -> float:
        return self.base + self.each * min(num_draws, self.most)

    def fitting(self, memory: float) -> float:
        return min(self.most, np.floor(max(0.0, memory - self.base) / self.each))


def plan(
    push_forward: PushForward,
    key: PRNGKey,
    *,
    num_draws: int = 16,
    perturbations: Any = None,
    chunk_size: int = CHUNK,
) -> Plan:
    """Price a study: retraining, pushing and pulling, calibrated by a short pilot of each.

    The pilot compiles the calls that `sample` and `attribute` make, and runs eight trainings and eight
    pushes on each device, and a pull of one block of queries. Trainings are counted by the transform's
    own `cost`, seconds are measured. Bytes are those that the compiler reports of a call; how many
    draws fit follows from those of a smaller one besides. Compilation, which is paid once, and the
    comparison of the samples are left out.

    Args:
        push_forward: the transform; it is matched to the rows that are dropped.
        key: key of the pilot.
        num_draws: draws that the study takes.
        perturbations: weights `(perturbation, datum)`; the removal of each datum in turn if None.
        chunk_size: trainings per compiled call, over all devices; see `sample`.

    Returns:
        The table and the advice; `print` shows both.

    Raises:
        ValueError: for bad weights.
    """
    check_key(key)
    program = push_forward.training.program
    weights = check_weights(program, perturbations)
    several = 1 if weights.ndim == 1 else len(weights)
    count = program.num_data if perturbations is None else several
    fitting = push_forward.matched(int(np.max(num_removed(weights))))
    training, old = fitting.training, fitting.training.program.full_weights()
    new = old.at[0].set(0.0) if perturbations is None else jnp.asarray(np.atleast_2d(weights)[0])
    new, read, mesh = new.astype(old.dtype), Reading(training, frozenset()), all_devices()
    draws = partial(_of_draws, key, min(calls.PILOT_DRAWS, num_draws), chunk_size, mesh)
    train = draws(lambda keys: compile_chunk(training, read, keys, old, old, mesh), old, old)
    push = draws(lambda keys: compile_chunk(fitting, read, keys, old, new, mesh), old, new)
    block = queries_at_once(training, weights.shape[-1])
    num_blocks = -(-len(training.measure.queries) // block)
    pull = _of_pull(fitting, key, old, jnp.arange(block), mesh)
    memory, each = calls.memory_of_device(), train.seconds
    columns = {
        "trainings": [
            num_draws * (count + 1.0),
            num_draws * (1 + count * push_forward.cost.push),
            num_draws * (num_blocks + push_forward.cost.pull),
        ],
        "seconds": [
            num_draws * (count + 1) * each,
            num_draws * (each + count * push.seconds),
            num_draws * num_blocks * pull.seconds,
        ],
        "bytes": [call.bytes(chunk_size) for call in (train, push, pull)],
        "fitting": [call.fitting(memory) for call in (train, push, pull)],
    }
    table = pd.DataFrame(columns, index=["retrain", "push", "pull"])
    advice = _advise(push_forward, table, num_draws, count), _room(table, chunk_size, memory)
    return Plan(table, " ".join(advice))


def _of_draws(
    key: PRNGKey,
    num_draws: int,
    chunk_size: int,
    mesh: Mesh | None,
    make: Callable[[jax.Array], Compiled],
    old: Weights,
    new: Weights,
) -> _Call:
    """Run a call of some draws on each device, and compare its memory with that of a whole chunk."""
    devices = 1 if mesh is None else mesh.size
    larger = max(2 * num_draws, -(-chunk_size // devices))
    few, more = (draw_keys(key, devices * several) for several in (num_draws, larger))
    try:
        compiled, chunk = make(few), make(more)
    except NotImplementedError:
        return _Call(np.nan, np.nan, np.nan)
    each = (calls.bytes_of(chunk) - calls.bytes_of(compiled)) / (len(more) - len(few))
    seconds = calls.seconds_of(compiled, few, old, new) / len(few)
    return _Call(seconds, calls.bytes_of(compiled) - each * len(few), each)


def _of_pull(
    source: PushForward, key: PRNGKey, old: Weights, queries: Queries, mesh: Mesh | None
) -> _Call:
    """Run a call of one run on each device."""
    shape = {"draw": 1} if mesh is None else mesh.shape
    keys = draw_keys(key, shape["draw"])
    compiled = compile_block(source, keys, old, None, queries, mesh)
    seconds = calls.seconds_of(compiled, keys, old, None, queries) / len(keys)
    return _Call(seconds, 0.0, calls.bytes_of(compiled) / len(keys), len(keys))


def _advise(push_forward: PushForward, table: pd.DataFrame, num_draws: int, count: int) -> str:
    seconds = table["seconds"]
    cheapest = seconds.idxmin()
    task = f"{num_draws} draws of {count} perturbations and all {_queries(push_forward)} queries"
    if cheapest == "retrain":
        return (
            f"For {task}, retraining is the cheaper buy: it takes {seconds['retrain']:.3g} s and is "
            f"exact; {push_forward.name} takes {seconds[['push', 'pull']].min():.3g} s."
        )
    return (
        f"For {task}, {push_forward.name} by {cheapest} takes {seconds[cheapest]:.3g} s, "
        f"{seconds['retrain'] / seconds[cheapest]:.3g} times less than retraining."
    )


def _room(table: pd.DataFrame, chunk_size: int, memory: float) -> str:
    """Say what a chunk takes, and whether it fits."""
    drawn = table.loc[["retrain", "push"]]
    held, fitting = drawn["bytes"].max(), drawn["fitting"].min()
    fits = "fits" if fitting >= chunk_size else f"does not fit: give chunk_size={fitting:.0f} at most"
    return (
        f"A call of {chunk_size} draws takes {held:.3g} of {memory:.3g} bytes on a device, and {fits}."
    )


def _queries(push_forward: PushForward) -> int:
    return len(push_forward.training.measure.queries)
