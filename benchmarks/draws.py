"""How many draws an influence needs, and examples that change the spread of a margin, not its mean.

Run with `uv run python benchmarks/draws.py` (about ten minutes on two cores). It prints its tables and
writes them to `docs/benchmarks/draws.md`. Perceptron and digits are as in the main job.
"""

import time
from pathlib import Path

import jax
import numpy as np
import optax
import pandas as pd
import xarray as xr
from page import circumstances

import dtda_prob as dtda
from dtda_prob.attribution import Arms, Power, comparison
from dtda_prob.attribution.scores import score_arms
from dtda_prob.demo import digits_training
from dtda_prob.divergences import estimate, resolve
from dtda_prob.training import Training

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "draws.md"
SEED = 0
NUM_QUERIES, NUM_POINTS = 60, 48
RETRAININGS = (1, 8, 32)
PILOT = 8


def leave_one_out(training: Training, key: jax.Array) -> pd.DataFrame:
    """Leave out 48 random digits one by one and correlate the mean shifts of 60 losses over them.

    "with 64 others" is the correlation of the mean over the given number of retrainings with 64
    coupled retrainings with other keys; "expected" is the correlation that `power` predicts from a
    coupled pilot of 8 draws with other keys; "needs" is the number of draws that the pilot predicts
    for the measured correlation. "with unrolled" is the correlation with the mean of 16 unrolled
    derivatives with other keys. All are means over queries.
    """
    choice, pilot, truth, predict, fresh = jax.random.split(key, 5)
    points = jax.random.choice(choice, training.program.num_data, (NUM_POINTS,), replace=False)
    each = dtda.leave_one_out(training.program, np.asarray(points))
    planned = dtda.power(training, pilot, each, ["mean"], num_draws=PILOT)
    print(planned)
    reference = mean_shift(comparison(training, truth, each).arms(64))
    predicted = mean_shift(comparison(dtda.unroll(training), predict, each).arms(16))
    rows = []
    for name, new_key in (("coupled", None), ("independent", jax.random.fold_in(fresh, 1))):
        arms = comparison(training, fresh, each, new_key=new_key).arms(max(RETRAININGS))
        for count in RETRAININGS:
            shift = mean_shift(Arms(arms.old[:count], arms.new[:count]))
            rows.append({"arms": name, "retrainings": count} | compare(shift, reference, predicted))
            rows[-1] |= expectation(planned, name, count, rows[-1]["with 64 others"])
    return pd.DataFrame(rows).set_index(["arms", "retrainings"])


def mean_shift(arms: Arms) -> np.ndarray:
    return (arms.old - arms.new).mean(0)


def compare(shift: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    row = {}
    for name, other in (("with 64 others", reference), ("with unrolled", predicted)):
        found = [np.corrcoef(a, b)[0, 1] for a, b in zip(shift, other, strict=True)]
        row[name] = np.mean(found)
        row[f"{name} +-"] = np.std(found, ddof=1) / np.sqrt(len(found))
    return row


def expectation(planned: Power, arms: str, count: int, measured: float) -> dict[str, float]:
    """Return the correlation that the pilot predicts, and the draws that the measured one needs."""
    curve = planned.correlation.sel(arms=arms, divergence="mean").mean("query")
    draws = np.log(curve["draws"].values)
    needs = np.exp(np.interp(measured, curve.values, draws))
    return {"expected": np.interp(np.log(count), draws, curve.values), "needs": needs}


def spread_alone(training: Training, key: jax.Array) -> pd.DataFrame:
    """Find examples whose removal changes the spread of a margin but hardly its mean, and retrain.

    Train the perceptron on the first 200 digits (batches of 20) and measure the margin (log-odds of
    the true class) of 40 test digits. The table lists all pairs that `scores.spread_without_shift`
    finds from 256 unrolled draws (variance significant at a false discovery rate of 0.05, the mean's
    interval within half of the spread's change). Each removal is retrained with 512 coupled draws
    with other keys. "shift" is the change of the mean, "spread" the change of the standard
    deviation, both in standard deviations of the margin over draws, with 90 % intervals from
    retraining.
    """
    predict, retrain = jax.random.split(key)
    few = few_digits()
    scores = dtda.attribute(
        dtda.unroll(few), predict, 256, ["mean", "variance"], options=dtda.Options(num_resamples=0)
    )
    found = dtda.scores.spread_without_shift(scores, rate=0.05)
    data = found.index.get_level_values("example").unique().tolist()
    arms = comparison(few, retrain, dtda.leave_one_out(few.program, data)).arms(512)
    rows = [
        confirm(arms, scores, query, data.index(example), example) for query, example in found.index
    ]
    return pd.DataFrame(rows).set_index(["test digit", "training digit"])


def few_digits() -> Training:
    split = dtda.zoo.digits()
    program = dtda.Program(dtda.zoo.classifier([64], 10), split.x_train[:200], y=split.y_train[:200])

    def optimizer(num_steps: int) -> optax.GradientTransformation:
        return optax.sgd(optax.cosine_decay_schedule(0.05, num_steps), momentum=0.9)

    kernel = dtda.kernels.sgd(optimizer, num_epochs=20, batch_size=20)
    return Training(program, kernel, dtda.measures.margin(split.x_test[:40], y=split.y_test[:40]))


def confirm(
    arms: Arms, scores: xr.Dataset, query: int, position: int, example: int
) -> dict[str, object]:
    old, new = arms.old[:, query, 0], arms.new[:, query, position]
    sd = old.std(ddof=1)
    predicted = scores.sel(query=query, example=example)
    mean, variance = estimate("mean", old, new), estimate("variance", old, new)
    predicted_sd = float(predicted["sd"])
    return {
        "test digit": query,
        "training digit": example,
        "shift, predicted": float(predicted["score"].sel(divergence="mean")) / predicted_sd,
        "shift": mean.value / sd,
        "shift, interval": interval(mean.lower / sd, mean.upper / sd),
        "spread, predicted": float(predicted["score"].sel(divergence="variance"))
        / (2 * predicted_sd**2),
        "spread": variance.value / (2 * sd**2),
        "spread, interval": interval(variance.lower / (2 * sd**2), variance.upper / (2 * sd**2)),
        "p-value": variance.p_value,
    }


def pairs(training: Training, key: jax.Array) -> pd.DataFrame:
    """Time the comparison of 64 draws for all 360 x 1437 pairs of test and training digits.

    Processor seconds on the host, for normal draws of this shape: values with their errors and
    intervals; then also null levels and p-values by 20 permutations; then also ranks over 100
    resamples.
    """
    rng = np.random.default_rng(SEED)
    old = rng.normal(size=(64, 360, 1)).astype(np.float32)
    new = old + 0.01 * rng.normal(size=(64, 360, 1437)).astype(np.float32)
    rows = {}
    for name in ("mean", "variance", "log_sd_ratio", "median", "wasserstein", "energy"):
        rows[name] = {
            label: score_seconds(Arms(old, new), name, options)
            for label, options in (
                ("values and intervals", dtda.Options(num_permutations=0, num_resamples=0)),
                ("and nulls", dtda.Options(num_resamples=0)),
                ("and ranks", dtda.Options()),
            )
        }
    return pd.DataFrame(rows).T.rename_axis("divergence")


def score_seconds(arms: Arms, name: str, options: dtda.Options) -> float:
    start = time.process_time()
    score_arms(arms, (resolve(name),), "example", True, options)
    return time.process_time() - start


def interval(lower: float, upper: float) -> str:
    return f"[{lower:.4f}, {upper:.4f}]"


def main() -> None:
    start = time.perf_counter()
    training = digits_training(dtda.zoo.digits(), NUM_QUERIES)
    lines = ["# Draws", "", (__doc__ or "").strip(), ""]
    keys = jax.random.split(jax.random.key(SEED), 3)
    for part, key in zip((leave_one_out, spread_alone, pairs), keys, strict=True):
        table = part(training, key).reset_index().to_markdown(floatfmt=".4f", index=False)
        doc = "\n".join(line.strip() for line in (part.__doc__ or "").strip().split("\n"))
        lines += [f"## {part.__name__.replace('_', ' ').capitalize()}", "", doc, "", table, ""]
        print(table, flush=True)
    lines.append(circumstances(SEED, start))
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
