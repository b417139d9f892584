"""What a user waits for before the first number: tracing and compilation, and cold commands.

Run with `uv run python benchmarks/compilation.py` (some fifteen minutes on two cores), or with the
names of some of its parts. It prints its tables and writes them to `docs/benchmarks/compilation.md`.
Each row comes from a fresh process that has compiled nothing yet and has no cache on disk. JAX itself
counts what XLA compiles. Seconds are of the processor, in all threads of the process, so that other
work on the machine changes them little.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
from networks import adamw, characters
from numpyro.contrib.module import eqx_module
from page import write_some

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.compiling import compiled, joined, split
from dtda_prob.demo import digits_training
from dtda_prob.transforms import PushForward

SEED = 0
SIZES = 1_000, 50_000
WIDTH, NUM_BLOCKS = 32, 4
SETTINGS = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"}
"""Variables of the environment that change what is compiled, or keep it."""

OPTIMIZER = optax.sgd(1.0, momentum=0.9)
Counted = dict[str, float]


def calls() -> pd.DataFrame:
    """Count and time what is compiled by the size of the data, on made-up images of 784 pixels.

    A perceptron 784-16-10 of tanh units, SGD with momentum 0.9, batches of 128, 60 steps. `sample`
    draws 4 networks; `pull` is one draw and its response for 8 queries. Each process counts what three
    calls compile, from the arrays to the result: one; the same on other data with another key; and the
    first with another setting (the learning rate, the pretrained weights, the damping). "Compiling" is
    tracing, lowering and compiling the call alone for `pull`, and for `sample` what the first call
    takes beyond the third. "Compiled" is the third call.
    """
    rows = []
    for name in CALLS:
        for size in SIZES:
            rows.append({"call": name, "examples": size} | in_a_process("call", name, str(size)))
            print(rows[-1], flush=True)
    return pd.DataFrame(rows).set_index("call")


def binding() -> pd.DataFrame:
    """Bind a transformer of 4 blocks (width 32, 4 heads) to 64 sequences of 8 tokens.

    `Program` traces the model and initialises its parameters; `Training` checks the kernel and the
    measure. "Second" is the same on other data of the same shapes.
    """
    return pd.DataFrame([in_a_process("bind")]).set_index("parameters")


def ratios() -> pd.DataFrame:
    """Compare the library with loops by hand: a transformer of 4 blocks (width 32), AdamW, 40 steps.

    By hand it is a scan over batches of 16 of 64 sequences, and `jax.jacrev` of the losses of 4 queries
    through it, without checkpoints. "Ratio" is of all seconds, to the loop or, for `pull`, to the
    Jacobian by hand. EK-FAC's row has no counterpart by hand and is compared with the loop.
    """
    rows = {name: in_a_process("stages", name) for name in STAGES}
    table = pd.DataFrame.from_dict(rows, "index").rename_axis("program")
    total = table[["trace, s", "lower, s", "compile, s"]].sum(axis=1)
    against = total["loop by hand"] * np.ones(len(table))
    against[[name.startswith("unroll: pull") for name in table.index]] = total["Jacobian by hand"]
    return table.assign(ratio=total / against)


def effort() -> pd.DataFrame:
    """Compile for CPU at several levels of `xla_backend_optimization_level`, and run.

    The library takes 1 on CPU unless `XLA_FLAGS` says another. "Compile" and "run" are seconds of the
    processor: 16 draws of the digits perceptron and one `pull` of `unroll` for 40 queries; 4 draws of
    the character transformer by AdamW; the loop by hand above.
    """
    rows = [
        {"program": name, "level": level} | in_a_process("level", name, str(level))
        for name in LEVELS
        for level in (0, 1, 2, 3)
    ]
    return pd.DataFrame(rows).set_index("program")


def commands() -> pd.DataFrame:
    """Time commands that a new user runs, from start to end, without and with a cache on disk.

    `dtda demo` with 64 draws; `dtda sample` with 8 draws of the experiment that `dtda new --csv` writes
    for a table of 200 rows and 4 columns. The second run starts from nothing but what the first run
    compiled. "Elapsed" includes what other work on the machine takes.
    """
    with tempfile.TemporaryDirectory() as folder:
        return pd.DataFrame([*_demo(Path(folder)), *_experiment(Path(folder))]).set_index("command")


def _demo(folder: Path) -> Iterator[dict]:
    for place in range(2):
        yield _run(folder, place, "demo", "--output", f"demo-{place}")


def _experiment(folder: Path) -> Iterator[dict]:
    rng = np.random.default_rng(SEED)
    table = pd.DataFrame(rng.normal(size=(200, 4)), columns=list("abcd"))
    table.assign(target=table.sum(1)).to_csv(folder / "table.csv", index=False)
    _run(folder, 0, "new", "--csv", "table.csv", "--target", "target", "experiment.py")
    for place in range(2):
        yield _run(folder, place, "sample", "experiment.py", f"study-{place}.zarr", "--draws", "8")


def _run(folder: Path, place: int, command: str, *arguments: str) -> dict:
    """Run a command with the cache of this folder, and return its seconds."""
    start, before = time.perf_counter(), _children()
    code = "from dtda_prob.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, command, *arguments],
        cwd=folder, check=True, stdout=subprocess.DEVNULL,
        env=_environment() | {"XDG_CACHE_HOME": str(folder / command)},
    )  # fmt: skip
    return {
        "command": f"dtda {command}",
        "cache": ("empty", "of the first run")[place],
        "seconds of the processor": _children() - before,
        "elapsed": time.perf_counter() - start,
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in SETTINGS}


# What a process measures.


@compiled
def pulled(transform: PushForward, key: jax.Array) -> jax.Array:
    return transform.pull(key, transform.training.program.full_weights())


def plain(setting: float) -> dtda.kernels.Kernel:
    """Return SGD with a learning rate of 0.02 times the setting."""
    return dtda.kernels.sgd(OPTIMIZER, num_steps=60, batch_size=128, learning_rate=0.02 * setting)


def pretrained(setting: float) -> dtda.kernels.Kernel:
    """Return SGD from a network whose first weights are all 0.01 times the setting."""
    start = dtda.kernels.pretrained({"weight0": np.full((16, 784), 0.01 * setting, np.float32)})
    return dtda.kernels.sequence(start, plain(1.0))


CALLS: dict[str, tuple[Callable, Callable | None]] = {
    "sample": (plain, None),
    "sample, pretrained": (pretrained, None),
    "pull of unroll": (plain, lambda training, _: dtda.unroll(training)),
    "pull of influence by EK-FAC": (
        lambda _: plain(1.0),
        lambda training, setting: dtda.influence(training, curvature.kronecker(damping=0.01 * setting)),
    ),
}
"""A kernel, and a push-forward to pull with if any, by their setting."""


def call(name: str, size: str) -> Counted:
    """Measure a call, the same on a second dataset, and with another setting."""
    model, (kernel, method) = dtda.zoo.classifier([16], 10), CALLS[name]

    def source(seed: int, setting: float = 1.0) -> dtda.Training | PushForward:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(int(size), 784)).astype(np.float32)
        y = rng.integers(0, 10, len(x))
        program = dtda.Program(model, x, y=y)
        training = dtda.Training(program, kernel(setting), dtda.measures.loss(x[:8], y=y[:8]))
        return method(training, setting) if method else training

    def once(seed: int, setting: float = 1.0) -> Counted:
        with counted() as spent:
            key, bound = jax.random.key(seed), source(seed, setting)
            jax.block_until_ready(pulled(bound, key) if method else dtda.sample(bound, key, 4))
        return spent

    with counted() as binding:
        bound = source(0)
    with counted() as compiling:
        if method:
            pulled.lower(bound, jax.random.key(0)).compile()
    first, second, other = once(0), once(1), once(0, 1.5)
    if not method:
        compiling["seconds"] = first["seconds"] - other["seconds"]
    return {
        "compilations": sum(part["compilations"] for part in (binding, compiling, first)),
        "on a second dataset": second["compilations"],
        "with another setting": other["compilations"],
        "compiling, s": compiling["seconds"],
        "compiled, s": other["seconds"],
    }


def bind() -> Counted:
    """Measure the binding of a transformer to two datasets."""
    rng = np.random.default_rng(SEED)
    kernel = dtda.kernels.sgd(optax.sgd(0.1), num_epochs=1, batch_size=16)
    row: Counted = {}
    for which in ("", "second "):
        x = rng.normal(size=(64, 8, 8)).astype(np.float32)
        y = rng.integers(0, 10, len(x))
        with counted() as spent:
            program = dtda.Program(transformer, x, y=y)
        row |= {f"{which}Program, s": spent["seconds"]}
        row |= {f"{which}compilations": spent["compilations"]}
        with counted() as spent:
            dtda.Training(program, kernel, dtda.measures.loss(x[:4], y=y[:4]))
        row |= {f"{which}Training, s": spent["seconds"]}
        row[f"{which}compilations"] += spent["compilations"]
        row["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(program.shapes))
    return row


def with_transformer() -> tuple[dtda.Training, jax.Array, jax.Array]:
    """Return the training of the transformer by AdamW, a key and weights."""
    x, y = tokens()
    kernel = dtda.kernels.sgd(adamw(3e-3), num_steps=40, batch_size=16)
    program = dtda.Program(transformer, x, y=y)
    training = dtda.Training(program, kernel, dtda.measures.loss(x[:4], y=y[:4]))
    return training, jax.random.key(0), program.full_weights()


def tokens() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(SEED)
    return rng.normal(size=(64, 8, 8)).astype(np.float32), rng.integers(0, 10, 64)


def by_hand() -> tuple[jax.Array, jax.Array, np.ndarray, np.ndarray]:
    """Return a key, weights and the data of the loop by hand."""
    return jax.random.key(0), jnp.ones(64), *tokens()


def loop(key: jax.Array, weights: jax.Array, x: jax.Array, y: jax.Array) -> tuple:
    """Train by hand; return the parameters, the losses along training, and the losses of 4 queries."""
    init, order = jax.random.split(key)
    trained, rest = eqx.partition(Transformer(init), eqx.is_inexact_array)
    optimizer = adamw(3e-3)(40)

    def losses(trained: eqx.Module, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = jax.vmap(eqx.combine(trained, rest))(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    def step(state: tuple, key: jax.Array) -> tuple:
        trained, own = state
        batch = jax.random.choice(key, len(x), (16,), replace=False)
        objective = lambda part: (weights[batch] * losses(part, x[batch], y[batch])).mean()  # noqa: E731
        loss, gradient = jax.value_and_grad(objective)(trained)
        updates, own = optimizer.update(gradient, own, trained)
        return (optax.apply_updates(trained, updates), own), loss

    (trained, _), path = jax.lax.scan(
        step, (trained, optimizer.init(trained)), jax.random.split(order, 40)
    )
    return trained, path, losses(trained, x[:4], y[:4])


def jacobian(key: jax.Array, weights: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.jacrev(lambda weights: loop(key, weights, x, y)[2])(weights)


def draw(training: dtda.Training, key: jax.Array, weights: jax.Array) -> object:
    return training.draw(key, weights)


def draws(training: dtda.Training, keys: jax.Array, weights: jax.Array) -> object:
    return jax.vmap(lambda key: training.draw(key, weights))(keys)


def pushed(training: dtda.Training, key: jax.Array, weights: jax.Array) -> object:
    return dtda.unroll(training, at="old").push(key, weights, 0.9 * weights)


def unrolled(training: dtda.Training, key: jax.Array, weights: jax.Array) -> object:
    return dtda.unroll(training).pull(key, weights)


def by_factors(training: dtda.Training, key: jax.Array, weights: jax.Array) -> object:
    return dtda.influence(training, curvature.kronecker()).pull(key, weights)


def several(training: dtda.Training, number: int) -> tuple[dtda.Training, jax.Array, jax.Array]:
    return training, jax.random.split(jax.random.key(0), number), training.program.full_weights()


STAGES: dict[str, tuple[Callable, Callable]] = {
    "loop by hand": (loop, by_hand),
    "draw": (draw, with_transformer),
    "unroll: push": (pushed, with_transformer),
    "Jacobian by hand": (jacobian, by_hand),
    "unroll: pull": (unrolled, with_transformer),
    "influence by EK-FAC: pull": (by_factors, with_transformer),
}
"""A function, and what makes its arguments."""

LEVELS: dict[str, tuple[Callable, Callable]] = {
    "16 draws, digits": (draws, lambda: several(digits_training(dtda.zoo.digits(), 40), 16)),
    "pull of unroll, digits": (
        unrolled,
        lambda: (digits_training(dtda.zoo.digits(), 40), jax.random.key(0), jnp.ones(1437)),
    ),
    "4 draws, characters": (draws, lambda: several(characters(128, 8), 4)),
    "loop by hand": STAGES["loop by hand"],
}


def stages(name: str) -> Counted:
    """Measure the tracing, lowering and compilation of a program."""
    function, make = STAGES[name]
    arguments, row = make(), {}
    with counted() as spent:
        traced, static = split(arguments)
        made = jax.jit(lambda traced: function(*joined(traced, static))).trace(traced)
    row["trace, s"] = spent["seconds"]
    with counted() as spent:
        lowered = made.lower()
    row["lower, s"] = spent["seconds"]
    with counted() as spent:
        lowered.compile(compiler_options={"xla_backend_optimization_level": 1})
    row["compile, s"] = spent["seconds"]
    return row | {"lines": len(lowered.as_text().splitlines())}


def level(name: str, number: str) -> Counted:
    """Measure the compilation of a program at a level, and a run of it."""
    function, make = LEVELS[name]
    arguments = make()
    traced, _ = split(arguments)
    lowered = compiled(function).lower(*arguments)
    with counted() as compiling:
        run = lowered.compile(compiler_options={"xla_backend_optimization_level": int(number)})
    jax.block_until_ready(run(traced))
    with counted() as running:
        jax.block_until_ready(run(traced))
    return {"compile, s": compiling["seconds"], "run, s": running["seconds"]}


@contextmanager
def counted() -> Iterator[Counted]:
    """Count the compilations and the processor's seconds of a block."""
    spent, start = {"compilations": 0}, time.process_time()

    def listen(event: str, *_: object, **__: object) -> None:
        spent["compilations"] += event.endswith("backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield spent
    jax.monitoring.unregister_event_duration_listener(listen)
    spent["seconds"] = time.process_time() - start


class Block(eqx.Module):
    """Attention and a perceptron, with layer norm before each."""

    norms: list
    attend: eqx.nn.MultiheadAttention
    perceptron: eqx.nn.MLP

    def __init__(self, key: jax.Array) -> None:
        one, two = jax.random.split(key)
        self.norms = [eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)]
        self.attend = eqx.nn.MultiheadAttention(4, WIDTH, key=one)
        self.perceptron = eqx.nn.MLP(WIDTH, WIDTH, 4 * WIDTH, 1, key=two)

    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = (jax.vmap(norm) for norm in self.norms)
        x = x + self.attend(*[first(x)] * 3)
        return x + jax.vmap(self.perceptron)(second(x))


class Transformer(eqx.Module):
    """Embed tokens, mix them in blocks, and read the mean."""

    embed: eqx.nn.Linear
    blocks: list
    read: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        first, last, *keys = jax.random.split(key, 2 + NUM_BLOCKS)
        self.embed, self.read = eqx.nn.Linear(8, WIDTH, key=first), eqx.nn.Linear(WIDTH, 10, key=last)
        self.blocks = [Block(key) for key in keys]

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.vmap(self.embed)(x)
        for block in self.blocks:
            x = block(x)
        return self.read(x.mean(0))


def transformer(x: jax.Array, y: jax.Array | None = None) -> None:
    network = eqx_module("network", Transformer(numpyro.prng_key()))
    with numpyro.plate("data", len(x)) as i:
        logits = jax.vmap(network)(x[i])
        numpyro.sample("y", dist.Categorical(logits=logits), obs=None if y is None else y[i])


def in_a_process(task: str, *arguments: str) -> Counted:
    command = [sys.executable, __file__, task, *arguments]
    environment = _environment() | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


TASKS: dict[str, Callable[..., Counted]] = {
    "call": call,
    "bind": bind,
    "stages": stages,
    "level": level,
}
PARTS = calls, binding, ratios, effort, commands

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in TASKS:
        print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
    else:
        chosen = [part for part in PARTS if part.__name__ in sys.argv[1:]]
        write_some("compilation", "Compilation", __doc__, PARTS, chosen or PARTS, SEED)
