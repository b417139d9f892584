"""What a study will cost, in trainings, seconds and bytes, before it starts."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from dtda_prob.outcomes.source import draw_keys
from dtda_prob.perturbations import check_weights, num_removed
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, check_key

PILOT_DRAWS = 8
"""Draws of a pilot call: enough that one draw costs what it does in a chunk."""


class Plan(NamedTuple):
    """What each way to a study costs.

    Attributes:
        table: rows "retrain", "push" and "pull"; columns `trainings`, `seconds` and `bytes` (the most
            that a compiled call holds, beside its arguments).
        advice: which to buy, in words.
    """

    table: pd.DataFrame
    advice: str

    def __str__(self) -> str:
        return f"{self.table.to_string(float_format='{:.3g}'.format)}\n{self.advice}"


class _Pilot(NamedTuple):
    seconds: float
    bytes: float


def plan(
    push_forward: PushForward,
    key: PRNGKey,
    *,
    num_draws: int = 16,
    perturbations: Any = None,
) -> Plan:
    """Price a study: retraining, pushing and pulling, calibrated by a short pilot of each.

    The pilot compiles and runs eight trainings, eight pushes and one pull. Trainings are counted by
    the transform's own `cost`, seconds and bytes are measured. Compilation, which is paid once, and
    the comparison of the samples are left out.

    Args:
        push_forward: the transform; it is matched to the rows that are dropped.
        key: key of the pilot.
        num_draws: draws that the study takes.
        perturbations: weights `(perturbation, datum)`; the removal of each datum in turn if None.

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
    keys = draw_keys(key, min(PILOT_DRAWS, num_draws))
    train = _pilot(jax.vmap(training.draw, (0, None)), keys, old)
    push = _pilot(jax.vmap(fitting.push, (0, None, None)), keys, old, new.astype(old.dtype))
    pull = _pilot(fitting.pull, keys[0], old)
    each = train.seconds / len(keys)
    rows = {
        "retrain": (num_draws * (count + 1.0), num_draws * (count + 1) * each, train.bytes),
        "push": (
            num_draws * (1 + count * push_forward.cost.push),
            num_draws * (each + count * push.seconds / len(keys)),
            push.bytes,
        ),
        "pull": (
            num_draws * (1 + push_forward.cost.pull),
            num_draws * (each + pull.seconds),
            pull.bytes,
        ),
    }
    table = pd.DataFrame(rows, index=["trainings", "seconds", "bytes"]).T
    return Plan(table, _advise(push_forward, table, num_draws, count))


def _pilot(function: Callable, *arguments: Any) -> _Pilot:
    """Compile, run once, and time the second run; NaN where the transform has no such direction."""
    try:
        compiled = jax.jit(function).lower(*arguments).compile()
    except NotImplementedError:
        return _Pilot(np.nan, np.nan)
    jax.block_until_ready(compiled(*arguments))
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    held = memory.temp_size_in_bytes + memory.output_size_in_bytes if memory else np.nan
    return _Pilot(seconds, held)


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


def _queries(push_forward: PushForward) -> int:
    return len(push_forward.training.measure.queries)
