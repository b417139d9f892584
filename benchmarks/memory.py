"""Stream scores that do not fit in memory to a store: 20,000 examples by 2,000 queries by 16 draws.

Logistic regression of odd against even digits on 49 features, images averaged over blocks of 4 by 4
pixels: SGD with momentum 0.9, rate 0.05, batches of 200, one epoch; influence functions with the
dense Gauss-Newton matrix, losses of the queries. Each row is a fresh process that has compiled
nothing yet. Memory is the peak resident size, including Python, JAX and the compiler (`VmHWM`); disk
usage is the sum of file sizes. Effects take 4 bytes per draw, query and example; scores take 12
numbers of 8 bytes per pair and divergence (score, error, intervals, ranks, rates), and statistics
that are not requested take no space.

Run with `uv run python benchmarks/memory.py`, or pass a folder to keep the stores in, which needs
15 GB. The images are MNIST if available, see `mnist.load`, else scikit-learn's digits, drawn with
replacement, each feature with noise of standard deviation 0.1 and 5 % of labels flipped.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import mnist
import numpy as np
import optax
import pandas as pd
from page import write

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.transforms import PushForward

SEED = 0
DATA, QUERIES, DRAWS = 20_000, 2_000, 16
BLOCK = 52
"""Queries that are scored at once, where all draws of them are to fit into memory."""
BARE = {"divergences": ["mean", "wasserstein"], "num_permutations": 0, "num_resamples": 0}
WHOLE = {"divergences": ["mean", "wasserstein"], "num_permutations": 20, "num_resamples": 100}

found: dict[str, dict] = {}


def memory() -> pd.DataFrame:
    """Attribute all queries to all training examples, and measure the peak memory.

    "Bare" scores use the mean and the Wasserstein distance, with errors and intervals, but without
    permutations and resamples. "Whole" scores also have p-values from 20 permutations and the certainty
    of ranks from 100 resamples, which cost time, and memory for a block of queries: the rows cover one
    block and two blocks. Retraining for blocks whose effects are not kept is cheap here. Seconds are of
    the processor, in all threads.
    """
    several = {
        "bare, effects kept": BARE | {"queries": QUERIES, "effects": "effects"},
        "bare, effects not kept": BARE | {"queries": QUERIES, "effects": None},
        "whole, one block": WHOLE | {"queries": BLOCK, "effects": None},
        "whole, two blocks": WHOLE | {"queries": 2 * BLOCK, "effects": None},
    }
    for name, case in several.items():
        found[name] = in_a_process("attribute", case | {"store": str(store(name))})
        if name != "bare, effects kept":
            shutil.rmtree(store(name))
    columns = ["data", "queries", "draws", "seconds", "peak MiB", "effects, GB", "scores, GB"]
    rows = [
        {"scores": name} | {column: row[column] for column in columns} for name, row in found.items()
    ]
    return pd.DataFrame(rows).set_index("scores")


def time_course() -> pd.DataFrame:
    """Follow memory and disk usage through the first row's run, at each tenth of its time.

    Seconds are elapsed, on a machine that other work shares.
    """
    course = np.asarray(found["bare, effects kept"]["course"])
    chosen = np.linspace(0, len(course) - 1, 11).astype(int)
    table = pd.DataFrame(course[chosen], columns=["seconds", "resident, MiB", "on disk, GB"])
    return table.set_index("seconds")


def reading() -> pd.DataFrame:
    """Read rankings back with `load` and xarray, in a new process each, with nothing in the page cache.

    Seconds are from the call of `load`, which inspects the store, until the labels of the examples are
    available. "Warm" repeats the same in the same process.
    """
    path = store("bare, effects kept")
    rows = [in_a_process("read", {"store": str(path), "what": what}) for what in READINGS]
    shutil.rmtree(path)
    return pd.DataFrame(rows).set_index("what")


def attribute(case: dict) -> dict:
    """Attribute, and watch."""
    source, path = influence(case["queries"]), Path(case["store"])
    options = dtda.Options(**{key: case[key] for key in ("num_permutations", "num_resamples")})
    course: list[tuple[float, float, float]] = []
    start, spent, over = time.perf_counter(), time.process_time(), threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            course.append((time.perf_counter() - start, resident("VmRSS"), gigabytes(path)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    where = dtda.Where(path, progress=False, effects=case["effects"] or "")
    dtda.attribute(
        source, jax.random.key(SEED), DRAWS, case["divergences"], options=options, where=where
    )
    seconds = time.process_time() - spent
    over.set()
    watcher.join()
    return {
        "data": DATA,
        "queries": case["queries"],
        "draws": DRAWS,
        "seconds": seconds,
        "peak MiB": resident("VmHWM"),
        "effects, GB": gigabytes(path / "effects"),
        "scores, GB": gigabytes(path / "scores"),
        "course": course,
    }


def read(case: dict) -> dict:
    """Read a ranking, twice."""
    path, before = Path(case["store"]), resident("VmHWM")
    forget(path)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        scores = dtda.load(path, "scores").to_dataset().sel(divergence="mean")
        first = READINGS[case["what"]](scores)
        seconds.append(time.perf_counter() - start)
    return {
        "what": case["what"],
        "rankings": len(first),
        "seconds": seconds[0],
        "warm, seconds": seconds[1],
        "peak MiB": resident("VmHWM"),
        "before, MiB": before,
    }


def first_of_one(scores) -> np.ndarray:
    """Return the first ten data of a query."""
    ranks = scores["rank"].isel(query=[700])
    return ranks["example"].values[np.argsort(ranks.values, axis=1)[:, :10]]


def first_of_all(scores) -> np.ndarray:
    """Return the first ten data of each query."""
    ranks = scores["rank"]
    query, place = np.nonzero(ranks.values <= 10)
    order = np.lexsort((ranks.values[query, place], query))
    return ranks["example"].values[place[order]].reshape(-1, 10)


def first_of_mean(scores) -> np.ndarray:
    """Return the first ten examples by mean absolute score over queries."""
    mean = np.abs(scores["score"]).mean("query")
    return mean["example"].values[np.argsort(-mean.values)[:10]][None]


READINGS = {
    "first ten data of one query": first_of_one,
    "first ten data of each query": first_of_all,
    "first ten data of the mean over queries": first_of_mean,
}
TASKS = {"attribute": attribute, "read": read}


def influence(num_queries: int) -> PushForward:
    """Return the influence function whose scores these are."""
    split = images()
    program = dtda.Program(dtda.zoo.classifier([], 2), split.x_train, y=split.y_train % 2)
    kernel = dtda.kernels.sgd(optax.sgd(0.05, momentum=0.9), num_epochs=1, batch_size=200)
    x, y = split.x_test[:num_queries], split.y_test[:num_queries] % 2
    training = dtda.Training(program, kernel, dtda.measures.loss(x, y=y))
    return dtda.influence(training, curvature.dense("gauss_newton", damping="auto"))


def images() -> dtda.zoo.Split:
    """Load 22,000 small images."""
    try:
        split = mnist.load(DATA, QUERIES, SEED)
    except RuntimeError:
        return made_up()
    return split._replace(x_train=pooled(split.x_train), x_test=pooled(split.x_test))


def pooled(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(-1, 49)


def made_up() -> dtda.zoo.Split:
    """Draw digits with replacement, and blur them."""
    split, rng = dtda.zoo.digits(), np.random.default_rng(SEED)

    def drawn(x: np.ndarray, y: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        chosen, turned = rng.integers(len(x), size=number), rng.random(number) < 0.05
        noisy = x[chosen, :49] + 0.1 * rng.normal(size=(number, 49)).astype(np.float32)
        return noisy, y[chosen] + turned.astype(np.int32)

    train = drawn(split.x_train, split.y_train, DATA)
    return dtda.zoo.Split(*train, *drawn(split.x_test, split.y_test, QUERIES))


def in_a_process(task: str, case: dict) -> dict:
    """Run a task in a new process, and give what it reports."""
    command = [sys.executable, __file__, task, json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def resident(field: str) -> float:
    """Return the current or peak resident memory of this process, in MiB."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 2**10


def gigabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in files(path)) / 1e9


def forget(path: Path) -> None:
    """Flush the files of a store to disk and drop them from the page cache."""
    for file in files(path):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def files(path: Path) -> list[Path]:
    found = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    return [file for file in found if not file.name.endswith(".partial") and file.exists()]


def store(name: str) -> Path:
    return FOLDER / f"{name.replace(',', '').replace(' ', '-')}.zarr"


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in TASKS:
        print(json.dumps(TASKS[sys.argv[1]](json.loads(sys.argv[2]))))
    else:
        with tempfile.TemporaryDirectory(dir=(sys.argv[1:] or [None])[0]) as folder:
            FOLDER = Path(folder)
            write("memory", "Scores that outgrow memory", __doc__, [memory, time_course, reading], SEED)
