"""Measure how the cost of a study grows with its size: slopes, memory, disk, and a tested prediction.

A perceptron with 32 features, tanh units and 10 classes, SGD with momentum 0.9, batches of 64, on
synthetic normal data: N = 2,048 examples, P = 2,762 parameters, T = 128 steps, Q = 64 queries,
unless stated otherwise. Each number is the least of three warm calls, without compilation. Slopes
are fitted by least squares to the logarithm of seconds, or bytes, against the logarithm of the
count; errors are standard errors of the fit. Bytes are the memory that a call takes in addition to
its arguments, according to the compiler. Seconds are from a machine with two cores and hardly any
other work.

Run with `uv run python benchmarks/growth.py`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import xarray as xr
from page import write

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.attribution.arms import Arms
from dtda_prob.attribution.scores import score_arms
from dtda_prob.compiling import compiled
from dtda_prob.compiling import split as in_parts
from dtda_prob.divergences import resolve
from dtda_prob.storage import results
from dtda_prob.storage.store import writing
from dtda_prob.studies.calls import push_pairs
from dtda_prob.studies.pull import pull_runs
from dtda_prob.studies.source import draw_keys
from dtda_prob.training import Training

SEED = 0
BARE = dtda.Options(num_permutations=0, num_resamples=0)
KEY = jax.random.key(SEED)
BASE = {"N": 2048, "P": 64, "T": 128, "Q": 64}
"""Data, hidden units, steps, queries."""
NAMES = {"N": "data", "P": "parameters", "T": "steps", "Q": "queries"}
TIMES = (1, 2, 4)
DRAWS = 8
METHODS: dict[str, Callable] = {
    "unroll, pull": dtda.unroll,
    "Gauss-Newton by conjugate gradients, pull": lambda t: dtda.influence(
        t, curvature.conjugate_gradient("gauss_newton", damping=0.1, max_steps=50)
    ),
    "EK-FAC, pull": lambda t: dtda.influence(t, curvature.kronecker()),
}


def calls() -> pd.DataFrame:
    """Increase one count at a time, by factors of two and four.

    `sample` and a push are calls of 8 draws; a pull has one draw and all queries. A push or a pull
    includes the training that it starts from. "At base" is one call. A slope well below 1 means that at
    this size something else dominates the cost.
    """
    rows = []
    for name, measure in ways().items():
        base = measure(**BASE)
        row = {"call": name, "at base, s": base[0], "at base, MB": base[1] / 1e6}
        for axis in BASE:
            grown = [base] + [measure(**(BASE | {axis: k * BASE[axis]})) for k in TIMES[1:]]
            sizes = [count(axis, k * BASE[axis]) for k in TIMES]
            row[f"seconds by {NAMES[axis]}"] = slope(sizes, [seconds for seconds, _ in grown])
            row[f"bytes by {NAMES[axis]}"] = slope(sizes, [held for _, held in grown])
        rows.append(row)
        print(row, flush=True)
    return pd.DataFrame(rows).set_index("call").T


def draws_and_perturbations() -> pd.DataFrame:
    """Increase the draws of a call, or draws or perturbations of a study: `sample`, T = 32 steps."""
    training = perceptron(**BASE | {"T": 32})
    program, counts = training.program, (8, 16, 32, 64)
    chunk = [drawn(training, training, several) for several in counts]
    rows = {
        "draws of a call, seconds": (counts, [seconds for seconds, _ in chunk]),
        "draws of a call, bytes": (counts, [held for _, held in chunk]),
    }

    def study(num_draws: int, num_perturbations: int) -> float:
        weights = dtda.leave_one_out(program, range(num_perturbations))
        return least(
            lambda: dtda.sample(training, KEY, num_draws, weights, where=dtda.Where(progress=False))
        )

    several = (8, 16, 32)
    rows["draws of 16 perturbations, seconds"] = several, [study(n, 16) for n in several]
    rows["perturbations of 16 draws, seconds"] = several, [study(16, n) for n in several]
    found = [
        {"grown": name, "from": x[0], "to": x[-1], "first": y[0], "last": y[-1], "slope": slope(x, y)}
        for name, (x, y) in rows.items()
    ]
    return pd.DataFrame(found).set_index("grown")


def devices() -> pd.DataFrame:
    """Split a call of 16 draws over forced host devices, in separate processes, on two cores.

    A single device already uses several cores, so this measures the cost of splitting, and the bytes on
    each device, rather than the gain from more devices.
    """
    rows = [in_a_process("split", number) for number in (1, 2, 4)]
    return pd.DataFrame(rows).set_index("devices")


def scoring() -> pd.DataFrame:
    """Score 16 draws of both samples at 4 queries, by examples (2,000 to 8,000) and draws (8 to 32).

    "Bare" computes values, errors and intervals; "whole" also p-values from 20 permutations and
    ranks over 100 resamples. Microseconds are per pair of query and example.
    """
    rows, numbers, draws = [], (2_000, 4_000, 8_000), (8, 16, 32)
    for name in ("mean", "wasserstein"):
        for label, options in {"bare": BARE, "whole": dtda.Options()}.items():
            by_data = [score_seconds(name, 16, number, options) for number in numbers]
            by_draws = [score_seconds(name, several, 4_000, options) for several in draws]
            rows.append({
                "divergence": f"{name}, {label}",
                "microseconds a pair": by_data[-1] / (4 * numbers[-1]) * 1e6,
                "slope in data": slope(numbers, by_data),
                "slope in draws": slope(draws, by_draws),
            })  # fmt: skip
    return pd.DataFrame(rows).set_index("divergence")


def disk() -> pd.DataFrame:
    """Write and read blocks of one array of float32, of 1 to 64 MB.

    A line through the seconds of a block gives what each block costs and each byte. Files are in the
    page cache.
    """
    sizes = 2 ** np.arange(18, 25, 2)
    table = pd.DataFrame([stored(int(size)) for size in sizes], index=4 * sizes)
    rows = []
    for what, seconds in table.items():
        rate, each = np.polyfit(table.index, seconds, 1, w=1 / seconds)
        rows.append({"what": what, "ms a block": 1e3 * each, "MB/s": 1e-6 / rate})
    return pd.DataFrame(rows).set_index("what")


def blocks() -> pd.DataFrame:
    """Sample a training that takes a millisecond into a store, one run of 4 chains a block, and again.

    The second call finds everything finished. By a line through 16, 48 and 144 blocks.
    """
    training, numbers = perceptron(**BASE | {"T": 1}), (16, 48, 144)
    first, again, memory = [], [], []
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            options, here = dtda.Options(chunk_size=4), dtda.Where(progress=False)
            call = partial(dtda.sample, training, KEY, 4 * number, options=options, where=here)
            call()
            memory.append(timed(call))
            kept = partial(call, where=dtda.Where(Path(folder) / "study", progress=False))
            first.append(timed(kept))
            again.append(least(kept))
    rows = {"in memory": memory, "into a store": first, "again, all finished": again}
    found = []
    for name, seconds in rows.items():
        each, fixed = np.polyfit(numbers, seconds, 1)
        found.append({"call": name, "ms a block": 1e3 * each, "s a call": fixed})
    return pd.DataFrame(found).set_index("call")


SMALL = {"N": 2048, "P": 64, "T": 128, "Q": 64, "S": 8}
LARGE = {"N": 8192, "P": 64, "T": 256, "Q": 256, "S": 16}


def prediction() -> pd.DataFrame:
    """Predict a larger study from a small one, by the model of `docs/growth.md`, then run it.

    EK-FAC, scores by the mean (bare), effects kept. Every constant is measured at the small size:
    training; pulls of 64 and of 128 queries, whose difference is the cost of 64 queries; scoring;
    disk. The larger study has 4 times the examples and queries, twice the steps and draws: 32 times
    as many effects.
    """
    constants = measured()
    rows = []
    for name, size in {"small": SMALL, "large": LARGE}.items():
        parts = predicted(constants, size)
        actual = study_seconds(size)
        rows.append({"study": name} | size | parts | {"predicted, s": sum(parts.values())} | {
            "measured, s": actual, "ratio": actual / sum(parts.values()),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("study").T


def measured() -> dict[str, float]:
    """Return the constants of the model, each at the small size."""
    base = {axis: SMALL[axis] for axis in BASE}
    training = perceptron(**base)
    train = drawn(training, training, 1)[0]
    one, two = (pulled(METHODS["EK-FAC, pull"], **(base | {"Q": q}))[0] for q in (64, 128))
    row = (two - one) / 64
    written = [stored(2**22) for _ in range(2)][-1]
    pairs = SMALL["N"] * SMALL["Q"]
    return {
        "step": train / base["T"],
        "curvature": max(0.0, one - train - 64 * row) / base["N"],
        "row": row / base["N"],
        "score": score_seconds("mean", SMALL["S"], pairs // 4, BARE) / pairs / SMALL["S"],
        "write": written["write"] / 2**24,
        "read": written["read"] / 2**24,
    }


def predicted(c: dict[str, float], size: dict[str, int]) -> dict[str, float]:
    """Return the seconds of each part of a study whose queries are a single block."""
    numbers = size["S"] * size["Q"] * size["N"]
    return {
        "training, s": size["S"] * size["T"] * c["step"],
        "curvature, s": size["S"] * size["N"] * c["curvature"],
        "rows, s": numbers * c["row"],
        "scoring, s": numbers * c["score"],
        "disk, s": 4 * numbers * (c["write"] + c["read"]) + 12 * 8 * numbers / size["S"] * c["write"],
    }


def study_seconds(size: dict[str, int]) -> float:
    """Return the seconds of a study in a store, once its calls are compiled."""
    training = perceptron(**{axis: size[axis] for axis in BASE})
    source, seconds = METHODS["EK-FAC, pull"](training), []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            where = dtda.Where(Path(folder) / "study", progress=False, effects="effects")
            options = dtda.Options(num_permutations=0, num_resamples=0, check=False)
            attribute = partial(
                dtda.attribute, source, KEY, size["S"], ["mean"], options=options, where=where
            )
            seconds.append(timed(attribute))
    return min(seconds[1:])


def ways() -> dict[str, Callable]:
    def sampled(**sizes: int) -> tuple[float, float]:
        training = perceptron(**sizes)
        return drawn(training, training, DRAWS)

    def pushed(**sizes: int) -> tuple[float, float]:
        training = perceptron(**sizes)
        return drawn(dtda.unroll(training), training, DRAWS)

    pulls = {name: partial(pulled, method) for name, method in METHODS.items()}
    return {"sample": sampled, "unroll, push": pushed} | pulls


def perceptron(N: int, P: int, T: int, Q: int) -> Training:  # noqa: N803
    rng = np.random.default_rng(SEED)
    x, y = rng.normal(size=(N + Q, 32)).astype(np.float32), rng.integers(0, 10, N + Q)
    program = dtda.Program(dtda.zoo.classifier([P], 10), x[:N], y=y[:N])
    kernel = dtda.kernels.sgd(optax.sgd(0.02, momentum=0.9), num_steps=T, batch_size=64)
    return Training(program, kernel, dtda.measures.loss(x[N:], y=y[N:]))


def count(axis: str, value: int) -> int:
    return 43 * value + 10 if axis == "P" else value


def drawn(source, training: Training, num_draws: int) -> tuple[float, float]:
    """Return seconds and bytes of a call that draws."""
    old = training.program.full_weights()
    arguments = draw_keys(KEY, num_draws), old, old.at[0].set(0.0)
    return measured_call(push_pairs, source, ("statistics",), None, *arguments)


def pulled(method: Callable, **sizes: int) -> tuple[float, float]:
    """Return seconds and bytes of a call that pulls one draw."""
    training = perceptron(**sizes)
    keys, old, queries = draw_keys(KEY, 1), training.program.full_weights(), jnp.arange(sizes["Q"])
    return measured_call(pull_runs, method(training), None, keys, old, None, queries)


def measured_call(function: compiled, *arguments) -> tuple[float, float]:
    """Return seconds and bytes of a compiled call."""
    call = function.lower(*arguments).compile()
    traced, _ = in_parts(arguments)
    return least(lambda: call(traced)), held(call)


def held(call: jax.stages.Compiled) -> float:
    memory = call.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def split() -> dict[str, float]:
    """Time a call that is spread over the devices of this process."""
    from dtda_prob.studies.devices import all_devices

    training, mesh = perceptron(**BASE), all_devices()
    old, keys = training.program.full_weights(), draw_keys(KEY, 16)
    seconds, size = measured_call(push_pairs, training, ("statistics",), mesh, keys, old, old)
    return {"devices": jax.device_count(), "seconds": seconds, "MB a device": size / 1e6}


def score_seconds(name: str, num_draws: int, num_data: int, options: dtda.Options) -> float:
    """Return seconds to score 4 queries."""
    rng = np.random.default_rng(SEED)
    old = rng.normal(size=(num_draws, 4, 1)).astype(np.float32)
    new = old + 0.1 * rng.normal(size=(num_draws, 4, num_data)).astype(np.float32)
    score = partial(score_arms, Arms(old, new), (resolve(name),), "example", True, options)
    return min(timed(score) for _ in range(3))


def stored(size: int) -> dict[str, float]:
    """Return seconds to write and to read a block of `size` numbers, the least of three."""
    values = np.random.default_rng(SEED).normal(size=(1, size)).astype(np.float32)
    tree = xr.DataTree(xr.Dataset({"effect": (("run", "example"), values)}))
    seconds = []
    with tempfile.TemporaryDirectory() as folder, kept(Path(folder) / "study", tree) as group:
        for place in range(4):
            region = {"run": slice(place, place + 1)}
            seconds.append({
                "write": timed(lambda: group.write(tree, region, 0.0)),  # noqa: B023
                "read": timed(lambda: open_run(group, place)),  # noqa: B023
            })  # fmt: skip
    return pd.DataFrame(seconds[1:]).min().to_dict()


@contextmanager
def kept(path: Path, tree: xr.DataTree) -> Iterator:
    with writing(path, {"dtda_prob": json.dumps({"format": 1})}):
        coords = xr.Dataset(coords={"run": np.arange(4)})
        yield results.create(path, "blocks", tree, coords, {"run": 4}, {"run": 1}, {})


def open_run(result: results.Result, place: int) -> np.ndarray:
    tree = results.read(result.store, result.name, {"run": 4})
    return tree["effect"].isel(run=place).values


def least(function: Callable) -> float:
    """Return seconds of the fastest of three calls, after one that compiles."""
    jax.block_until_ready(function())
    return min(timed(lambda: jax.block_until_ready(function())) for _ in range(3))


def timed(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def slope(sizes: Sequence[int], values: Sequence[float]) -> str:
    """Fit a slope on logarithmic scales, with its standard error."""
    x, y = np.log(sizes), np.log(values)
    if np.ptp(y) == 0:
        return "0"
    (found, _), residual, *_ = np.polyfit(x, y, 1, full=True)
    freedom = max(1, len(x) - 2)
    error = np.sqrt(residual[0] / freedom / ((x - x.mean()) ** 2).sum())
    return f"{found:.2f} ± {error:.2f}"


def in_a_process(task: str, num_devices: int) -> dict:
    command = [sys.executable, __file__, task]
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"XLA_FLAGS": flags}
    )
    return json.loads(done.stdout.splitlines()[-1])


PARTS = [calls, draws_and_perturbations, devices, scoring, disk, blocks, prediction]

if __name__ == "__main__":
    if sys.argv[1:] == ["split"]:
        print(json.dumps(split()))
    else:
        write("growth", "How costs grow", __doc__, PARTS, SEED)
