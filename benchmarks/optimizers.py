"""Responses in the geometry of the optimizer: Adam, AdamW, warm-up, clipping, and SGD beside them.

Run with `uv run python benchmarks/optimizers.py` (some five minutes on two cores). It prints its tables
and writes them to `docs/benchmarks/optimizers.md`. The truth is coupled retraining without random sets
of 8 % of the examples; predictions use other keys. Direction is the Pearson correlation of predicted
and retrained effects over sets, averaged over queries; size is the slope of retrained on predicted
effects over sets, pooled over queries: 1 is right, below 1 predictions are too long. "+-" is the
jackknife over sets. The reliability of the truth is the correlation with another such truth. Damping
"auto" is one over the distance that each parameter moves, see
[mathematics](../mathematics.md#the-geometry-of-the-optimizer); "best number" is the one of four
numbers (0.1, 0.03, 0.01, 0.003) whose direction is best on this very truth, which nobody knows.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import page
import pandas as pd
import sklearn.datasets

import dtda_prob as dtda
from dtda_prob import curvature, evaluate, kernels
from dtda_prob.kernels.distances import DISTANCE, with_distances
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.influence import influence
from dtda_prob.typing import Outcome

SEED = 0
GRID = (0.1, 0.03, 0.01, 0.003)
NUM_SETS, SHARE = 16, 0.08

Method = Callable[[Training], PushForward]


def diabetes_by_adam() -> pd.DataFrame:
    """Perceptron 10-68-1 on 300 rows of diabetes, squared error of 24 others.

    Adam at a constant rate of 0.003, batches of 50, 180 steps. "Final second moments" takes the
    distances from the last step alone, as AdamW-influence does (arXiv 2605.18814).
    """
    training = diabetes(optax.adam(3e-3))
    methods = small() | {"whole Gauss-Newton, final second moments": by(whole("auto"), FinalMoments)}
    return study(training, methods, whole, num_draws=4, num_retrainings=16)


def diabetes_by_clipped_adamw() -> pd.DataFrame:
    """Take AdamW: rate 0.01 after warm-up, cosine decay, weight decay 0.01, clipped at norm 1."""

    def optimizer(num_steps: int) -> optax.GradientTransformation:
        rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, num_steps // 10, num_steps)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-2))

    return study(diabetes(optimizer), small(), whole, num_draws=4, num_retrainings=16)


def diabetes_by_sgd() -> pd.DataFrame:
    """Take SGD with momentum 0.9 at the rate 0.05: "auto" is one number, the control."""
    training = diabetes(optax.sgd(0.05, momentum=0.9))
    return study(training, small(), whole, num_draws=4, num_retrainings=16)


def small() -> dict[str, Method]:
    return {
        "unroll": dtda.unroll,
        "whole Gauss-Newton, auto": by(whole("auto")),
        "3 segments, whole Gauss-Newton": lambda t: dtda.segments(t, curvature.dense("gauss_newton")),
        "EK-FAC, auto": by(curvature.kronecker("gauss_newton")),
    }


def whole(damping: float | str) -> curvature.Curvature:
    return curvature.dense("gauss_newton", damping=damping, factorization="cholesky")


class FinalMoments(influence):
    """Influence by distances of the last step, times the number of steps."""

    def drawn(self, key: jax.Array, weights: jax.Array) -> Outcome:
        training, outcome = self.training, super().drawn(key, weights)
        last = with_distances(kernels.keep(training.kernel, 2)).run(key, training.program, weights)
        num_steps = training.kernel.count_steps(training.program)
        step = jax.tree.map(lambda leaf: num_steps * (leaf[1:] - leaf[:1]), last.stats[DISTANCE])
        return outcome._replace(stats=outcome.stats | {DISTANCE: step})


def by(chosen: curvature.Curvature, transform: Callable = dtda.influence) -> Method:
    return lambda training: transform(training, chosen)


def diabetes(optimizer: kernels.sgd) -> Training:
    x, y = sklearn.datasets.load_diabetes(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(x))
    x, y = ((z[order] - z.mean(0)) / z.std(0) for z in (x, y))
    program = dtda.Program(dtda.zoo.regressor([68], activation=jnp.tanh), x[:300], y=y[:300])
    kernel = kernels.sgd(optimizer, num_steps=180, batch_size=50)
    return Training(program, kernel, dtda.measures.squared_error(x[300:324], y=y[300:324]))


def study(
    training: Training,
    methods: dict[str, Method],
    damped: Callable[[float], curvature.Curvature],
    num_draws: int,
    num_retrainings: int,
) -> pd.DataFrame:
    """Return direction and size of each method, and of the best number for a damping."""
    choice, predict, retrain = jax.random.split(jax.random.key(SEED), 3)
    keep = round((1 - SHARE) * training.program.num_data)
    sets = dtda.random_subsets(training.program, choice, NUM_SETS, keep)
    start = time.perf_counter()
    truth = evaluate.retrainings(training, retrain, sets, num_retrainings=num_retrainings)
    truth = evaluate.effects(truth, num_splits=20)
    reliable = float(np.nanmean(evaluate.reliability(truth)))
    seconds = time.perf_counter() - start

    def row(name: str, method: Method) -> dict[str, object]:
        start = time.perf_counter()
        found = evaluate.predictions(
            method(training), predict, num_draws, sets, direction="pull", check=False
        )
        arrays = (each["value"].values[0] for each in (evaluate.effects(found), truth))
        direction, size = jackknife(*arrays)
        facts: dict[str, object] = {"method": name, "direction": direction[0], "+-": direction[1]}
        facts |= {"size": size[0], "+- ": size[1], "seconds": round(time.perf_counter() - start)}
        print(facts, flush=True)
        return facts

    rows = [row(name, method) for name, method in methods.items()]
    numbers = [row(f"best number: {d}", by(damped(d))) for d in GRID]
    rows.append(max(numbers, key=lambda each: each["direction"]))
    rows.append(
        {"method": "reliability of the truth", "direction": reliable, "seconds": round(seconds)}
    )
    return pd.DataFrame(rows).set_index("method").rename(columns={"+- ": "+-"})


def jackknife(
    predicted: np.ndarray, retrained: np.ndarray
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return direction and size of effects `(query, set)`, each with its error over sets."""
    number = predicted.shape[1]
    parts = np.array(
        [agreement(*(np.delete(x, k, 1) for x in (predicted, retrained))) for k in range(number)]
    )
    errors = np.sqrt((number - 1) * parts.var(0))
    (direction, size) = zip(agreement(predicted, retrained), errors, strict=True)
    return direction, size


def agreement(predicted: np.ndarray, retrained: np.ndarray) -> tuple[float, float]:
    a, b = (x - x.mean(1, keepdims=True) for x in (predicted, retrained))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).mean()), float((a * b).sum() / (a * a).sum())


PARTS = (
    diabetes_by_adam,
    diabetes_by_clipped_adamw,
    diabetes_by_sgd,
)

if __name__ == "__main__":
    page.write("optimizers", "Optimizers", __doc__, PARTS, SEED)
