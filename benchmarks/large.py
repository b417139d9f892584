"""How large a network fits: decoder-only transformers, from binding to the first scores.

Run with `uv run python benchmarks/large.py`, or name parts: ten_million (ten minutes on two cores),
devices, gpt2 (five each). It prints its tables and writes them to `docs/benchmarks/large.md`. The
blocks of a transformer are scanned, so that one of them is compiled. Training is by AdamW with warm-up
and clipping; each row comes from a fresh process without a cache on disk. "Planned" is what the
compiler says that the call holds on each device, as `plan` reports.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import page
import pandas as pd
from jaxtyping import Array, Float, Int
from networks import LETTERS, Block, adamw, reference, sequences
from numpyro.contrib.module import eqx_module

import dtda_prob as dtda
from dtda_prob import checkpoints, curvature
from dtda_prob.compiling import compiled, split
from dtda_prob.program import whole
from dtda_prob.studies.devices import mesh_of
from dtda_prob.studies.pull import pull_runs
from dtda_prob.transforms import PushForward, memory

SEED = 0
GIB = 2**30
CARD = 80 * GIB
"""The memory of one card in `gpt2`, by which the library decides what it computes again."""

METHODS: dict[str, Callable[[dtda.Training], PushForward]] = {
    "unroll": dtda.unroll,
    "influence by EK-FAC": lambda training: dtda.influence(training, curvature.kronecker("fisher")),
}


def ten_million() -> pd.DataFrame:
    """Attribute one draw of 10.7 million parameters for 4 queries: seconds of the processor by stage.

    6 blocks of width 384, 128 sequences of 64 characters, 8 steps of 8 sequences. "Peak" is the most
    that the process has held by the end of the run beyond what it held before the run.
    """
    rows = {name: in_a_process("measured", name) for name in METHODS}
    return pd.DataFrame.from_dict(rows, "index").rename_axis("method")


def devices() -> pd.DataFrame:
    """Split the same training over eight forced devices of one processor: what each is to hold.

    The parameters are split over all eight, or over four with each batch split over two. A seed and
    the queries stay together; tests compare the numbers with the numbers of one device.
    """
    meshes = {"one device": "", "parameter=8": "8", "parameter=4, example=2": "4,2"}
    rows = {
        (method, mesh): in_a_process("planned", method, "ten million", shape)
        for method in METHODS
        for mesh, shape in meshes.items()
    }
    return pd.DataFrame.from_dict(rows, "index").rename_axis(["method", "devices"])


def gpt2() -> pd.DataFrame:
    """Plan `unroll`, without running, of a network of GPT-2 small's shape: 72 steps of 64 sequences.

    4,608 sequences of 128 random tokens, each visited once, and 8 queries, of which the library pulls
    as many at once as it expects to fit. Memory is planned by the compiler of one processor for cards
    of 80 GiB, for a program of 64 sequences: it hardly depends on how many there are. Operations are
    counted by hand: 6 for each parameter and token, in as many passes over the data as the method
    counts. Minutes follow for cards that do 10^14 operations a second and spend no time on
    communication.
    """
    meshes = {1: "", 8: "8"}
    rows = {n: in_a_process("planned", "unroll", "GPT-2", mesh) for n, mesh in meshes.items()}
    table = pd.DataFrame.from_dict(rows, "index").rename_axis("cards")
    return table.assign(**{"minutes at 10^14 a second": table["operations"] / 1e14 / 60 / table.index})


class Size(NamedTuple):
    """The shape of a transformer, and how long and on how much it is trained."""

    width: int
    depth: int
    heads: int
    tokens: int
    length: int
    num_train: int
    num_queries: int
    num_steps: int
    batch_size: int


SIZES = {
    "ten million": Size(384, 6, 6, LETTERS, 64, 128, 4, 8, 8),
    "GPT-2": Size(768, 12, 12, 50_257, 128, 4608, 8, 72, 64),
}


class Language(eqx.Module):
    """A decoder-only transformer; it predicts each token from those before it."""

    tokens: eqx.nn.Embedding
    places: eqx.nn.Embedding
    blocks: Block
    norm: eqx.nn.LayerNorm

    def __init__(self, key: Array, size: Size):
        first, second, third = jax.random.split(key, 3)
        self.tokens = eqx.nn.Embedding(size.tokens + 1, size.width, key=first)
        self.places = eqx.nn.Embedding(size.length, size.width, key=second)
        keys = jax.random.split(third, size.depth)
        self.blocks = eqx.filter_vmap(lambda key: Block(key, size.width, size.heads, ratio=4))(keys)
        self.norm = eqx.nn.LayerNorm(size.width)

    def __call__(self, tokens: Int[Array, " place"]) -> Float[Array, "place token"]:
        mask = jnp.tril(jnp.ones((len(tokens), len(tokens)), bool))
        arrays, rest = eqx.partition(self.blocks, eqx.is_array)

        def one(x: Array, arrays: Any) -> tuple[Array, None]:
            return eqx.combine(arrays, rest)(x, mask), None

        start = len(self.tokens.weight) - 1
        before = jnp.pad(tokens[:-1], (1, 0), constant_values=start)
        x, _ = jax.lax.scan(one, jax.vmap(self.tokens)(before) + self.places.weight, arrays)
        return jax.vmap(self.norm)(x) @ self.tokens.weight[:-1].T


def language(tokens: Array, size: Size) -> None:
    network = eqx_module("net", Language(numpyro.prng_key(), size))
    with numpyro.plate("data", len(tokens)) as i:
        logits = jax.vmap(network)(tokens[i])
        numpyro.sample("next", dist.Categorical(logits=logits).to_event(1), obs=tokens[i])


def trained(size: Size, train: np.ndarray, queries: np.ndarray) -> dtda.Training:
    """Bind a transformer and its training to sequences."""
    program = dtda.Program(partial(language, size=size), train)
    kernel = dtda.kernels.sgd(adamw(3e-4), num_steps=size.num_steps, batch_size=size.batch_size)
    return dtda.Training(program, kernel, dtda.measures.loss(queries))


def characters(size: Size) -> list[np.ndarray]:
    """Return sequences to train on, and queries."""
    return sequences(reference(), size.num_train, size.num_queries, length=size.length)


def random_tokens(size: Size) -> list[np.ndarray]:
    """Return random tokens of the shapes of sequences to train on, and of queries."""
    rng, numbers = np.random.default_rng(SEED), (size.num_train, size.num_queries)
    return [rng.integers(0, size.tokens, (number, size.length), np.int32) for number in numbers]


def pulled(transform: PushForward, key: Array, weights: Array) -> Array:
    return transform.pull(key, weights)


def measured(name: str) -> dict[str, float]:
    """Measure the stages of one method, in this process."""
    row: dict[str, float] = {}
    size = SIZES["ten million"]
    with spent(row, "binding, s"):
        training = trained(size, *characters(size))
    arguments = METHODS[name](training), jax.random.key(SEED), training.program.full_weights()
    with spent(row, "tracing, s"):
        lowered = compiled(pulled).lower(*arguments)
    with spent(row, "compiling, s"):
        call = lowered.compile()
    before = held()
    with spent(row, "running, s"):
        scores = jax.block_until_ready(call(split(arguments)[0]))
    assert jnp.isfinite(scores).all()
    return {"parameters": count(training)} | row | holds(call) | {"peak, GiB": held() - before}


def planned(name: str, size: str, shape: str = "") -> dict[str, float]:
    """Plan one method on a mesh of this shape, in this process: nothing is trained."""
    shapes = SIZES[size]
    if size == "GPT-2":
        checkpoints.memory_of_device = memory.memory_of_device = whole.memory_of_device = lambda: CARD
        shapes = shapes._replace(num_train=shapes.batch_size)  # binding evaluates all of them once
    training = trained(shapes, *(random_tokens if size == "GPT-2" else characters)(shapes))
    source = METHODS[name](training)
    mesh = shape and jax.make_mesh([*map(int, shape.split(","))], AXES[: shape.count(",") + 1])
    queries = np.arange(shapes.num_queries, dtype=np.int32)
    keys, weights = jax.random.split(jax.random.key(SEED), 1), training.program.full_weights()
    row: dict[str, float] = {}
    with spent(row, "tracing and compiling, s"):
        call = pull_runs.lower(source, mesh_of(mesh), keys, weights, None, queries).compile()
    if size == "GPT-2":
        tokens = SIZES[size].num_train * shapes.length
        row["queries at once"] = min(memory.at_once(source), shapes.num_queries)
        row["operations"] = 6.0 * count(training) * tokens * (1 + source.cost.pull)
    return {"parameters": count(training)} | holds(call) | row


def count(training: dtda.Training) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(training.program.shapes))


def holds(call: Any) -> dict[str, float]:
    plan = call.memory_analysis()
    return {"planned, GiB": (plan.temp_size_in_bytes + plan.output_size_in_bytes) / GIB}


def held() -> float:
    """Return the most GiB that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


@contextmanager
def spent(row: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    row[name] = time.process_time() - start


def in_a_process(task: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, task, *arguments]
    flags = (
        "--xla_force_host_platform_device_count=8" if any(each in FORCED for each in arguments) else ""
    )
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_FLAGS": flags}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


AXES, FORCED = ("parameter", "example"), {"8", "4,2"}
"""Axes of meshes, and their shapes, which have eight devices."""

TASKS = {"measured": measured, "planned": planned}
PARTS = {"ten_million": ten_million, "devices": devices, "gpt2": gpt2}

if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in TASKS:
        print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
    else:
        chosen = [PARTS[name] for name in sys.argv[1:] or PARTS]
        page.write_some("large", "Large networks", __doc__, [*PARTS.values()], chosen, SEED)
