"""EK-FAC: how near it is to the whole curvature before and after refinement, and what it costs.

Run with `uv run python benchmarks/ekfac.py`. "Refined by n steps" is `curvature.chebyshev` with
`num_steps=n`: products with the Gauss-Newton matrix, from EK-FAC.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import page
import pandas as pd
from push_forwards import by

import dtda_prob as dtda
from dtda_prob import curvature, evaluate
from dtda_prob.curvature import gradients
from dtda_prob.demo import digits_training
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

SEED = 0
NUM_SUBSETS, NUM_RETRAININGS, NUM_DRAWS = 50, 20, 4
NUM_DATA, NUM_QUERIES, NUM_STEPS = 1000, 24, 50
WIDTHS = {"1e4": 12, "1e5": 126}

Method = Callable[[Training], PushForward]


def refined(num_steps: int, **options: object) -> Method:
    return by(curvature.chebyshev(num_steps=num_steps, **options))


def halves_of_digits() -> pd.DataFrame:
    """Keep random halves of 1437 digits (the perceptron of the main job), 60 test digits.

    Fifty subsets, dropped rows, 20 retrainings each; predictions use other keys and the matched
    kernel. "LDS" is the mean over queries of Spearman correlations, for the first draw and the mean of
    four; "size" is the slope of retrained on predicted effects, 1 where they are as long. Other work
    shared the two cores, so that seconds are longer than alone.
    """
    training = digits_training(dtda.zoo.digits(), 60)
    choice, predict, retrain = jax.random.split(jax.random.key(SEED), 3)
    subsets = dtda.random_subsets(training.program, choice, NUM_SUBSETS, 0.5, removal="drop")
    arms = evaluate.retrainings(training, retrain, subsets, num_retrainings=NUM_RETRAININGS)
    truth = evaluate.effects(arms, num_splits=20)
    ekfac = curvature.kronecker("gauss_newton")
    methods: dict[str, Method] = {
        "EK-FAC": by(ekfac),
        "EK-FAC, one sampled label": by(curvature.kronecker("fisher")),
        "EK-FAC, refined by 1 step": refined(1),
        "EK-FAC, refined by 3 steps": refined(3),
        "diagonal, refined by 3 steps": refined(3, preconditioner=curvature.diagonal()),
        "Gauss-Newton, Nystroem 200": by(curvature.nystroem(rank=200)),
    }
    return pd.DataFrame(
        [{"method": k} | quality(training, m, predict, subsets, truth) for k, m in methods.items()]
    )


def quality(training: Training, method: Method, key: jax.Array, subsets: object, truth: object) -> dict:
    """Return the scores of a method, and its seconds with compilation."""
    start = time.perf_counter()
    predicted = evaluate.predictions(
        method(training), key, NUM_DRAWS, subsets, direction="pull", check=False
    )
    row: dict[str, object] = {}
    for count in (1, NUM_DRAWS):
        found = evaluate.agreement(evaluate.effects(predicted.isel(draw=slice(count))), truth)
        row[f"LDS, {count} draw{'s' * (count > 1)}"] = found["lds"].item()
        row["+-"] = found["lds_error"].item()
    x, y = (found[name].values.ravel() for name in ("predicted", "retrained"))
    row |= {"size": x @ y / (x @ x), "seconds": time.perf_counter() - start}
    print(row, flush=True)
    return row


def processor_seconds_of_a_pull() -> pd.DataFrame:
    """Time a compiled `pull`: 1,000 examples of 784 features, 24 queries, 50 steps of training.

    Processor seconds of one draw of a perceptron 784-h-10 of so many parameters, training included: the
    least of three calls.
    "From whole gradients" is EK-FAC by the gradient of each example, as of parameters that enter
    anything but products. Other work shared the two cores, which lengthens processor seconds too.
    """
    methods: dict[str, tuple[Method, float]] = {
        "training alone": (lambda training: training, 1.0),
        "EK-FAC": (by(curvature.kronecker()), 1.0),
        "EK-FAC from whole gradients": (by(curvature.kronecker()), 0.0),
        "EK-FAC, refined by 3 steps": (refined(3), 1.0),
        "unroll": (dtda.unroll, 1.0),
    }
    rows = []
    for name, (method, share) in methods.items():
        gradients.MOST_POSITIONS = share
        rows.append({"method": name} | {k: seconds(method(perceptron(w))) for k, w in WIDTHS.items()})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def perceptron(width: int) -> Training:
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(NUM_DATA + NUM_QUERIES, 784)).astype(np.float32)
    y = rng.integers(0, 10, len(x))
    program = dtda.Program(dtda.zoo.classifier([width], 10), x[:NUM_DATA], y=y[:NUM_DATA])
    kernel = dtda.kernels.sgd(optax.sgd(0.01, momentum=0.9), num_steps=NUM_STEPS, batch_size=64)
    return Training(program, kernel, dtda.measures.loss(x[NUM_DATA:], y=y[NUM_DATA:]))


def seconds(source: Training | PushForward) -> float:
    """Return the processor seconds of the cheapest of three compiled calls."""
    function = jax.jit(source.draw if isinstance(source, Training) else source.pull)
    times = []
    for _ in range(4):
        start = time.process_time()
        jax.block_until_ready(function(jax.random.key(SEED), jnp.ones(NUM_DATA)))
        times.append(time.process_time() - start)
    return min(times[1:])


if __name__ == "__main__":
    page.write(
        "ekfac",
        "EK-FAC and its refinement",
        __doc__,
        (halves_of_digits, processor_seconds_of_a_pull),
        SEED,
    )
