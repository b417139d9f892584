"""The whole idea on one small data set: sample, attribute, remove, predict, retrain, compare."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
import xarray as xr

from dtda_prob import evaluate, kernels, measures, plots, zoo
from dtda_prob.attribution import attribute
from dtda_prob.divergences import estimate
from dtda_prob.outcomes import sample
from dtda_prob.perturbations import remove
from dtda_prob.program import Program
from dtda_prob.training import Training
from dtda_prob.transforms import unroll
from dtda_prob.typing import PRNGKey

NUM_QUERIES, NUM_GROUPS, NUM_LEFT_OUT = 40, 3, 32
GROUP_SHARE = 0.05
ATTRIBUTION_DRAWS, RETRAININGS = 8, 8
STUDY = "study.zarr"
Say = Callable[[str], None]


class Keys(NamedTuple):
    """Randomness of each part of the demonstration."""

    full: PRNGKey
    retrain: PRNGKey
    attribution: PRNGKey
    left_out: PRNGKey
    choice: PRNGKey


def run(folder: Path, num_draws: int, seed: int, say: Say) -> None:
    """Run the demonstration, say what comes out and write it to `folder`.

    Args:
        folder: where the study and the pictures go. What the study holds is not computed again.
        num_draws: models to train per sample set.
        seed: seed of all randomness.
        say: prints a line.
    """
    keys = Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))
    split = zoo.digits()
    training = digits_training(split, NUM_QUERIES)
    folder.mkdir(parents=True, exist_ok=True)
    study = folder / STUDY
    say(f"1. Training {num_draws} models on {len(split.x_train)} handwritten digits ...")
    full = sample(training, keys.full, num_draws, store=study, name="full")
    say(_describe_full(full))
    say(f"\n2. Asking which training digits move the loss of {NUM_QUERIES} test digits most ...")
    scores = attribute(
        unroll(training), keys.attribution, ATTRIBUTION_DRAWS, ["mean"], store=study, name="scores"
    )
    say(_describe_scores(scores, split))
    say(
        f"\n3. Removing, for each of {NUM_GROUPS} test digits, the {GROUP_SHARE:.0%} of the training "
        "digits that it leans on most;\n   predicting the new distribution of its loss, then really "
        "retraining (with other seeds) ..."
    )
    trees, table = _remove_groups(training, keys, full, scores, num_draws, study)
    say(table.to_string(float_format="{:.3g}".format))
    say(_verdict_on_groups(table))
    say(f"\n4. Leaving out {NUM_LEFT_OUT} random training digits one by one ...")
    left_out = _leave_out(training, keys, study)
    say(_verdict_on_left_out(left_out))
    _draw(folder, {"full": full, **trees}, scores, left_out)
    say(f"\nWritten to {folder}: {STUDY} (sample sets, scores, retrainings), distributions.png,")
    say("leave_one_out.png. Open the study with dtda_prob.load or xarray.")


def digits_training(split: zoo.Split, num_queries: int) -> Training:
    """Build the training that demonstrations and benchmarks share.

    A perceptron 64-64-10 with tanh units; SGD with momentum 0.9, cosine rate from 0.05, batches of
    64, 20 epochs; measured by the loss of the first test digits.
    """
    program = Program(zoo.classifier([64], 10), split.x_train, y=split.y_train)

    def optimizer(num_steps: int) -> optax.GradientTransformation:
        return optax.sgd(optax.cosine_decay_schedule(0.05, num_steps), momentum=0.9)

    kernel = kernels.sgd(optimizer, num_epochs=20, batch_size=64)
    measure = measures.loss(split.x_test[:num_queries], y=split.y_test[:num_queries])
    return Training(program, kernel, measure)


def most_supporting(scores: xr.Dataset, query: int, share: float) -> np.ndarray:
    """Give the share of the data whose removal is predicted to raise the loss of a query most."""
    effect = scores["score"].sel(divergence="mean", query=query)
    return effect.sortby(-effect)["datum"].values[: round(share * effect.sizes["datum"])]


def _remove_groups(
    training: Training,
    keys: Keys,
    full: xr.DataTree,
    scores: xr.Dataset,
    num_draws: int,
    study: Path,
) -> tuple[dict[str, xr.DataTree], pd.DataFrame]:
    trees, rows = {}, {}
    transform = unroll(training)
    for query in scores["query"].values[:NUM_GROUPS]:
        without = remove(training.program, most_supporting(scores, query, GROUP_SHARE))
        names = f"predicted_{query}", f"retrained_{query}"
        predicted = sample(
            transform, keys.full, num_draws, without, check=False, store=study, name=names[0]
        )
        retrained = sample(training, keys.retrain, num_draws, without, store=study, name=names[1])
        trees |= dict(zip(names, (predicted, retrained), strict=True))
        rows[query] = _compare(*(_losses(tree, query) for tree in (full, predicted, retrained)))
    return trees, pd.DataFrame(rows).T.rename_axis("query")


def _compare(full: np.ndarray, predicted: np.ndarray, retrained: np.ndarray) -> dict[str, float]:
    moved = estimate("wasserstein", full, retrained, coupled=False)
    missed = estimate("wasserstein", predicted, retrained, coupled=False)
    return {
        "loss": full.mean(),
        "shift predicted": predicted.mean() - full.mean(),
        "shift retrained": retrained.mean() - full.mean(),
        "variance ratio predicted": predicted.var() / full.var(),
        "variance ratio retrained": retrained.var() / full.var(),
        "W2(full, retrained)": float(moved.value),
        "W2(predicted, retrained)": float(missed.value),
        "null level": float(missed.null),
    }


def _leave_out(training: Training, keys: Keys, study: Path) -> xr.Dataset:
    data = jax.random.choice(keys.choice, training.program.num_data, (NUM_LEFT_OUT,), replace=False)
    return evaluate.leave_one_out(
        unroll(training),
        keys.attribution,
        keys.left_out,
        np.asarray(data),
        num_draws=ATTRIBUTION_DRAWS,
        num_retrainings=RETRAININGS,
        store=study,
        name="leave_one_out",
    )


def _losses(tree: xr.DataTree, query: int) -> np.ndarray:
    return _predictive(tree)["loss"].sel(query=query).values.ravel()


def _predictive(tree: xr.DataTree) -> xr.Dataset:
    return tree.children["posterior_predictive"].to_dataset()


def _describe_full(full: xr.DataTree) -> str:
    losses = _predictive(full)["loss"]
    spread = losses.std(("chain", "draw")).mean()
    flagged = int(full.children["sample_stats"].to_dataset()["diverging"].sum())
    return (
        f"   mean test loss {float(losses.mean()):.4f}; from seed to seed the loss of one test digit "
        f"varies by {float(spread):.4f} (standard deviation); {flagged} draws not finite"
    )


def _describe_scores(scores: xr.Dataset, split: zoo.Split) -> str:
    lines = ["   removing the digit on the right changes the loss of the test digit on the left:"]
    for query in scores["query"].values[:NUM_GROUPS]:
        one = scores.sel(divergence="mean", query=query)
        best = one.sortby("rank").isel(datum=slice(3))
        moves = ", ".join(
            f"#{datum} (a {split.y_train[datum]}) by {float(s):+.1e} +- {float(e):.0e}"
            for datum, s, e in zip(best["datum"].values, best["score"], best["error"], strict=True)
        )
        lines.append(f"   test {query} (a {split.y_test[query]}): {moves}")
    return "\n".join(lines)


def _verdict_on_groups(table: pd.DataFrame) -> str:
    ratio = table["W2(predicted, retrained)"] / table["W2(full, retrained)"]
    words = {query: _grade(value) for query, value in ratio.items()}
    told = "; ".join(f"test {query}: {ratio[query]:.2f}, {word}" for query, word in words.items())
    return (
        "   What is left to explain, W2(predicted, retrained) / W2(full, retrained): "
        f"{told}.\n   Such groups act together and move the loss by many times its size: the direction "
        "is found,\n   the size only in part. For one group, retraining is the cheaper buy anyway."
    )


def _grade(ratio: float) -> str:
    return "good" if ratio < 0.25 else "fair" if ratio < 0.5 else "poor"


def _verdict_on_left_out(left_out: xr.Dataset) -> str:
    pearson, spearman, truth = (
        float(left_out[name].mean()) for name in ("pearson", "spearman", "reliability")
    )
    return (
        f"   predicted against retrained with other, coupled seeds, mean over {NUM_QUERIES} test "
        f"digits: Pearson {pearson:.3f}, Spearman {spearman:.3f}\n"
        f"   (the reliability of the retrainings themselves is {truth:.3f}).\n"
        "   Single digits are where the prediction is good: one derivative replaces a retraining each."
    )


def _draw(
    folder: Path, trees: dict[str, xr.DataTree], scores: xr.Dataset, left_out: xr.Dataset
) -> None:
    queries = scores["query"].values
    pictures = {
        "distributions": plots.compare(_targets_alone(trees, queries[:NUM_GROUPS])),
        "leave_one_out": plots.agreement(left_out, queries[:8].tolist()),
    }
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
    plt.close("all")


def _targets_alone(trees: dict[str, xr.DataTree], queries: np.ndarray) -> dict[str, xr.DataTree]:
    """Put the query that each group was chosen for side by side, one tree per kind of sample.

    Losses span orders of magnitude here, so their logarithm is drawn.
    """

    def losses(tree: xr.DataTree, query: int) -> xr.Dataset:
        chosen = _predictive(tree)["loss"].sel(query=[query])
        return xr.Dataset({"log10 loss of test digit": np.log10(chosen)})

    kinds = {
        "full": [losses(trees["full"], query) for query in queries],
        "predicted": [losses(trees[f"predicted_{query}"], query) for query in queries],
        "retrained": [losses(trees[f"retrained_{query}"], query) for query in queries],
    }
    return {
        kind: xr.DataTree.from_dict({"posterior_predictive": xr.concat(parts, "query")})
        for kind, parts in kinds.items()
    }
