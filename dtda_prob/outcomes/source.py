"""Where draws come from: a training, or a push-forward of one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from dtda_prob.perturbations import check_weights
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import Outcome, PRNGKey, Weights

Source = Training | PushForward
Reader = Callable[[Outcome, Weights], Any]
"""What is kept of an outcome at some weights."""


def training_of(source: Source) -> Training:
    """Give the training behind a source of draws."""
    return source if isinstance(source, Training) else source.training


def matched(source: Source, removed: int, weights: np.ndarray) -> Source:
    """Give the same source for trainings in which that many rows are gone, expanded amid weights."""
    if isinstance(source, Training):
        return source.drop(removed) if removed else source
    return source.matched(removed, jnp.asarray(weights.mean(0)) if len(weights) > 1 else None)


def start_of(source: Source, old: Any) -> Weights:
    """Give the weights where a push starts: those given, or all the data that a training visits."""
    program = training_of(source).program
    return program.full_weights() if old is None else jnp.asarray(check_weights(program, old).values)


def read_value(outcome: Outcome, weights: Weights) -> Float[Array, "query *output"]:
    """Keep the measured value alone."""
    return outcome.value


def draw_keys(key: PRNGKey, num_runs: int, first: int = 0) -> Key[Array, " run"]:
    """Give one key per run, from run `first` on; none depends on how many there are."""
    return keys_of(key, first + jnp.arange(num_runs))


def keys_of(key: PRNGKey, positions: Int[Array, " run"] | np.ndarray) -> Key[Array, " run"]:
    """Give the keys of the runs at these positions."""
    return jax.vmap(partial(jax.random.fold_in, key))(positions)
