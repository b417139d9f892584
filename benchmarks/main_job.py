"""Measure the main job on digits: single examples, coherent and random groups, and the cost.

Run with `uv run python benchmarks/main_job.py` (about ten minutes on two cores). It prints its tables
and writes them to `docs/benchmarks/main_job.md`. Perceptron 64-64-10 with tanh units, SGD with
momentum 0.9, cosine rate from 0.05, batches of 64, 20 epochs, 1437 digits to train and 360 to test.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from page import circumstances

import dtda_prob as dtda
from dtda_prob import evaluate
from dtda_prob.demo import digits_training, most_supporting
from dtda_prob.divergences import estimate
from dtda_prob.studies.source import draw_keys
from dtda_prob.training import Training
from dtda_prob.typing import PRNGKey

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "main_job.md"
SEED = 0
SPACES = ("parameters", "outputs", "measurement")


def single_data(training: Training, keys: PRNGKey) -> pd.DataFrame:
    """Leave out 48 random examples: 60 queries, 16 draws, 32 retrainings with other keys."""
    choice, predict, retrain = jax.random.split(keys, 3)
    data = jax.random.choice(choice, training.program.num_data, (48,), replace=False)
    rows = {}
    for name, coupled in (("coupled", True), ("independent", False)):
        options = evaluate.CompareOptions(coupled=coupled)
        result = evaluate.loo(
            dtda.unroll(training), predict, retrain, np.asarray(data), options=options
        )
        rows[f"{name} keys"] = summarise(result, ["pearson", "spearman", "reliability"])
    return pd.DataFrame(rows).T


def random_groups(training: Training, keys: PRNGKey) -> pd.DataFrame:
    """Remove 40 random groups of 5 %: 16 draws, 16 coupled retrainings with other keys."""
    choice, predict, retrain = jax.random.split(keys, 3)
    groups = dtda.random_subsets(training.program, choice, 40, keep=0.95)
    arms = evaluate.retrainings(training, retrain, groups, num_retrainings=16)
    truth = evaluate.effects(arms, num_splits=20)
    rows = {}
    for name, at, direction in (
        ("pull (measurement linearised)", "old", "pull"),
        ("push of the outputs", "old", "push"),
        ("push of the outputs, midpoint", "midpoint", "push"),
    ):
        predicted = evaluate.predictions(
            dtda.unroll(training, at=at), predict, 16, groups, direction=direction
        )
        result = evaluate.agreement(evaluate.effects(predicted), truth)
        rows[name] = summarise(result, ["pearson", "spearman", "reliability"])
    return pd.DataFrame(rows).T


def coherent_groups(training: Training, keys: PRNGKey, num_queries: int = 8) -> pd.DataFrame:
    """Remove the 5 % of the data on which each of 8 queries depends most; 32 draws, other keys."""
    score_key, full_key, retrain_key = jax.random.split(keys, 3)
    scores = dtda.attribute(dtda.unroll(training), score_key, 16, ["mean"])
    full = dtda.sample(training, full_key, 32)
    ratios: dict[str, list[float]] = {"null level": []}
    for query in range(num_queries):
        without = dtda.remove(training.program, most_supporting(scores, query, 0.05))
        retrained = losses(dtda.sample(training, retrain_key, 32, without), query)
        moved = estimate("wasserstein", losses(full, query), retrained, coupled=False).value
        for at in ("old", "midpoint"):
            for space in SPACES:
                transform = dtda.unroll(training, at=at, space=space)
                tree = dtda.sample(transform, full_key, 32, without, options=dtda.Options(check=False))
                predicted = losses(tree, query)
                missed = estimate("wasserstein", predicted, retrained, coupled=False)
                ratios.setdefault(f"{space}, at the {at} weights", []).append(missed.value / moved)
        ratios["null level"].append(float(null_level(training, retrain_key, without, query) / moved))
    return pd.DataFrame(
        {name: np.quantile(values, [0.5, 0.0, 1.0]) for name, values in ratios.items()},
        index=["median", "least", "most"],
    ).T


def null_level(training: Training, key: PRNGKey, without: xr.DataArray, query: int) -> float:
    """Return W2 between two independent samples of the retrained distribution."""
    arms = (
        losses(dtda.sample(training, jax.random.fold_in(key, i), 32, without), query) for i in (1, 2)
    )
    return float(estimate("wasserstein", *arms, coupled=False, num_permutations=0).value)


def cost(training: Training, keys: PRNGKey, num_draws: int = 64) -> pd.DataFrame:
    """Time compiled calls, the least of five; compare the speed of training with matrix products."""
    program, ones = training.program, jnp.ones(training.program.num_data)
    new = ones.at[:72].set(0.0)
    each, unrolled = draw_keys(keys, num_draws), dtda.unroll(training)
    num_queries = len(training.measure.queries)
    train = seconds(jax.jit(jax.vmap(training.draw, (0, None))), each, ones)
    push = seconds(jax.jit(jax.vmap(unrolled.push, (0, None, None))), each, ones, new)
    pull = seconds(jax.jit(unrolled.pull), each[0], ones)
    rows = {
        "training, one of 64 at once": train / num_draws,
        "push, one of 64 at once": push / num_draws,
        "pull, one query of 60 at once": pull / num_queries,
    }
    table = pd.DataFrame({name: {"milliseconds": 1e3 * x.min()} for name, x in rows.items()}).T
    table["in trainings"] = table["milliseconds"] / table["milliseconds"].iloc[0]
    rate = num_draws * training_flops(program) / train.min()
    table.loc["training, GFLOP/s", "milliseconds"] = rate / 1e9
    for shape in ((64, 64, 64), (256, 256), (1024, 1024), (2048, 2048)):
        product = matmul_rate(shape)
        name = f"share of the product of two {shape} arrays, {product / 1e9:.0f} GFLOP/s"
        table.loc[name] = [np.nan, rate / product]
    return table


def matmul_rate(shape: tuple[int, ...]) -> float:
    """Return floating-point operations a second of float32 products, 100 in a row."""

    def products(a: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 100, lambda i, x: x @ a, a)

    operations = 100 * 2 * np.prod(shape) * shape[-1]
    return float(operations / seconds(jax.jit(products), jnp.eye(shape[-1]) * jnp.ones(shape)).min())


def training_flops(program: dtda.Program) -> float:
    """Count the products of the network alone: forward, and twice that back, less the input's own."""
    widths, steps, batch = (64, 64, 10), 440, 64
    products = [2 * a * b for a, b in pairwise(widths)]
    return steps * batch * (3 * sum(products) - products[0])


def seconds(function: Callable, *arguments: object, repeats: int = 5) -> np.ndarray:
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return np.array(times)


def losses(tree: xr.DataTree, query: int) -> np.ndarray:
    return tree["posterior_predictive"].to_dataset()["loss"].sel(query=query).values.ravel()


def summarise(result: xr.Dataset, names: list[str]) -> dict[str, float]:
    """Return means over queries, and the standard error over queries."""
    table = {}
    for name in names:
        table[name] = float(result[name].mean())
        table[f"{name} +-"] = float(result[name].std(ddof=1) / np.sqrt(result.sizes["query"]))
    return table


def main() -> None:
    start = time.perf_counter()
    keys = jax.random.split(jax.random.key(SEED), 4)
    training = digits_training(dtda.zoo.digits(), 60)
    parts = (cost, single_data, random_groups, coherent_groups)
    lines = ["# Benchmarks", "", __doc__.strip(), ""]
    for part, key in zip(parts, keys, strict=True):
        table = part(training, key)
        title = part.__name__.replace("_", " ").capitalize()
        lines += [f"## {title}", "", part.__doc__.split("\n")[0], ""]
        lines += [table.to_markdown(floatfmt=".3f"), ""]
        print("\n".join(lines[-5:]), flush=True)
    lines.append(circumstances(SEED, start))
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
