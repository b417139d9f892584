"""Every way to carry samples, on the same work: linear datamodelling scores, small removals, cost.

Run with `uv run python benchmarks/push_forwards.py digits concrete small mnist speed attribution` or
any of these studies by name; each prints its table and writes it to `docs/benchmarks/<study>.md`.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import mnist
import numpy as np
import optax
import pandas as pd
import xarray as xr
from page import circumstances

import dtda_prob as dtda
from dtda_prob import curvature, evaluate
from dtda_prob.demo import digits_training
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

PAGES = Path(__file__).parents[1] / "docs" / "benchmarks"
SEED = 0
DRAWS = (1, 4, 16, 64)
NUM_SUBSETS, NUM_RETRAININGS = 50, 20
GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)

Method = Callable[..., PushForward]
Damped = Callable[[object], curvature.Curvature]


def digits() -> pd.DataFrame:
    """Keep random halves of 1437 digits (the perceptron of the main job), 60 test digits.

    Fifty subsets, dropped rows, 20 retrainings each; predictions use other keys. "matched" is the
    kernel that a retraining actually runs, expanded at the centre of the subsets; "full" is training
    on all data, expanded at full weights. Damping "auto" is one over the total step size of training;
    "validated" is the best of seven values on other queries, other subsets and other seeds.
    """
    split = dtda.zoo.digits()
    training = digits_training(split, 60)
    other = dtda.measures.loss(split.x_test[200:260], y=split.y_test[200:260])
    validation = dtda.Training(training.program, training.kernel, other)
    ekfac = validated(validation, lambda d: curvature.kronecker("gauss_newton", damping=d))
    whole = lambda d: curvature.dense("gauss_newton", damping=d, factorization="cholesky")  # noqa: E731
    methods: dict[str, tuple[Method, int]] = {
        "unroll": (dtda.unroll, 16),
        "Gauss-Newton, dense": (by(whole("auto")), 16),
        "Gauss-Newton, Gram": (
            by(curvature.gram(damping="auto", factorization="cholesky")), 1,
        ),
        "Gauss-Newton, Nystroem 200": (by(curvature.nystroem(rank=200)), 16),
        "Gauss-Newton, Lanczos 100": (by(curvature.lanczos(rank=100)), 16),
        "Gauss-Newton, projection 1024": (by(curvature.projection(dimension=1024)), 4),
        "block-diagonal": (by(curvature.block_diagonal()), 1),
        "EK-FAC, damping auto": (by(curvature.kronecker("gauss_newton")), 64),
        "EK-FAC, one sampled label": (by(curvature.kronecker()), 16),
        f"EK-FAC, damping validated {ekfac:g}": (
            by(curvature.kronecker("gauss_newton", damping=ekfac)), 64,
        ),
        "EK-FAC, refined by 3 steps": (by(curvature.chebyshev()), 16),
        "K-FAC, damping auto": (by(curvature.kronecker("gauss_newton", corrected=False)), 16),
        "segments, EK-FAC": (lambda t: dtda.segments(t, curvature.kronecker("gauss_newton")), 16),
        "diagonal": (by(curvature.diagonal()), 16),
        "gradient dot product": (by(curvature.identity()), 16),
        "gradient cosine": (dtda.cosine, 16),
        "TracIn, 5 checkpoints": (dtda.trajectory, 16),
    }  # fmt: skip
    full = {"unroll": (dtda.unroll, 16), "Gauss-Newton, dense": (by(whole("auto")), 4)}
    return halves(training, methods, full)


def concrete() -> pd.DataFrame:
    """Keep random halves of UCI Concrete (896 training rows, 103 queries), the hard case.

    Perceptron 128-128-128 with GELU units, SGD with momentum 0.9, rate 0.01, weight decay 1e-5, batches
    of 32, 20 epochs, squared error (the loss of a normal of variance 1/2, up to a constant). Fifty
    subsets, dropped rows, 20 retrainings each.
    """
    split = dtda.zoo.concrete()
    model = dtda.zoo.regressor([128] * 3, noise=0.5**0.5)
    program = dtda.Program(model, split.x_train, y=split.y_train)
    optimizer = optax.chain(optax.add_decayed_weights(1e-5), optax.sgd(0.01, momentum=0.9))
    kernel = dtda.kernels.sgd(optimizer, num_epochs=20, batch_size=32)
    training = Training(program, kernel, dtda.measures.squared_error(split.x_test, y=split.y_test))
    ekfac = curvature.kronecker("gauss_newton")
    methods: dict[str, tuple[Method, int]] = {
        "unroll": (dtda.unroll, 16),
        "Gauss-Newton, Gram": (by(curvature.gram()), 16),
        "Gauss-Newton, Lanczos 100": (by(curvature.lanczos(rank=100)), 16),
        "Gauss-Newton, Nystroem 200": (by(curvature.nystroem(rank=200)), 64),
        "segments, Gram, 1": (lambda t: dtda.segments(t, curvature.gram(), num_segments=1), 16),
        "segments, Gram, 3": (lambda t: dtda.segments(t, curvature.gram(), num_segments=3), 16),
        "EK-FAC": (by(ekfac), 16),
        "EK-FAC, refined by 3 steps": (by(curvature.chebyshev()), 16),
        "gradient dot product": (by(curvature.identity()), 16),
        "TracIn, 5 checkpoints": (dtda.trajectory, 16),
    }
    full = {"Gauss-Newton, Gram": (by(curvature.gram()), 16)}
    return halves(training, methods, full)


def mnist_halves() -> pd.DataFrame:
    """Keep random halves of 5,000 MNIST images, 20 queries: perceptron 784-256-10, 203,530 parameters.

    SGD with momentum 0.9, cosine rate from 0.05, batches of 100, 5 epochs. Fifty subsets, dropped rows,
    20 retrainings each.
    """
    split = mnist.load()
    program = dtda.Program(dtda.zoo.classifier([256], 10), split.x_train, y=split.y_train)

    def optimizer(num_steps: int) -> optax.GradientTransformation:
        return optax.sgd(optax.cosine_decay_schedule(0.05, num_steps), momentum=0.9)

    kernel = dtda.kernels.sgd(optimizer, num_epochs=5, batch_size=100)
    training = Training(program, kernel, dtda.measures.loss(split.x_test[:20], y=split.y_test[:20]))
    methods: dict[str, tuple[Method, int]] = {
        "unroll": (dtda.unroll, 4),
        "Gauss-Newton, Lanczos 50": (by(curvature.lanczos(rank=50)), 4),
        "EK-FAC, one sampled label": (by(curvature.kronecker()), 4),
        "gradient dot product": (by(curvature.identity()), 4),
    }
    return halves(training, methods, {})


def small() -> pd.DataFrame:
    """Remove 1 % of the digits, at weight 0: 50 random sets of 14, 60 queries.

    The truth is the mean over 6 coupled retrainings; predictions use other seeds. Other work shared the
    two cores, so that seconds are longer than alone.
    """
    training = digits_training(dtda.zoo.digits(), 60)
    choice, predict, retrain = jax.random.split(jax.random.key(SEED + 1), 3)
    keep = training.program.num_data - 14
    sets = dtda.random_subsets(training.program, choice, NUM_SUBSETS, keep)
    both = evaluate.retrainings(training, retrain, sets, num_retrainings=12)
    truth, other = (
        evaluate.effects(both.isel(draw=half), num_splits=1) for half in (slice(6), slice(6, 12))
    )
    methods: dict[str, tuple[Method, int]] = {
        "unroll": (dtda.unroll, 16),
        "Gauss-Newton, dense": (
            by(curvature.dense("gauss_newton", damping="auto", factorization="cholesky")), 4,
        ),
        "Gauss-Newton, Nystroem 200": (by(curvature.nystroem(rank=200)), 16),
        "EK-FAC, damping auto": (by(curvature.kronecker("gauss_newton")), 16),
        "EK-FAC, refined by 3 steps": (by(curvature.chebyshev()), 16),
        "gradient dot product": (by(curvature.identity()), 16),
    }  # fmt: skip
    rows = [score(name, training, m, n, predict, sets, truth) for name, (m, n) in methods.items()]
    table = pd.DataFrame(rows).set_index("method")
    reliability = evaluate.agreement(other, truth)["lds"].item()
    table.loc["another 6 retrainings (reliability of the truth)", "LDS, 4 draws"] = reliability
    return table


def halves(
    training: Training, matched: dict[str, tuple[Method, int]], full: dict[str, tuple[Method, int]]
) -> pd.DataFrame:
    """Return the LDS of each method, matched or on the full kernel, by number of draws."""
    choice, predict, retrain = jax.random.split(jax.random.key(SEED), 3)
    subsets = dtda.random_subsets(training.program, choice, NUM_SUBSETS, 0.5, removal="drop")
    start = time.perf_counter()
    arms = evaluate.retrainings(training, retrain, subsets, num_retrainings=NUM_RETRAININGS)
    truth = evaluate.effects(arms, num_splits=20)
    seconds = time.perf_counter() - start
    kept = subsets.assign_attrs(removal="reweight")
    rows = [
        *(
            score(f"{k}, matched", training, m, n, predict, subsets, truth)
            for k, (m, n) in matched.items()
        ),
        *(
            score(f"{k}, full", training, lambda t, m=m: m(t, at="old"), n, predict, kept, truth)
            for k, (m, n) in full.items()
        ),
    ]
    table = pd.DataFrame(rows).set_index("method")
    label = f"reliability of the truth ({NUM_RETRAININGS} retrainings, from halves)"
    table.loc[label, "LDS, 1 draw"] = evaluate.reliability(truth).mean().item()
    table.loc[label, "seconds"] = seconds
    return table


COLUMNS = [f"LDS, {n} draw{'s' * (n > 1)}" for n in DRAWS] + ["+-", "draws", "seconds"]


def score(
    name: str,
    training: Training,
    method: Method,
    num_draws: int,
    key: jax.Array,
    perturbations: xr.DataArray,
    truth: xr.Dataset,
) -> dict[str, object]:
    """Return LDS (the mean over queries of Spearman correlations, with its error) for the first draws.

    The error is that over resampled subsets and retrainings.
    """
    start = time.perf_counter()
    predicted = evaluate.predictions(method(training), key, num_draws, perturbations, direction="pull")
    row: dict[str, object] = {"method": name}
    for count in (n for n in DRAWS if n <= num_draws):
        first = evaluate.effects(predicted.isel(draw=slice(count)))
        found = evaluate.agreement(first, truth)
        row[f"LDS, {count} draw{'s' * (count > 1)}"] = found["lds"].item()
        row["+-"] = found["lds_error"].item()
    row["draws"], row["seconds"] = num_draws, time.perf_counter() - start
    print(row, flush=True)
    return row


def by(chosen: curvature.Curvature) -> Method:
    return lambda training, **options: dtda.influence(training, chosen, **options)


def validated(training: Training, make: Damped) -> float:
    """Choose damping on 20 halves, 6 retrainings each, 2 draws, none of them shared with the test."""
    choice, predict, retrain = jax.random.split(jax.random.key(SEED + 100), 3)
    subsets = dtda.random_subsets(training.program, choice, 20, 0.5, removal="drop")
    truth = evaluate.effects(
        evaluate.retrainings(training, retrain, subsets, num_retrainings=6), num_splits=1
    )
    scores = [
        score(f"validation, damping {d:g}", training, by(make(d)), 2, predict, subsets, truth)
        for d in GRID
    ]
    return GRID[int(np.argmax([row["LDS, 1 draw"] for row in scores]))]


SIZES = {"N": 512, "P": 32, "T": 256, "queries": 32}


def speed() -> pd.DataFrame:
    """Time a compiled `pull` for one draw, all examples and all queries, and how its cost grows.

    Classes 10, features 64, batches of 64: N = 512 data, 32 tanh units (2,410 parameters), T = 256
    steps, 32 queries. Slopes are log2 of the ratio of seconds when one size is doubled. All times
    include the training that precedes the response. "MB" is the memory of the compiled call. The
    slope in draws is for a whole warm call of `attribute` (mean shifts and their errors) from 4
    draws to 8; for training alone, of `sample`. Conjugate gradients take 50 steps, converged or not.
    """
    methods: dict[str, Method] = {
        "training alone": lambda t: t,
        "unroll": dtda.unroll,
        "Gauss-Newton, dense": by(
            curvature.dense("gauss_newton", damping="auto", factorization="cholesky")
        ),
        "Gauss-Newton, Gram": by(curvature.gram(factorization="cholesky")),
        "Gauss-Newton, Lanczos 50": by(curvature.lanczos(rank=50)),
        "Gauss-Newton, conjugate gradients 50": by(
            curvature.conjugate_gradient("gauss_newton", damping="auto", max_steps=50, tolerance=1e-9)
        ),
        "EK-FAC, one sampled label": by(curvature.kronecker()),
        "EK-FAC, refined by 3 steps": by(curvature.chebyshev()),
        "segments, EK-FAC": dtda.segments,
        "TracIn, 5 checkpoints": dtda.trajectory,
    }
    rows = []
    for name, method in methods.items():
        base = pull_seconds(method, **SIZES)
        row = {"method": name, "compile, s": base[0], "seconds": base[1], "MB": base[2]}
        for axis in SIZES:
            grown = pull_seconds(method, **(SIZES | {axis: 2 * SIZES[axis]}))
            row[f"slope in {axis}"] = np.log2(grown[1] / base[1])
        source = method(perceptron(**SIZES))
        row["slope in draws"] = np.log2(study_seconds(source, 8) / study_seconds(source, 4))
        rows.append(row)
        print(row, flush=True)
    split = dtda.zoo.digits()
    for label, method in (("EK-FAC", methods["EK-FAC, one sampled label"]), ("training alone", None)):
        compile_, seconds, megabytes = timed(
            digits_training(split, 360), method or methods["training alone"]
        )
        name = f"digits 1437 x 360: {label}"
        rows.append({"method": name, "compile, s": compile_, "seconds": seconds, "MB": megabytes})
    return pd.DataFrame(rows).set_index("method")


def attribution() -> pd.DataFrame:
    """Time `attribute` as a user calls it: 1437 digits, 360 queries, 4 draws, EK-FAC, mean shifts.

    In a fresh process: the first call, including building the transform and compiling; a warm call,
    per draw (training, response and estimates); and the peak of resident memory above its level
    after imports and loading data, including the compiler's memory. Scores have errors and
    intervals. The certainty of ranks over 100 resamples, whose cost does not grow with draws, is in
    the second row only.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        rows = fresh.submit(whole_study).result()
    return pd.DataFrame(rows).set_index("method")


def whole_study() -> list[dict[str, object]]:
    """Attribute in a process that has compiled nothing yet."""
    training, num_draws = digits_training(dtda.zoo.digits(), 360), 4
    before, start = peak_megabytes(), time.perf_counter()
    source = dtda.influence(training, curvature.kronecker())
    attribute(source, jax.random.key(SEED), num_draws)
    row: dict[str, object] = {"method": "scores", "first call, s": time.perf_counter() - start}
    row["warm, s a draw"] = study_seconds(source, num_draws) / num_draws
    row["MB"] = peak_megabytes() - before
    start = time.perf_counter()
    dtda.attribute(source, jax.random.key(SEED), num_draws, ["mean"], options=dtda.Options(check=False))
    ranked = (time.perf_counter() - start) / num_draws
    return [row, {"method": "scores and certainty of ranks", "warm, s a draw": ranked}]


def study_seconds(source: Training | PushForward, num_draws: int) -> float:
    """Return seconds of the fastest of three warm calls."""
    study, times = dtda.sample if isinstance(source, Training) else attribute, []
    for _ in range(4):
        start = time.perf_counter()
        study(source, jax.random.key(SEED), num_draws)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def attribute(source: PushForward, key: jax.Array, num_draws: int) -> xr.Dataset:
    return dtda.attribute(
        source, key, num_draws, ["mean"], options=dtda.Options(num_resamples=0, check=False)
    )


def peak_megabytes() -> float:
    """Return the peak memory of this process alone; `resource` would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def pull_seconds(method: Method, **sizes: int) -> tuple[float, float, float]:
    return timed(perceptron(**sizes), method)


def perceptron(N: int, P: int, T: int, queries: int) -> Training:  # noqa: N803
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N + queries, 64)).astype(np.float32), rng.integers(0, 10, N + queries)
    program = dtda.Program(dtda.zoo.classifier([P], 10), x[:N], y=y[:N])
    kernel = dtda.kernels.sgd(optax.sgd(0.02, momentum=0.9), num_steps=T, batch_size=64)
    return Training(program, kernel, dtda.measures.loss(x[N:], y=y[N:]))


def timed(training: Training, method: Method) -> tuple[float, float, float]:
    """Return seconds to build and compile, seconds of the fastest of five calls, and megabytes held."""
    start = time.perf_counter()
    source = method(training)
    function = source.draw if isinstance(source, Training) else source.pull
    arguments = jax.random.key(SEED), jnp.ones(training.program.num_data)
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_ = time.perf_counter() - start
    memory, times = compiled.memory_analysis(), []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    held = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return compile_, min(times[1:]), held / 2**20


STUDIES = {
    "digits": digits,
    "concrete": concrete,
    "mnist": mnist_halves,
    "small": small,
    "speed": speed,
    "attribution": attribution,
}


TITLES = {
    "small": "Small removals",
    "speed": "What a response costs",
    "attribution": "What an attribution costs",
}


def main(names: list[str]) -> None:
    for name in names or STUDIES:
        start, study = time.perf_counter(), STUDIES[name]
        table = study()
        if "draws" in table:
            table = table[[column for column in COLUMNS if column in table]]
        body = table.to_markdown(floatfmt=".3f").replace(" nan ", "     ")
        foot = circumstances(SEED, start)
        doc = "\n".join(line.strip() for line in (study.__doc__ or "").strip().split("\n"))
        title = TITLES.get(name, name.capitalize())
        PAGES.mkdir(exist_ok=True)
        (PAGES / f"{name}.md").write_text(f"# {title}\n\n{doc}\n\n{body}\n\n{foot}\n")
        print(body, foot, sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
