"""A small study in a process of its own, which compiles as users do: without the settings of tests."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax

import dtda_prob as dtda
from dtda_prob.compiling import LEVEL, OFTEN, _level
from dtda_prob.studies.calls import draw_runs
from dtda_prob.studies.source import draw_keys


def test_a_study_is_compiled_without_settings_of_the_environment(tmp_path):
    ours = {name for name in os.environ if name.startswith(("XLA_", "JAX_"))}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__],
        env=environment | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [*tmp_path.glob("dtda_prob/jax/*/*")]


def study() -> None:
    assert LEVEL not in os.environ.get("XLA_FLAGS", "")
    assert _level(quick=False) == (OFTEN if jax.default_backend() == "cpu" else None)
    x = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    program = dtda.Program(dtda.zoo.linear_regression, x, y=x @ np.array([1.0, -2.0], np.float32))
    measure = dtda.measures.parameters()
    training = dtda.Training(program, dtda.kernels.sgd(optax.sgd(0.05), num_steps=4), measure)
    key = jax.random.key(0)
    sample = dtda.sample(training, key, 4, where=dtda.Where(Path("study.zarr"), progress=False))
    scores = dtda.attribute(dtda.unroll(training), key, 4, ["mean"])
    assert np.isfinite(scores["score"]).all()
    keys, weights = draw_keys(key, 4), program.full_weights()
    nested = jax.jit(lambda keys: draw_runs(training, None, keys, weights).value[:, 0])(keys)
    kept = sample["posterior_predictive/parameters"].values.swapaxes(0, 1).reshape(4, -1)
    np.testing.assert_allclose(kept, nested, rtol=1e-5)


if __name__ == "__main__":
    study()
