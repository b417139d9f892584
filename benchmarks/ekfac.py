"""EK-FAC: how near it is to the whole curvature before and after refinement, and what it costs.

Run with `uv run python benchmarks/ekfac.py`. Other work shared the two cores, which lengthens seconds,
and processor seconds a little. "Refined by n steps" is `curvature.chebyshev` with
`num_steps=n`: products with the Gauss-Newton matrix, from EK-FAC.
"""

import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import page
import pandas as pd
from push_forwards import by, peak_megabytes

import dtda_prob as dtda
from dtda_prob import curvature, evaluate
from dtda_prob.compiling import compiled
from dtda_prob.curvature import layouts
from dtda_prob.demo import digits_training
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

SEED = 0
NUM_SUBSETS, NUM_RETRAININGS, NUM_DRAWS = 50, 12, 4
NUM_QUERIES, NUM_STEPS = 24, 50
WIDTHS = {"1e4": 12, "1e5": 126, "1e6": 1258}

Method = Callable[[Training], PushForward]


def refined(num_steps: int, **options: object) -> Method:
    return by(curvature.chebyshev(num_steps=num_steps, **options))


def halves_of_digits() -> pd.DataFrame:
    """Keep random halves of 1437 digits (the perceptron of the main job), 60 test digits.

    Fifty subsets, dropped rows, 12 retrainings each; predictions use other keys and the matched
    kernel. "LDS" is the mean over queries of Spearman correlations, for the first draw and the mean of
    four; "size" is the slope of retrained on predicted effects, 1 where they are as long.
    """
    training = digits_training(dtda.zoo.digits(), 60)
    choice, predict, retrain = jax.random.split(jax.random.key(SEED), 3)
    subsets = dtda.random_subsets(training.program, choice, NUM_SUBSETS, 0.5, removal="drop")
    arms = evaluate.retrainings(training, retrain, subsets, num_retrainings=NUM_RETRAININGS)
    truth = evaluate.effects(arms, num_splits=20)
    ekfac = curvature.kronecker("gauss_newton")
    methods: dict[str, Method] = {
        "EK-FAC": by(ekfac),
        "EK-FAC, damping 0.1 of auto": by(
            curvature.kronecker("gauss_newton", damping=curvature.auto(0.1))
        ),
        "EK-FAC, refined by 1 step": refined(1),
        "EK-FAC, refined by 3 steps": refined(3),
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


def units_of_adam() -> pd.DataFrame:
    """Compare responses in units by parameter: digits, a perceptron 64-32-10 by Adam, 40 test digits.

    400 steps at the rate 0.003; one draw, damped by one over the distance of each parameter. EK-FAC
    from factors takes the outer product that is nearest to the units, from whole gradients the units
    themselves. Correlations with the responses of other methods, averaged over queries.
    """
    split = dtda.zoo.digits()
    program = dtda.Program(dtda.zoo.classifier([32], 10), split.x_train, y=split.y_train)
    kernel = dtda.kernels.sgd(optax.adam(3e-3, eps_root=1e-16), num_steps=400, batch_size=64)
    training = Training(program, kernel, dtda.measures.loss(split.x_test[:40], y=split.y_test[:40]))
    ekfac = by(curvature.kronecker("gauss_newton"))
    whole = by(curvature.dense("gauss_newton", damping="auto", factorization="cholesky"))
    methods: dict[str, tuple[Method, float]] = {
        "EK-FAC from factors": (ekfac, 1.0),
        "EK-FAC from whole gradients": (ekfac, 0.0),
        "EK-FAC, refined by 3 steps": (refined(3), 1.0),
        "whole Gauss-Newton": (whole, 1.0),
    }
    found = {}
    for name, (method, share) in methods.items():
        layouts.MOST_POSITIONS = share
        found[name] = np.asarray(
            jax.jit(method(training).pull)(jax.random.key(SEED), jnp.ones(1437))[0]
        )
    layouts.MOST_POSITIONS = 1.0
    others = {
        f"with {name}": found[name] for name in ("EK-FAC from whole gradients", "whole Gauss-Newton")
    }
    return pd.DataFrame(
        [{"method": k} | {name: alike(x, y) for name, y in others.items()} for k, x in found.items()]
    )


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)])


def processor_seconds_of_a_pull() -> pd.DataFrame:
    """Time a compiled `pull`: 1,000 examples of 784 features, 24 queries, 50 steps of training.

    Processor seconds of one draw of a perceptron 784-h-10 of so many parameters, training included: the
    least of two calls. The Fisher matrix has one sampled label. LAPACK runs on one thread
    (OPENBLAS_NUM_THREADS=1), since threads that wait for each other count as busy.
    """
    by_adam = optax.adam(1e-3, eps_root=1e-16)
    methods: dict[str, tuple[Method, optax.GradientTransformation | None, list[str]]] = {
        "training alone": (lambda training: training, None, ["1e4", "1e5", "1e6"]),
        "EK-FAC": (by(curvature.kronecker()), None, ["1e4", "1e5", "1e6"]),
        "EK-FAC, training by Adam": (by(curvature.kronecker()), by_adam, ["1e5"]),
        "unroll": (dtda.unroll, None, ["1e5"]),
        "EK-FAC, refined by 3 steps": (refined(3), None, ["1e5"]),
    }
    rows = []
    for name, (method, optimizer, sizes) in methods.items():
        row = {k: seconds(method(perceptron(WIDTHS[k], optimizer=optimizer))) for k in sizes}
        rows.append({"method": name} | row)
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def fifty_thousand_examples() -> pd.DataFrame:
    """Take as many examples as Fashion-MNIST has, of 784 features, and 1e5 parameters.

    Processor seconds of one compiled `pull` of 24 queries, training of 50 steps included, and the peak
    of resident memory so far. The data take 150 MB.
    """
    rows = []
    for name, source in (
        ("training alone", lambda training: training),
        ("EK-FAC", by(curvature.kronecker())),
    ):
        found = seconds(source(perceptron(WIDTHS["1e5"], 50_000)), 1)
        rows.append({"method": name, "seconds": found, "peak MB": peak_megabytes()})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def perceptron(
    width: int, num_data: int = 1000, optimizer: optax.GradientTransformation | None = None
) -> Training:
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(num_data + NUM_QUERIES, 784)).astype(np.float32)
    y = rng.integers(0, 10, len(x))
    program = dtda.Program(dtda.zoo.classifier([width], 10), x[:num_data], y=y[:num_data])
    optimizer = optimizer or optax.sgd(0.01, momentum=0.9)
    kernel = dtda.kernels.sgd(optimizer, num_steps=NUM_STEPS, batch_size=64)
    return Training(program, kernel, dtda.measures.loss(x[num_data:], y=y[num_data:]))


def draw(training: Training, key: jax.Array, weights: jax.Array) -> jax.Array:
    return training.draw(key, weights).value


def pull(source: PushForward, key: jax.Array, weights: jax.Array) -> jax.Array:
    return source.pull(key, weights)


def seconds(source: Training | PushForward, num_calls: int = 2) -> float:
    """Return the processor seconds of the cheapest of so many compiled calls."""
    training = source if isinstance(source, Training) else source.training
    function = compiled(draw if source is training else pull)
    times = []
    for _ in range(num_calls + 1):
        start = time.process_time()
        jax.block_until_ready(function(source, jax.random.key(SEED), training.program.full_weights()))
        times.append(time.process_time() - start)
    return min(times[1:])


PARTS = (halves_of_digits, units_of_adam, processor_seconds_of_a_pull, fifty_thousand_examples)

if __name__ == "__main__":
    chosen = [part for part in PARTS if part.__name__ in sys.argv[1:]] or PARTS
    page.write_some("ekfac", "EK-FAC and its refinement", __doc__, PARTS, chosen, SEED)
