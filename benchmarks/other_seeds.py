"""One per cent removed from a transformer: the same seed, another seed, and the mean of several.

Run with `uv run python benchmarks/other_seeds.py` (some ten minutes on two cores). It prints its table
and writes it to `docs/benchmarks/other_seeds.md`. After the protocol of bergson (2026) at our size: the
character transformer of [which method](choose.md#transformer-by-adamw) on 200 sequences, 50 queries,
100 random sets of 2 sequences (1 %) removed at weight 0. LDS is the Spearman correlation of predicted
and retrained effects over sets, averaged over queries and over four retrainings of different seeds.
EK-FAC samples a label of each token; the refined one, with 432 outputs a sequence, takes too long.
"""

import time

import jax
import numpy as np
import page
import pandas as pd
import xarray as xr
from networks import characters

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.attribution.methods import shifts
from dtda_prob.correlations import spearman
from dtda_prob.training import Training

SEED = 0
NUM_DATA, NUM_QUERIES, NUM_SETS, NUM_REMOVED = 200, 50, 100, 2
NUM_RETRAININGS, NUM_DRAWS = 4, 16


def one_per_cent() -> pd.DataFrame:
    """Predict a single retraining by its own seed, by another seed, and by the mean of other seeds.

    "Rise" is the mean rise of a query's loss, in nats, without the 1 % of the sequences whose removal
    raises it most by the mean of 16 draws, over four retrainings; "+-" is its error over queries.
    "Another retraining" is the correlation of two retrainings.
    """
    training = characters(NUM_DATA, NUM_QUERIES)
    choice, retrain, predict = jax.random.split(jax.random.key(SEED), 3)
    keep = NUM_DATA - NUM_REMOVED
    sets = dtda.random_subsets(training.program, choice, NUM_SETS, keep)
    truth = shifts(training, retrain, sets, NUM_RETRAININGS)
    rows = {"another retraining": {"LDS, another seed": across(truth, truth)}}
    single = dtda.leave_one_out(training.program)
    for method in (
        dtda.unroll(training),
        dtda.influence(training, curvature.kronecker()),
        dtda.influence(training, curvature.identity(damping=1.0)),
    ):
        start = time.perf_counter()
        own = shifts(method, retrain, single, NUM_RETRAININGS)
        others = shifts(method, predict, single, NUM_DRAWS)
        found = agreements(*(of_sets(each, sets) for each in (own, others)), truth)
        raised = rise(training, retrain, most_raising(others.mean(0)))
        found |= {"rise": raised.mean(), "+-": raised.std() / NUM_QUERIES**0.5}
        rows[method.name] = found | {"seconds": time.perf_counter() - start}
        print(method.name, rows[method.name], flush=True)
    random = np.random.default_rng(SEED).permuted(
        np.tile(np.arange(NUM_DATA), (NUM_QUERIES, 1)), axis=1
    )
    raised = rise(training, retrain, random[:, :NUM_REMOVED])
    rows["at random"] = {"rise": raised.mean(), "+-": raised.std() / NUM_QUERIES**0.5}
    return pd.DataFrame.from_dict(rows, "index").rename_axis("method")


def of_sets(singles: np.ndarray, sets: xr.DataArray) -> np.ndarray:
    """Sum the effects of single examples over the examples that each set removes."""
    return singles @ (1 - sets.values.T)


def agreements(own: np.ndarray, others: np.ndarray, truth: np.ndarray) -> dict[str, object]:
    several = {f"LDS, mean of {n} other seeds": others[:n].mean(0) for n in (4, NUM_DRAWS)}
    return {
        "LDS, same seed": np.nanmean([spearman(*pair) for pair in zip(own, truth, strict=True)]),
        "LDS, another seed": across(own, truth),
        **{name: np.nanmean(spearman(mean[None], truth)) for name, mean in several.items()},
        "16 on the mean of 4": np.nanmean(spearman(others.mean(0), truth.mean(0))),
    }


def across(first: np.ndarray, second: np.ndarray) -> float:
    """Average the correlations of draws of different seeds."""
    pairs = [(a, b) for i, a in enumerate(first) for j, b in enumerate(second) if i != j]
    return float(np.nanmean([spearman(*pair) for pair in pairs]))


def most_raising(effects: np.ndarray) -> np.ndarray:
    """Return the positions of the examples whose removal raises each query's loss most."""
    return np.argsort(-effects, axis=1)[:, :NUM_REMOVED]


def rise(training: Training, key: jax.Array, removed: np.ndarray) -> np.ndarray:
    """Retrain without the examples of each query, and return the rise of its own loss."""
    weights = np.ones((len(removed), NUM_DATA))
    np.put_along_axis(weights, removed, 0.0, axis=1)
    each = shifts(training, key, weights, NUM_RETRAININGS)
    return np.diagonal(each.mean(0))


PARTS = (one_per_cent,)

if __name__ == "__main__":
    page.write("other_seeds", "Across seeds", __doc__, PARTS, SEED)
