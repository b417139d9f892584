"""Measure how well methods predict the change of whole distributions, by distributional LDS.

Run with `uv run python benchmarks/distributional_lds.py` (some fifteen minutes on two cores). It prints
its tables and writes them to `docs/benchmarks/distributional_lds.md`. Each of 40 subsets keeps a random
half of the data and drops the rest, with 20 retrainings; predictions use other keys, and all methods
and divergences share the same retrainings. A score is the mean over queries of the Spearman
correlation over subsets between predicted and retrained divergence from training on all data; "+-" is
its standard error over subsets and retrainings. Divided by the square root of the truth's reliability
it is the score against a truth without noise. Nothing is subtracted from the divergences. Seconds are
of the processor for one run, including compilation.
"""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import optax
import pandas as pd
import xarray as xr
from page import circumstances

import dtda_prob as dtda
from dtda_prob import curvature, evaluate
from dtda_prob.demo import digits_training
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "distributional_lds.md"
SEED = 0
NUM_SUBSETS, NUM_RETRAININGS = 40, 20
DIVERGENCES = ("mean", "variance", "wasserstein", "energy")
COUNTS = (4, 8, 16)

Method = Callable[[Training], PushForward]


def digits() -> tuple[Training, dict[str, tuple[Method, int]]]:
    """Digits: perceptron 64-64-10 of the main job, loss of 60 test digits."""
    ekfac = curvature.kronecker("gauss_newton")
    return digits_training(dtda.zoo.digits(), 60), {
        "unroll": (dtda.unroll, 16),
        "Gauss-Newton, Nystroem 200": (by(curvature.nystroem(rank=200)), 16),
        "EK-FAC": (by(ekfac), 16),
        "segments, EK-FAC": (lambda training: dtda.segments(training, ekfac), 16),
        "TracIn, 5 checkpoints": (dtda.trajectory, 16),
        "gradient dot product": (by(curvature.identity()), 16),
    }


def concrete() -> tuple[Training, dict[str, tuple[Method, int]]]:
    """Concrete: perceptron 128-128-128 with GELU units, squared error of 103 test rows."""
    split = dtda.zoo.concrete()
    model = dtda.zoo.regressor([128] * 3, noise=0.5**0.5)
    program = dtda.Program(model, split.x_train, y=split.y_train)
    optimizer = optax.chain(optax.add_decayed_weights(1e-5), optax.sgd(0.01, momentum=0.9))
    kernel = dtda.kernels.sgd(optimizer, num_epochs=20, batch_size=32)
    measure = dtda.measures.squared_error(split.x_test, y=split.y_test)
    return Training(program, kernel, measure), {
        "unroll": (dtda.unroll, 8),
        "Gauss-Newton, Nystroem 200": (by(curvature.nystroem(rank=200)), 16),
        "segments, Gram, 3": (lambda t: dtda.segments(t, curvature.gram(), num_segments=3), 8),
        "EK-FAC": (by(curvature.kronecker("gauss_newton")), 16),
        "TracIn, 5 checkpoints": (dtda.trajectory, 16),
        "gradient dot product": (by(curvature.identity()), 16),
    }


def by(chosen: curvature.Curvature) -> Method:
    return lambda training: dtda.influence(training, chosen)


def study(training: Training, methods: dict[str, tuple[Method, int]]) -> list[pd.DataFrame]:
    """Return scores, scores against a truth without noise, and scores by number of draws."""
    choice, predict, retrain = jax.random.split(jax.random.key(SEED), 3)
    subsets = dtda.random_subsets(training.program, choice, NUM_SUBSETS, 0.5, removal="drop")
    start = time.process_time()
    truth = evaluate.retrainings(training, retrain, subsets, num_retrainings=NUM_RETRAININGS)
    seconds = {"truth": time.process_time() - start}
    results = {}
    for name, (method, num_draws) in methods.items():
        start = time.process_time()
        predicted = evaluate.predictions(method(training), predict, num_draws, subsets)
        seconds[name] = time.process_time() - start
        counts = [count for count in COUNTS if count <= num_draws]
        results[name] = evaluate.agreement_by_draws(predicted, truth, counts, DIVERGENCES)
        print(name, seconds[name], results[name]["lds"].isel(draws=-1).values, flush=True)
    last = {name: result.isel(draws=-1) for name, result in results.items()}
    scores = pd.DataFrame({name: told(result, "lds") for name, result in last.items()}).T
    scores["draws"] = [methods[name][1] for name in last]
    scores["seconds"] = [f"{seconds[name]:.0f}" for name in last]
    any_result = next(iter(last.values()))
    reliable = [f"{value:.3f}" for value in any_result["lds_reliability"].values]
    scores.loc["reliability of the truth"] = [*reliable, NUM_RETRAININGS, f"{seconds['truth']:.0f}"]
    ideal = pd.DataFrame({name: told(result, "lds_disattenuated") for name, result in last.items()}).T
    return [scores, ideal, pd.concat({name: grown(result) for name, result in results.items()})]


def told(result: xr.Dataset, name: str) -> dict[str, str]:
    pairs = zip(result[name].values, result[f"{name}_error"].values, strict=True)
    return {
        divergence: f"{value:.3f} +- {error:.3f}"
        for divergence, (value, error) in zip(DIVERGENCES, pairs, strict=True)
    }


def grown(result: xr.Dataset) -> pd.DataFrame:
    table = result["lds"].to_pandas()
    return table.map("{:.3f}".format).rename_axis(None, axis=1)


def main() -> None:
    start = time.perf_counter()
    lines = ["# Distributional linear datamodelling scores", "", (__doc__ or "").strip(), ""]
    titles = ("Score", "Score against a truth without noise", "Score by number of draws")
    for setting in (digits, concrete):
        lines += [f"## {setting.__name__.capitalize()}", "", (setting.__doc__ or "").strip(), ""]
        for title, table in zip(titles, study(*setting()), strict=True):
            table.index.names = ["method", "draws"][: table.index.nlevels]
            body = table.reset_index().to_markdown(index=False, disable_numparse=True)
            lines += [f"### {title}", "", body, ""]
            print(body, flush=True)
    lines.append(circumstances(SEED, start))
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
