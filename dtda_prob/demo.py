"""The whole idea on one small dataset: sample, attribute, remove, predict, retrain, compare."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
import xarray as xr

import dtda_prob as dtda
from dtda_prob.typing import PRNGKey
from dtda_prob.zoo import Split

NUM_QUERIES, NUM_GROUPS, NUM_LEFT_OUT = 40, 3, 32
GROUP_SHARE = 0.05
ATTRIBUTION_DRAWS, RETRAININGS = 8, 8
STUDY = "study.zarr"
GROUPS = """
3. Removing, for each of {} test digits, the {:.0%} of the training digits that support it most;
   predicting the new distribution of its loss, then retraining (with other seeds) ..."""
GROUPS_VERDICT = """\
   Remaining error, W2(predicted, retrained) / W2(full, retrained): {}.
   Such groups act together and change the loss by many times its size: the prediction finds the
   direction, and the size only in part. For a single group, retraining is cheaper anyway."""
LEFT_OUT_VERDICT = """\
   predicted against retrained effects with other, coupled seeds, mean over {} test digits:
   Pearson {:.3f}, Spearman {:.3f} (reliability of the retrainings: {:.3f}).
   Single examples are where predictions are accurate: one derivative replaces a retraining each."""
WRITTEN = """
Written to {}: {} (sample sets, scores, retrainings), distributions.png,
leave_one_out.png. Open the study with dtda_prob.load or xarray."""

Trees = dict[str, xr.DataTree]


class Keys(NamedTuple):
    """Randomness of each part of the demonstration."""

    full: PRNGKey
    retrain: PRNGKey
    attribution: PRNGKey
    left_out: PRNGKey
    choice: PRNGKey


def run(folder: Path, num_draws: int, seed: int, say: Callable[[str], None]) -> None:
    """Run the demonstration, print its results and write them to `folder`.

    Args:
        folder: for the study and the figures. What the study holds is not computed again.
        num_draws: models to train per sample set.
        seed: seed of all randomness.
        say: prints a line.
    """
    keys = Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))
    split = dtda.zoo.digits()
    training = digits_training(split, NUM_QUERIES)
    folder.mkdir(parents=True, exist_ok=True)
    study = folder / STUDY
    say(f"1. Training {num_draws} models on {len(split.x_train)} handwritten digits ...")
    trees = {"full": dtda.sample(training, keys.full, num_draws, where=dtda.Where(study, "full"))}
    say(_spread(trees["full"]))
    say(f"\n2. Finding the training digits that change the loss of {NUM_QUERIES} test digits most ...")
    transform = dtda.unroll(training)
    scores = dtda.attribute(
        transform, keys.attribution, ATTRIBUTION_DRAWS, ["mean"], where=dtda.Where(study, "scores")
    )
    say(_strongest(scores, split))
    say(GROUPS.format(NUM_GROUPS, GROUP_SHARE))
    table = _remove_groups(training, keys, scores, num_draws, study, trees)
    say(table.to_string(float_format="{:.3g}".format))
    say(_verdict_on_groups(table))
    say(f"\n4. Leaving out {NUM_LEFT_OUT} random training digits one by one ...")
    left_out = _leave_out(training, keys, study)
    names = ("pearson", "spearman", "reliability")
    say(LEFT_OUT_VERDICT.format(NUM_QUERIES, *(float(left_out[name].mean()) for name in names)))
    queries = scores["query"].values
    _save(folder / "distributions.png", dtda.plots.compare(_targets(trees, queries[:NUM_GROUPS])))
    _save(folder / "leave_one_out.png", dtda.plots.agreement(left_out, queries[:8].tolist()))
    say(WRITTEN.format(folder, STUDY))


def digits_training(split: Split, num_queries: int) -> dtda.Training:
    """Build the training that demonstrations and benchmarks share.

    A perceptron 64-64-10 with tanh units; SGD with momentum 0.9, cosine rate from 0.05, batches of
    64, 20 epochs; measured by the loss of the first test digits.
    """
    program = dtda.Program(dtda.zoo.classifier([64], 10), split.x_train, y=split.y_train)

    def optimizer(num_steps: int) -> optax.GradientTransformation:
        return optax.sgd(optax.cosine_decay_schedule(0.05, num_steps), momentum=0.9)

    kernel = dtda.kernels.sgd(optimizer, num_epochs=20, batch_size=64)
    measure = dtda.measures.loss(split.x_test[:num_queries], y=split.y_test[:num_queries])
    return dtda.Training(program, kernel, measure)


def most_supporting(scores: xr.Dataset, query: int, share: float) -> np.ndarray:
    """Return the share of the examples whose removal is predicted to raise the loss of a query most."""
    effect = scores["score"].sel(divergence="mean", query=query)
    return effect.sortby(-effect)["example"].values[: round(share * effect.sizes["example"])]


def _remove_groups(
    training: dtda.Training,
    keys: Keys,
    scores: xr.Dataset,
    num_draws: int,
    study: Path,
    trees: Trees,
) -> pd.DataFrame:
    """Predict and retrain without the group of each query, and add the draws to the trees."""
    rows, transform = {}, dtda.unroll(training)
    for query in scores["query"].values[:NUM_GROUPS]:
        without = dtda.remove(training.program, most_supporting(scores, query, GROUP_SHARE))
        for name, source, key in (
            (f"predicted_{query}", transform, keys.full),
            (f"retrained_{query}", training, keys.retrain),
        ):
            trees[name] = dtda.sample(
                source,
                key,
                num_draws,
                without,
                options=dtda.Options(check=False),
                where=dtda.Where(study, name),
            )
        names = "full", f"predicted_{query}", f"retrained_{query}"
        rows[query] = _compare(*(_losses(trees[name], query).values.ravel() for name in names))
    return pd.DataFrame(rows).T.rename_axis("query")


def _compare(full: np.ndarray, predicted: np.ndarray, retrained: np.ndarray) -> dict[str, float]:
    moved = dtda.divergences.estimate("wasserstein", full, retrained, coupled=False)
    missed = dtda.divergences.estimate("wasserstein", predicted, retrained, coupled=False)
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


def _leave_out(training: dtda.Training, keys: Keys, study: Path) -> xr.Dataset:
    data = jax.random.choice(keys.choice, training.program.num_data, (NUM_LEFT_OUT,), replace=False)
    return dtda.evaluate.loo(
        dtda.unroll(training),
        keys.attribution,
        keys.left_out,
        np.asarray(data),
        options=dtda.evaluate.CompareOptions(ATTRIBUTION_DRAWS, RETRAININGS),
        where=dtda.Where(study, "leave_one_out"),
    )


def _losses(tree: xr.DataTree, query: int | None = None) -> xr.DataArray:
    losses = tree.children["posterior_predictive"].to_dataset()["loss"]
    return losses if query is None else losses.sel(query=query)


def _spread(full: xr.DataTree) -> str:
    losses = _losses(full)
    flagged = int(full.children["sample_stats"].to_dataset()["diverging"].sum())
    return (
        f"   mean test loss {float(losses.mean()):.4f}; standard deviation of the loss of a test digit "
        f"over seeds {float(losses.std(('chain', 'draw')).mean()):.4f}; {flagged} draws not finite"
    )


def _strongest(scores: xr.Dataset, split: Split) -> str:
    lines = [
        "   removing the training digit on the right changes the loss of the test digit on the left:"
    ]
    for query in scores["query"].values[:NUM_GROUPS]:
        one = scores.sel(divergence="mean", query=query)
        best = one.sortby("rank").isel(example=slice(3))
        moves = ", ".join(
            f"#{label} (a {split.y_train[label]}) by {float(s):+.1e} +- {float(e):.0e}"
            for label, s, e in zip(best["example"].values, best["score"], best["error"], strict=True)
        )
        lines.append(f"   test {query} (a {split.y_test[query]}): {moves}")
    return "\n".join(lines)


def _verdict_on_groups(table: pd.DataFrame) -> str:
    ratio = table["W2(predicted, retrained)"] / table["W2(full, retrained)"]
    grades = pd.cut(ratio, [-np.inf, 0.25, 0.5, np.inf], labels=["good", "fair", "poor"], right=False)
    each = (f"test {query}: {ratio[query]:.2f}, {grades[query]}" for query in table.index)
    return GROUPS_VERDICT.format("; ".join(each))


def _targets(trees: Mapping[str, xr.DataTree], queries: np.ndarray) -> Trees:
    """Return the loss of each group's query, one tree per kind of sample set.

    Losses span orders of magnitude here, so their logarithm is drawn.
    """

    def losses(name: str, query: int) -> xr.Dataset:
        loss = _losses(trees[name]).sel(query=[query])
        return xr.Dataset({"log10 loss of test digit": np.log10(loss)})

    kinds = {"full": "full", "predicted": "predicted_{}", "retrained": "retrained_{}"}
    return {
        kind: xr.DataTree.from_dict(
            {
                "posterior_predictive": xr.concat(
                    [losses(name.format(query), query) for query in queries], "query"
                )
            }
        )
        for kind, name in kinds.items()
    }


def _save(path: Path, picture) -> None:
    picture.savefig(path, dpi=120, bbox_inches="tight")
    plt.close("all")
