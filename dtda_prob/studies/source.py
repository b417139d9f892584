"""Where draws come from: a training, or a push-forward of one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from dtda_prob.perturbations import check_weights
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey, Weights, check_kind

Source = Training | PushForward
SOURCE = (
    "a push-forward, such as dtda.importance(training), or a training, dtda.Training(program, kernel)"
)

FEW_RUNS, MANY_RUNS = 4, 64
"""Runs unless their number is given, of kernels that keep several states of a run, and of others."""


def training_of(source: Source) -> Training:
    """Return the training behind a source of draws."""
    check_kind("source", source, Source, SOURCE)
    return source if isinstance(source, Training) else source.training


def matched(source: Source, num_removed: int, weights: np.ndarray) -> Source:
    """Return the source of trainings without that many rows, expanded at the mean of some weights."""
    if isinstance(source, Training):
        return source.drop(num_removed) if num_removed else source
    return source.matched(num_removed, jnp.asarray(weights.mean(0)) if len(weights) > 1 else None)


def start_of(source: Source, old: Any = None) -> Weights:
    """Return the weights where a push starts: those given, or all the data that training visits."""
    program = training_of(source).program
    return program.full_weights() if old is None else jnp.asarray(check_weights(program, old).values)


def default_draws(training: Training) -> int:
    """Return the number of draws where none is asked for: all that exist, or the draws of some runs."""
    kernel = training.kernel
    runs = kernel.num_runs or (FEW_RUNS if kernel.num_states > 1 else MANY_RUNS)
    return runs * kernel.num_states


def keys_of(source: Source, key: PRNGKey, runs: Int[Array, " run"] | np.ndarray) -> Key[Array, " run"]:
    """Return the key of each run, which depends on its position alone."""
    return training_of(source).kernel.keys(key, runs)


def draw_keys(key: PRNGKey, num_runs: int) -> Key[Array, " run"]:
    """Return the keys of the first runs of a training that is run for each."""
    return jax.vmap(partial(jax.random.fold_in, key))(np.arange(num_runs))
