"""Find and prune wrong labels: digits, 10 % of which are labelled as another digit.

Run with `uv run python benchmarks/clean.py` (some ten minutes on two cores). It prints its tables and
writes them to `docs/benchmarks/clean.md`. 144 of 1437 training digits get another label, at random.
Nothing is tuned with this knowledge: each score is used unchanged. Test digits have correct labels;
the first 180 are for validation, and the other 180 measure the effect of pruning.
"""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from page import circumstances

import dtda_prob as dtda
from dtda_prob import curvature, evaluate, measures
from dtda_prob.studies.source import draw_keys
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "clean.md"
SEED = 0
SHARE = 0.1
DRAWS, FEW_DRAWS, FIXED_SEEDS = 16, 4, 5

SPLIT = dtda.zoo.digits()
VALIDATION, TEST = slice(0, 180), slice(180, 360)
Scores = dict[str, np.ndarray]


def mislabelled() -> tuple[np.ndarray, np.ndarray]:
    """Return the labels, 10 % of them flipped, and a mask of the flipped ones."""
    rng = np.random.default_rng(SEED)
    number = len(SPLIT.y_train)
    wrong = np.zeros(number, bool)
    wrong[rng.choice(number, round(SHARE * number), replace=False)] = True
    other = (SPLIT.y_train + rng.integers(1, 10, number)) % 10
    return np.where(wrong, other, SPLIT.y_train).astype(np.int32), wrong


LABELS, WRONG = mislabelled()


def trained(measure: measures.Measure, width: int, num_epochs: int) -> Training:
    """Train the perceptron of the main job, or a wider one for longer, on partly wrong labels."""
    program = dtda.Program(dtda.zoo.classifier([width], 10), SPLIT.x_train, y=LABELS)

    def optimizer(num_steps: int) -> optax.GradientTransformation:
        return optax.sgd(optax.cosine_decay_schedule(0.05, num_steps), momentum=0.9)

    return Training(program, dtda.kernels.sgd(optimizer, num_epochs=num_epochs, batch_size=64), measure)


def draws_of(function: Callable, num_draws: int) -> np.ndarray:
    """Return a function's values at full weights, one row per draw."""
    compiled, ones = jax.jit(function), jnp.ones(len(LABELS))
    keys = draw_keys(jax.random.key(SEED), num_draws)
    return np.stack([np.asarray(compiled(key, ones)) for key in keys])


def own(width: int, num_epochs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each example's loss and margin, and the derivative of its loss by its weight, in draws."""
    loss = trained(measures.loss(SPLIT.x_train, y=LABELS), width, num_epochs)
    margin = trained(measures.margin(SPLIT.x_train, y=LABELS), width, num_epochs)
    ekfac = dtda.influence(loss, curvature.kronecker())
    return (
        draws_of(lambda key, weights: loss.draw(key, weights).value[0], DRAWS),
        draws_of(lambda key, weights: margin.draw(key, weights).value[0], DRAWS),
        draws_of(lambda key, weights: jnp.diag(ekfac.pull(key, weights)[0]), FEW_DRAWS),
    )


def on_validation(
    transform: Callable[[Training], PushForward], width: int, num_epochs: int, num_draws: int
) -> np.ndarray:
    """Return the derivative of the mean validation loss by each weight: positive where it harms."""
    loss = measures.loss(SPLIT.x_test[VALIDATION], y=SPLIT.y_test[VALIDATION])
    push_forward = transform(trained(measures.averaged(loss), width, num_epochs))
    return draws_of(push_forward.pull, num_draws)[:, 0, 0]


def ekfac(training: Training) -> PushForward:
    return dtda.influence(training, curvature.kronecker())


def scores_of(width: int, num_epochs: int, num_draws: int) -> Scores:
    """Return scores in draws, `(draw, example)`, higher for more suspicious labels."""
    loss, margin, slope = own(width, num_epochs)
    return {
        "loss": loss,
        "margin": -margin,
        "own influence, EK-FAC": -slope,
        "loss when left out, EK-FAC": loss[:FEW_DRAWS] - slope,
        "influence on validation loss, EK-FAC": on_validation(ekfac, width, num_epochs, num_draws),
        "influence on validation loss, unroll": on_validation(
            dtda.unroll, width, num_epochs, num_draws
        ),
    }


def detection(scores: Scores) -> pd.DataFrame:
    """Measure how well scores find the wrong labels: averaged over draws, and for the first draw."""
    table = {f"{name}, {len(draws)} draws": draws.mean(0) for name, draws in scores.items()}
    table |= {f"{name}, 1 draw": draws[0] for name, draws in scores.items()}
    found = evaluate.mislabels(table, WRONG)
    baseline = f"loss, {DRAWS} draws"
    pairs = {
        "AUC": ("auc", "auc_error"),
        "AUC minus the loss's AUC": ("difference", "difference_error"),
        "precision": ("precision", "precision_error"),
    }
    chosen = found.sel(other=baseline, count=WRONG.sum())
    return pd.DataFrame(
        {
            title: told(chosen[value].values, chosen[error].values)
            for title, (value, error) in pairs.items()
        },
        index=pd.Index(list(table), name="score"),
    )


def prunings(scores: Scores) -> pd.DataFrame:
    """Remove 10 % of the data by each rule, retrain 20 times with the same keys, compare losses."""
    loss = measures.loss(SPLIT.x_test[TEST], y=SPLIT.y_test[TEST])
    rules = {
        f"{name}, {kind}": draws.mean(0) if kind == "distributional" else draws[:FIXED_SEEDS]
        for name, draws in scores.items()
        if name != "margin"
        for kind in ("distributional", "fixed seed")
    }
    rules["the wrong labels themselves"] = WRONG.astype(float)
    rules["random"] = np.random.default_rng(0).random((10, len(WRONG)))
    arms = evaluate.pruning(trained(loss, 64, 20), jax.random.key(SEED + 1), rules, share=SHARE)
    table = evaluate.compare_rules(arms)
    hits = [(arms["weights"].values[arms["rule"].values == rule] == 0)[:, WRONG].mean() for rule in
            table["rule"].values[1:]]  # fmt: skip
    columns = {"test loss": told(table["mean"].values, table["error"].values, 4)}
    for other in ("random", "loss, distributional"):
        chosen = table.sel(other=other)
        ends = zip(
            chosen["difference"].values, chosen["lower"].values, chosen["upper"].values, strict=True
        )
        columns[f"less {other}"] = [f"{d:+.4f} [{a:+.4f}, {b:+.4f}]" for d, a, b in ends]
    columns["share of wrong labels removed"] = ["0.000", *(f"{hit:.3f}" for hit in hits)]
    return pd.DataFrame(columns, index=pd.Index(table["rule"].values, name="rule"))


def told(values: np.ndarray, errors: np.ndarray, digits: int = 4) -> list[str]:
    return [f"{v:.{digits}f} +- {e:.{digits}f}" for v, e in zip(values, errors, strict=True)]


def main() -> None:
    start = time.perf_counter()
    short = scores_of(64, 20, DRAWS)
    sections = {
        "Wrong labels, 64 units, 20 epochs": (
            "The perceptron of the main job. Errors by DeLong's method; precision among the 144 most "
            "suspicious examples.",
            detection(short),
        ),
        "Wrong labels, 256 units, 100 epochs": (
            "Training continues until the network has learned many of the wrong labels.",
            detection(scores_of(256, 100, FEW_DRAWS)),
        ),
        "Pruning": (
            "Test loss after removing 144 digits and retraining (20 epochs, 64 units) 20 times with "
            "paired keys, with 90 % intervals. Fixed seed: scores of a single draw, averaged over "
            f"{FIXED_SEEDS} draws; random: averaged over 10 choices.",
            prunings(short),
        ),
    }
    lines = ["# Wrong labels", "", (__doc__ or "").strip(), ""]
    for title, (text, table) in sections.items():
        body = table.to_markdown(disable_numparse=True)
        lines += [f"## {title}", "", text, "", body, ""]
        print(title, body, sep="\n", flush=True)
    lines.append(circumstances(SEED, start))
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
