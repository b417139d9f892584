"""Numbers that a change of the code must not move: twenty for each entry of the library's tables.

`python tests/golden.py check PREFIX` compares the cases whose names start so with `golden.json`, and
`python tests/golden.py write PREFIX` writes them anew, which is right only for new cases and where a
number was wrong before. Both compile as the tests do, unless the environment says how: with more
optimisation, the Sinkhorn divergence, which is computed in single precision, differs by 4e-7 of its
size, and pseudo-inverses that are not damped by 2e-9.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import dtda_prob as dtda

os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE",
)
FILE = Path(__file__).with_name("golden.json")
KEY = jax.random.key(7)
NUM_VALUES = 20
OF_PROBABILITIES = ("predictive_entropy", "expected_entropy", "mutual_information")


def cases() -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yield the name of each case, and a function that computes its numbers in double precision."""
    from cases import curvatures as curvature_cases
    from cases import transforms
    from cases.kernels import CASES
    from tables import train, train_network

    for name in CASES:
        yield f"kernel/{name}", lambda name=name: _outcome(train(name))
    for name, case in transforms.CASES.items():
        if not case.linear:
            yield f"transform/{name}", lambda case=case: _moved(case.make(train_network()))
            continue
        for at in ("old", "midpoint"):
            yield (
                f"transform/{name}, {at}",
                lambda case=case, at=at: _moved(case.make(train_network(), at=at)),
            )
    for space in transforms.SPACES:
        yield (
            f"transform/unroll, {space}",
            lambda space=space: _moved(dtda.unroll(train_network(), at="old", space=space)),
        )
    yield "transform/retrain", lambda: _moved(dtda.retrain(train_network()))
    yield "transform/cosine", lambda: _pulled(dtda.cosine(train_network()))
    curvatures = {name: case.curvature for name, case in curvature_cases.CASES.items()}
    curvatures |= {
        f"{name}, undamped": case.undamped
        for name, case in curvature_cases.CASES.items()
        if case.functions
    }
    curvatures |= {"dense Hessian": dtda.curvature.dense(), "automatic": dtda.curvature.gram()}
    for name, curvature in curvatures.items():
        yield (
            f"curvature/{name}",
            lambda curvature=curvature: _pulled(dtda.influence(train_network(), curvature, at="old")),
        )
    for name in sorted(dtda.divergences.available):
        yield f"divergence/{name}", lambda name=name: _estimated(name)


def compute(prefix: str = "") -> dict[str, list[float]]:
    """Compute the cases whose names start so."""
    with jax.enable_x64(True):
        return {name: numbers().tolist() for name, numbers in cases() if name.startswith(prefix)}


def _weights(num_data: int = 12) -> jax.Array:
    return jnp.ones(num_data).at[2].set(0.3).at[5].set(0.0)


def _outcome(training: dtda.Training) -> np.ndarray:
    outcome = jax.jit(training.draw)(KEY, _weights())
    return _some(ravel_pytree((outcome.value, outcome.params, outcome.stats))[0])


def _moved(push_forward) -> np.ndarray:
    pushed = jax.jit(push_forward.push)(KEY, jnp.ones(12), _weights()).value
    return _some(np.concatenate([np.ravel(pushed), _pulled(push_forward)]))


def _pulled(push_forward) -> np.ndarray:
    return _some(np.ravel(jax.jit(push_forward.pull)(KEY, jnp.ones(12))))


def _estimated(name: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(64, 1))
    old = shared + 0.1 * rng.normal(size=(64, 3))
    new = 1.1 * shared + 0.1 * rng.normal(size=(64, 3)) + np.array([0.0, 0.1, 0.5])
    vector = name in ("sliced_wasserstein", *OF_PROBABILITIES)
    if vector:
        old, new = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (old, new))
        old, new = old[:, None], new[:, None]
    both = [
        dtda.divergences.estimate(name, old, new, coupled=coupled, vector=vector)
        for coupled in (True, False)
    ]
    return _some(np.concatenate([np.ravel(np.asarray(part, float)) for each in both for part in each]))


def _some(numbers) -> np.ndarray:
    """Take twenty numbers, spread over all."""
    numbers = np.asarray(numbers, float)
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, NUM_VALUES).round().astype(int))]


def differences(prefix: str = "") -> dict[str, str]:
    """Return what differs from the file, by the name of the case."""
    expected, wrong = json.loads(FILE.read_text()), {}
    for name, computed in compute(prefix).items():
        if name not in expected:
            wrong[name] = "not in the file"
        elif not np.allclose(computed, expected[name], rtol=1e-9, atol=1e-12, equal_nan=True):
            largest = np.nanmax(np.abs(np.subtract(computed, expected[name])))
            wrong[name] = f"largest difference {largest:.2g}"
    return wrong


if __name__ == "__main__":
    command, *prefix = sys.argv[1:]
    if command == "write":
        numbers = json.loads(FILE.read_text()) | compute(*prefix)
        FILE.write_text(json.dumps(numbers, indent=0) + "\n")
    else:
        wrong = differences(*prefix)
        print("\n".join(f"{name}: {how}" for name, how in wrong.items()) or "equal")
        sys.exit(bool(wrong))
