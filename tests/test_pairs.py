"""Kernels times transforms, as docs/kernels.md has them: each pair is made, or refused as it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.kernels import CASES, DESCENT
from tables import ones, train

import dtda_prob as dtda
from dtda_prob import curvature, kernels

KEY = jax.random.key(0)
PAGE = Path(__file__).parents[1] / "docs" / "kernels.md"

KERNELS = {case.row: name for name, case in CASES.items() if case.row}
"""Rows of the table, and the kernels that they are tested by."""

TRANSFORMS = {
    "unroll": lambda t: dtda.unroll(t, at="old"),
    "influence": lambda t: dtda.influence(t, at="old"),
    'influence, damping="auto"': lambda t: dtda.influence(t, curvature.dense(damping="auto")),
    "segments": lambda t: dtda.segments(t, curvature.dense(), num_segments=2, at="old"),
    "trajectory": lambda t: dtda.trajectory(t, num_checkpoints=2, at="old"),
    "cosine": dtda.cosine,
    "covariance (walk)": lambda t: dtda.covariance(t, step_size=1e-3, num_samples=4, at="old"),
    "covariance (own states)": lambda t: dtda.covariance(t, at="old"),
    "newton": dtda.newton,
    "finetune": lambda t: dtda.finetune(t, DESCENT),
    "importance": lambda t: dtda.importance(t, KEY, num_draws=30),
    "retrain": dtda.retrain,
}

RUN = "`svi`"
"""The kernel whose pairs are run here: other tests run it with few transforms."""

SOME = ["unroll", "influence", "cosine", "finetune", "importance"]
"""Transforms that it is run with; `test_laws` runs all."""

FOLLOWING = ["unroll", "segments", "trajectory"]
"""Transforms that go through training; the others see no more of a kernel than its outcome."""

KINDS = ["`sgd`, multiples of gradients", "`in_precision`", "`hmc`"]
"""Kernels that are compiled on a device of their own."""


def rows(header: str) -> dict[str, list[str]]:
    """Read the table of the page whose first column is called so, without its rule."""
    lines = PAGE.read_text().split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {header} | unroll |"))
    return _cells(lines[start:])


def refusals() -> dict[str, list[str]]:
    lines = PAGE.read_text().split("\n")
    return _cells(lines[next(i for i, line in enumerate(lines) if line.startswith("| no |")) :])


def _cells(lines: list[str]) -> dict[str, list[str]]:
    end = next(i for i, line in enumerate(lines) if not line.startswith("|"))
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]
    return {first: others for first, *others in split if first != "---"}


PAIRS, SENTENCES = rows("kernel"), refusals()
COLUMNS = PAIRS.pop("kernel")


def cells(kernel: str) -> dict[str, str]:
    return dict(zip(COLUMNS, PAIRS[kernel], strict=True))


def trained(row: str) -> dtda.Training:
    return train(KERNELS[row])


def test_the_table_has_all_kernels_and_transforms():
    assert set(PAIRS) == set(KERNELS)
    assert list(TRANSFORMS) == COLUMNS
    public = {name for name in vars(kernels) if callable(getattr(kernels, name)) and name.islower()}
    named = {part for row in PAIRS for part in row.split("`")[1::2]}
    assert public == named


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_pair_is_made_or_refused_as_the_table_says(kernel):
    for transform, cell in cells(kernel).items():
        if cell.startswith("no: "):
            with pytest.raises(ValueError, match=SENTENCES[cell.removeprefix("no: ")][0]):
                TRANSFORMS[transform](trained(kernel))
        elif cell != "yes, push":
            made = TRANSFORMS[transform](trained(kernel))
            if transform in FOLLOWING and kernel != RUN:
                check_shapes(made, cell)


def check_shapes(made, cell: str) -> None:
    """Trace whatever directions there are, without compiling them."""
    value = jax.eval_shape(made.training.draw, KEY, ones()).value
    if cell == "yes, pull":
        response = jax.eval_shape(made.pull, KEY, ones())
        assert response.shape == (*value.shape, 12)
        return
    assert jax.eval_shape(made.push, KEY, ones(), ones()).value == value


def test_pairs_carry_a_draw_to_itself():
    """From weights to the same weights nothing moves; all in one compilation."""
    training = trained(RUN)
    chosen = [name for name in SOME if cells(RUN)[name].startswith("yes")]
    assert chosen == SOME
    made = {name: TRANSFORMS[name](training) for name in chosen}
    responses = {name: made.pop(name) for name in ("cosine",) if name in made}

    @jax.jit
    def run(key, weights):
        pushed = {name: each.push(key, weights, weights).value for name, each in made.items()}
        pulled = {name: each.pull(key, weights) for name, each in responses.items()}
        return training.draw(key, weights).value, pushed, pulled

    for key, weights in ((KEY, ones()), (jax.random.key(1), ones().at[3].set(0.5))):
        value, pushed, pulled = run(key, weights)
        for name, found in pushed.items():
            np.testing.assert_allclose(found, value, rtol=2e-3, atol=1e-4, err_msg=name)
        assert all(np.isfinite(found).all() for found in pulled.values())
    assert run._cache_size() == 1


def test_the_direction_that_is_not_there_is_refused():
    with pytest.raises(NotImplementedError, match="direction='pull'"):
        dtda.cosine(trained("`exact`")).push(KEY, ones(), ones())
    with pytest.raises(NotImplementedError, match="direction='push'"):
        dtda.importance(trained("`exact`"), KEY, num_draws=30).pull(KEY, ones())


def test_influence_of_pretrained_parameters_is_that_of_any_outcome():
    """A model that was trained elsewhere: no step, and the classical influence function."""
    made = dtda.influence(trained("`pretrained` alone"))
    assert made.training.num_passes() == 1.0
    assert np.isfinite(made.cost.pull)
    program = made.training.program

    def responses(params, weights):
        hessian = jax.hessian(program.objective)(params, weights)["slopes"]["slopes"]
        mixed = jax.jacobian(jax.grad(program.objective), argnums=1)(params, weights)["slopes"]
        slope = jax.jacobian(lambda p: made.training.observe(p)[1])(params)["slopes"]
        return made.pull(KEY, weights)[0], -slope @ jnp.linalg.solve(hessian, mixed)

    found, expected = jax.jit(responses)({"slopes": jnp.arange(3.0)}, ones())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_kernels_run_where_they_are_put_in_double_precision_compiled_once():
    """In a process with two devices, through the compiled function that `sample` draws with."""
    options = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": options, "JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {kernel: ["float64", [1], 1] for kernel in KINDS}


def placed(kernel: str) -> list:
    """Draw twice on the second device; give the type, where it is, and the number of compilations."""
    from dtda_prob.compiling import _jitted
    from dtda_prob.studies.calls import push_pairs

    training, device = trained(kernel), jax.devices()[1]
    _jitted.cache_clear()
    for seed, weight in ((0, 1.0), (1, 0.5)):
        keys = jax.random.split(jax.random.key(seed), 2)
        key, weights = jax.device_put((keys, weight * ones()), device)
        (value,) = push_pairs(training, (), None, key, weights, weights).values()
    places = sorted(each.id for each in value.devices())
    return [str(value.dtype), places, _jitted.cache_info().misses]


if __name__ == "__main__":
    print(json.dumps({kernel: placed(kernel) for kernel in KINDS}))
