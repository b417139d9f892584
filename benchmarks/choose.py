"""Which method, where real networks train: all methods against retraining, and what `choose` takes.

Run with `uv run python benchmarks/choose.py` (some half an hour on two cores), or with the names of
some of its parts. It prints its tables and writes their sections of `docs/benchmarks/choose.md`. The
truth is coupled retraining; methods predict with 8 draws under other keys. Direction is the Pearson
correlation of predicted and retrained effects over perturbations, averaged over queries; size is the
slope of retrained on predicted effects: 1 is right, below 1 predictions are too long. "+-" is the
crossed jackknife over perturbations and retrainings, and the ceiling is the root of the truth's
reliability. `choose` has its default budget of 96 trainings, on perturbations and keys of its own;
"stated" is the direction that it expects on perturbations which had no part in the choice, and the row
of its choice has the factor that it fitted. Half of the data are dropped, or 8 % of them removed, as
each part says. Seconds include compilation; for `choose` they include all that it does.
"""

import gzip
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import optimizers
import page
import pandas as pd
import xarray as xr

import dtda_prob as dtda
from dtda_prob import kernels
from dtda_prob.attribution.methods import candidates, compare, shifts
from dtda_prob.demo import digits_training
from dtda_prob.training import Training

SEED = 0
NUM_DRAWS, NUM_RETRAININGS = 8, 12
FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where `apt-get install dataset-fashion-mnist` puts Fashion-MNIST (MIT licence)."""


def digits_halves() -> pd.DataFrame:
    """Perceptron 64-64-10 on 1437 digits, SGD with momentum, cosine rate; 24 random halves dropped."""
    training = digits_training(dtda.zoo.digits(), 40)
    return study(training, halves(training.program))


def concrete_halves() -> pd.DataFrame:
    """Perceptron 128-128-128 on 896 rows of Concrete, SGD at one rate; 24 random halves dropped."""
    split = dtda.zoo.concrete()
    program = dtda.Program(
        dtda.zoo.regressor([128] * 3, noise=0.5**0.5), split.x_train, y=split.y_train
    )
    optimizer = optax.chain(optax.add_decayed_weights(1e-5), optax.sgd(0.01, momentum=0.9))
    kernel = kernels.sgd(optimizer, num_epochs=20, batch_size=32)
    measure = dtda.measures.squared_error(split.x_test[:40], y=split.y_test[:40])
    return study(Training(program, kernel, measure), halves(program))


def edge_of_stability() -> pd.DataFrame:
    """Perceptron 784-48-10 on 1,200 images of Fashion-MNIST, SGD at the edge of stability; 30 left out.

    Momentum 0.9, cosine rate from 0.05 on pixels in [0, 1], batches of 50, 300 steps.
    """
    x, y, x_test, y_test = fashion(1200, 40)
    program = dtda.Program(dtda.zoo.classifier([48], 10), x, y=y)
    kernel = kernels.sgd(
        lambda steps: optax.sgd(optax.cosine_decay_schedule(0.05, steps), momentum=0.9),
        num_steps=300,
        batch_size=50,
    )
    training = Training(program, kernel, dtda.measures.loss(x_test, y=y_test))
    return study(training, dtda.leave_one_out(program, list(range(0, 1200, 40))))


def diabetes_by_adam() -> pd.DataFrame:
    """Perceptron 10-68-1 on 300 rows of diabetes, Adam at a constant rate; 24 sets of 8 % removed."""
    training = optimizers.diabetes(optax.adam(3e-3))
    return study(training, removed(training.program))


def halves(program: dtda.Program) -> xr.DataArray:
    return dtda.random_subsets(program, jax.random.key(SEED), 24, 0.5, removal="drop")


def removed(program: dtda.Program) -> xr.DataArray:
    return dtda.random_subsets(program, jax.random.key(SEED), 24, 0.92)


def fashion(num_train: int, num_test: int) -> list[np.ndarray]:
    rng, parts = np.random.default_rng(SEED), []
    for part, number in (("train", num_train), ("t10k", num_test)):
        pixels, labels = (read(f"{part}-{kind}", n) for kind, n in (("images", 16), ("labels", 8)))
        pixels = pixels.reshape(-1, 784)
        some = rng.choice(len(pixels), number, replace=False)
        parts += [(pixels[some] / 255).astype(np.float32), labels[some].astype(np.int32)]
    return parts


def read(name: str, header: int) -> np.ndarray:
    path = next(FASHION.glob(f"{name}*"))
    data = path.read_bytes()
    return np.frombuffer(
        gzip.decompress(data) if path.suffix == ".gz" else data, np.uint8, offset=header
    )


def study(training: Training, perturbations: xr.DataArray) -> pd.DataFrame:
    """Return every candidate against the truth, and the choice."""
    predict, retrain, own = jax.random.split(jax.random.key(SEED + 1), 3)
    truth = shifts(training, retrain, perturbations, NUM_RETRAININGS)
    made, seconds, predicted = candidates(training)[0], {}, {}
    start = time.perf_counter()
    choice = dtda.choose(training, own, perturbations)
    seconds["choose"] = time.perf_counter() - start
    for name, method in (made | {"choose": choice.push_forward}).items():
        start = time.perf_counter()
        predicted[name] = shifts(method, predict, perturbations, NUM_DRAWS)
        seconds.setdefault(name, time.perf_counter() - start)
        print(name, seconds[name], flush=True)
    table = compare(predicted, truth)
    rows = {name: row(table.sel(transform=name)) | {"seconds": seconds[name]} for name in predicted}
    rows["choose"] |= {"took": choice.push_forward.name, "stated": float(choice.table["expected"])}
    rows["ceiling"] = {"direction": float(table["ceiling"])}
    return pd.DataFrame.from_dict(rows, "index").rename_axis("method")


def row(table: xr.Dataset) -> dict[str, object]:
    number = lambda name: float(table[name])  # noqa: E731
    return {
        "direction": number("direction"),
        "+-": number("direction_error"),
        "size": number("size"),
        "+- ": number("size_error"),
    }


PARTS = (
    digits_halves,
    concrete_halves,
    edge_of_stability,
    diabetes_by_adam,
)

if __name__ == "__main__":
    chosen = [part for part in PARTS if part.__name__ in sys.argv[1:]] or PARTS
    page.write_some("choose", "Which method", __doc__, PARTS, chosen, SEED)
