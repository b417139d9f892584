"""What one GPU does: rates, seconds and memory, from a perceptron to a network of GPT-2 small's shape.

Run with `uv run python benchmarks/gpu.py` on a machine with a GPU (12 minutes at most on one card, no
network), or name parts, in any order and in several calls: product, perceptron, vit, language, gpt2.
Each writes its table to `docs/benchmarks/gpu.md` when it is done. With `--small` all sizes shrink so
that two processor cores take some minutes; it prints its tables and writes nothing. "First" is
tracing, compiling and running; "warm" is the same call again. "Planned" is what the compiler says that
the call holds. A training takes 6 operations for each parameter and token that is visited; the rate
of a response counts as many trainings as the method says that it costs.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import page
import pandas as pd
from jaxtyping import Array, Float
from large import GIB, SIZES, Size, count, pulled, random_tokens, trained
from networks import Block, adamw
from numpyro.contrib.module import eqx_module

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.compiling import compiled, split
from dtda_prob.transforms import PushForward

SEED = 0
SMALL = "--small" in sys.argv
RANK = 8 if SMALL else 200

MIDDLE = Size(512, 8, 8, 8192, 128, 4608, 8, 72, 64)
"""About thirty million parameters."""
TINY = Size(16, 2, 2, 64, 8, 32, 2, 2, 4)


def product() -> pd.DataFrame:
    """Multiply matrices of 8,192 rows: the card's own rates, in 10^12 operations a second."""
    size = 256 if SMALL else 8192
    rows = {}
    for dtype, precision in (("bfloat16", None), ("float32", "tensorfloat32"), ("float32", "float32")):
        x = jnp.ones((size, size), dtype)
        times = jax.jit(partial(jnp.matmul, precision=precision))
        row = timed(times.lower(x, x).compile(), (x, x), started=time.perf_counter())
        rows[dtype, precision or "as it is"] = {"rate": 2 * size**3 / row["warm, s"] / 1e12}
    return pd.DataFrame.from_dict(rows, "index").rename_axis(["type", "precision"])


def perceptron() -> pd.DataFrame:
    """Attribute a perceptron of 203,530 parameters on 50,000 images: 1,950 steps of 128.

    Random images of 784 pixels, since nothing here depends on what they show.
    """
    num_train, num_queries, steps = (256, 20, 4) if SMALL else (50_000, 1000, 1950)
    rng = np.random.default_rng(SEED)
    x = rng.random((num_train + num_queries, 784), np.float32)
    y = rng.integers(0, 10, len(x))
    program = dtda.Program(dtda.zoo.classifier([256], 10), x[:num_train], y=y[:num_train])
    kernel = dtda.kernels.sgd(optax.sgd(0.05, momentum=0.9), num_steps=steps, batch_size=128)
    measures = {
        number: dtda.measures.loss(x[num_train:][:number], y=y[num_train:][:number])
        for number in (num_queries // 10, num_queries)
    }
    few, many = (dtda.Training(program, kernel, measure) for measure in measures.values())
    rows = {f"{number} draws": drawn(few, number) for number in ((1, 4) if SMALL else (1, 16, 64, 256))}
    sources = {
        f"unroll, {num_queries // 10} queries": dtda.unroll(few),
        f"EK-FAC, {num_queries} queries": by_factors(many),
        f"Nystroem {RANK}, {num_queries} queries": dtda.influence(
            many, curvature.nystroem("gauss_newton", rank=RANK)
        ),
    }
    spent = operations(many, num_tokens=1)
    return table(rows | {name: response(source, spent) for name, source in sources.items()})


def vit() -> pd.DataFrame:
    """Attribute a vision transformer of 2.7 million parameters by AdamW: 300 steps of 64 images."""
    num_train, steps = (32, 2) if SMALL else (4096, 300)
    rng = np.random.default_rng(SEED)
    images = rng.random((num_train + 8, 28, 28), np.float32)
    y = rng.integers(0, 10, len(images))
    program = dtda.Program(vision, images[:num_train], y=y[:num_train])
    kernel = dtda.kernels.sgd(adamw(1e-3), num_steps=steps, batch_size=16 if SMALL else 64)
    training = dtda.Training(program, kernel, dtda.measures.loss(images[num_train:], y=y[num_train:]))
    return table(methods(training, num_tokens=49))


def language() -> pd.DataFrame:
    """Attribute a decoder-only transformer of thirty million parameters: 72 steps of 64 sequences."""
    return of_language(TINY if SMALL else MIDDLE)


def gpt2() -> pd.DataFrame:
    """Attribute a network of GPT-2 small's shape, from random weights: 72 steps of 64 sequences.

    4,608 sequences of 128 random tokens, each visited once, and 8 queries.
    """
    return of_language(TINY if SMALL else SIZES["GPT-2"])


def of_language(size: Size) -> pd.DataFrame:
    training = trained(size, *random_tokens(size))
    return table(methods(training, num_tokens=size.length))


def methods(training: dtda.Training, num_tokens: int) -> dict[str, dict[str, float]]:
    """Measure one draw, and its response by each method."""
    spent = operations(training, num_tokens)
    sources = {
        "unroll": dtda.unroll(training),
        "EK-FAC": by_factors(training),
        "EK-FAC, refined": dtda.influence(training, curvature.chebyshev()),
    }
    rows = {name: response(source, spent) for name, source in sources.items()}
    return {"1 draw": drawn(training, 1)} | rows


def by_factors(training: dtda.Training) -> PushForward:
    return dtda.influence(training, curvature.kronecker("fisher"))


def drawn(training: dtda.Training, number: int) -> dict[str, float]:
    """Draw several networks in one call."""
    keys, weights = jax.random.split(jax.random.key(SEED), number), training.program.full_weights()
    return measured(draws, (training, keys, weights))


def draws(training: dtda.Training, keys: Array, weights: Array) -> Array:
    return jax.vmap(lambda key: training.draw(key, weights).value)(keys)


def response(source: PushForward, spent: float) -> dict[str, float]:
    """Pull the response of all queries to all examples, of one draw."""
    weights = source.training.program.full_weights()
    row = measured(pulled, (source, jax.random.key(SEED), weights))
    rate = spent * (1 + source.cost.pull) / row["warm, s"] / 1e12
    return row | {"10^12 a second": rate}


def operations(training: dtda.Training, num_tokens: int) -> float:
    """Count the operations of a training whose examples have so many tokens."""
    rows = training.num_passes() * training.program.num_rows
    return 6.0 * count(training) * rows * num_tokens


def measured(function: Callable, arguments: tuple) -> dict[str, float]:
    """Compile a call, and time it first and warm."""
    started = time.perf_counter()
    call = compiled(function).lower(*arguments).compile()
    memory = call.memory_analysis()
    held = {"planned, GiB": (memory.temp_size_in_bytes + memory.output_size_in_bytes) / GIB}
    return timed(call, split(arguments)[:1], started) | held


def timed(call: Callable, arguments: tuple, started: float) -> dict[str, float]:
    """Call twice; the first time ends what has begun at `started`."""
    finite = jnp.isfinite(jnp.sum(jax.block_until_ready(call(*arguments)), dtype=jnp.float32))
    first = time.perf_counter() - started
    again = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    assert finite
    return {"first, s": first, "warm, s": time.perf_counter() - again}


def table(rows: dict[str, dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, "index").rename_axis("call")


class Vision(eqx.Module):
    """A vision transformer of 49 patches of 4 by 4 pixels."""

    patches: eqx.nn.Linear
    places: Array
    blocks: Block
    out: eqx.nn.Linear

    def __init__(self, key: Array, width: int = 192, depth: int = 6):
        first, second, third, last = jax.random.split(key, 4)
        self.patches = eqx.nn.Linear(16, width, key=first)
        self.places = 0.02 * jax.random.normal(second, (49, width))
        keys = jax.random.split(third, depth)
        self.blocks = eqx.filter_vmap(lambda key: Block(key, width, 6, ratio=4))(keys)
        self.out = eqx.nn.Linear(width, 10, key=last)

    def __call__(self, image: Float[Array, "28 28"]) -> Float[Array, " label"]:
        arrays, rest = eqx.partition(self.blocks, eqx.is_array)

        def one(x: Array, arrays: Any) -> tuple[Array, None]:
            return eqx.combine(arrays, rest)(x), None

        patches = image.reshape(7, 4, 7, 4).swapaxes(1, 2).reshape(49, 16)
        x, _ = jax.lax.scan(one, jax.vmap(self.patches)(patches) + self.places, arrays)
        return self.out(x.mean(0))


def vision(images: Array, y: Array | None = None) -> None:
    shape = {"width": 12, "depth": 2} if SMALL else {}
    network = eqx_module("net", Vision(numpyro.prng_key(), **shape))
    with numpyro.plate("data", len(images)) as i:
        logits = jax.vmap(network)(images[i])
        numpyro.sample("y", dist.Categorical(logits=logits), obs=None if y is None else y[i])


PARTS = {
    "product": product,
    "perceptron": perceptron,
    "vit": vit,
    "language": language,
    "gpt2": gpt2,
}

if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name in PARTS] or [*PARTS]
    for name in names:
        if SMALL:
            print(PARTS[name]().to_markdown(floatfmt=".3g"), flush=True)
        else:
            page.write_some("gpu", "One GPU", __doc__, [*PARTS.values()], [PARTS[name]], SEED)
