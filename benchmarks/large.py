"""How large a network fits: a transformer of ten million parameters, from binding to the first scores.

Run with `uv run python benchmarks/large.py` (ten minutes on two cores). It prints its table and writes
it to `docs/benchmarks/large.md`. A decoder-only transformer of 6 blocks (width 384, 6 heads) is trained
on 128 sequences of 64 characters by AdamW with warm-up and clipping, 8 steps of 8 sequences, and one
draw is attributed for 4 queries. Each row comes from a fresh process without a cache on disk.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import page
import pandas as pd
from jaxtyping import Array, Float, Int
from networks import LETTERS, Block, adamw, reference, sequences
from numpyro.contrib.module import eqx_module

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.compiling import compiled, split
from dtda_prob.transforms import PushForward

SEED = 0
WIDTH, DEPTH, HEADS, LENGTH = 384, 6, 6, 64
NUM_TRAIN, NUM_QUERIES = 128, 4
GIB = 2**30

METHODS: dict[str, Callable[[dtda.Training], PushForward]] = {
    "unroll": dtda.unroll,
    "influence by EK-FAC": lambda training: dtda.influence(training, curvature.kronecker("fisher")),
}


def ten_million() -> pd.DataFrame:
    """Attribute one draw: seconds of the processor for each stage, and memory.

    "Planned" is what the compiler says that the call holds, as `plan` reports; "peak" is the most
    that the process has held by the end of the run beyond what it held before the run.
    """
    rows = {name: in_a_process(name) for name in METHODS}
    return pd.DataFrame.from_dict(rows, "index").rename_axis("method")


class Language(eqx.Module):
    """A decoder-only transformer of several blocks; it predicts each character from those before it."""

    letters: eqx.nn.Embedding
    places: eqx.nn.Embedding
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    out: eqx.nn.Linear

    def __init__(self, key: Array):
        first, second, last, *keys = jax.random.split(key, 3 + DEPTH)
        self.letters = eqx.nn.Embedding(LETTERS + 1, WIDTH, key=first)
        self.places = eqx.nn.Embedding(LENGTH, WIDTH, key=second)
        self.blocks = [Block(key, WIDTH, HEADS, ratio=4) for key in keys]
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.out = eqx.nn.Linear(WIDTH, LETTERS, key=last)

    def __call__(self, tokens: Int[Array, " place"]) -> Float[Array, "place letter"]:
        before = jnp.pad(tokens[:-1], (1, 0), constant_values=LETTERS)
        x = jax.vmap(self.letters)(before) + self.places.weight
        for block in self.blocks:
            x = block(x, jnp.tril(jnp.ones((LENGTH, LENGTH), bool)))
        return jax.vmap(self.out)(jax.vmap(self.norm)(x))


def language(tokens: Array) -> None:
    network = eqx_module("net", Language(numpyro.prng_key()))
    with numpyro.plate("data", len(tokens)) as i:
        logits = jax.vmap(network)(tokens[i])
        numpyro.sample("next", dist.Categorical(logits=logits).to_event(1), obs=tokens[i])


def pulled(transform: PushForward, key: Array, weights: Array) -> Array:
    return transform.pull(key, weights)


def measured(name: str) -> dict[str, float]:
    """Measure the stages of one method, in this process."""
    row: dict[str, float] = {}
    train, queries = sequences(reference(), NUM_TRAIN, NUM_QUERIES, length=LENGTH)
    with spent(row, "binding, s"):
        program = dtda.Program(language, train)
        kernel = dtda.kernels.sgd(adamw(3e-4), num_steps=8, batch_size=8)
        training = dtda.Training(program, kernel, dtda.measures.loss(queries))
    arguments = METHODS[name](training), jax.random.key(SEED), program.full_weights()
    with spent(row, "tracing, s"):
        lowered = compiled(pulled).lower(*arguments)
    with spent(row, "compiling, s"):
        call = lowered.compile()
    before = held()
    with spent(row, "running, s"):
        scores = jax.block_until_ready(call(split(arguments)[0]))
    memory = call.memory_analysis()
    assert jnp.isfinite(scores).all()
    count = sum(leaf.size for leaf in jax.tree.leaves(program.shapes))
    planned = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / GIB
    return {"parameters": count} | row | {"planned, GiB": planned, "peak, GiB": held() - before}


def held() -> float:
    """Return the most GiB that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


@contextmanager
def spent(row: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    row[name] = time.process_time() - start


def in_a_process(name: str) -> dict[str, float]:
    command = [sys.executable, __file__, name]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measured(sys.argv[1])))
    else:
        page.write("large", "Large networks", __doc__, [ten_million], SEED)
