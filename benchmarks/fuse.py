"""Predictions and retrainings fused: directions, errors and coverage against the number of retrainings.

Run with `uv run python benchmarks/fuse.py`, or with the names of some of its parts. It prints its
tables and writes their sections of `docs/benchmarks/fuse.md`. Truth is coupled retraining under other
keys: of random groups of a tenth of the examples, and of 24 single examples, the 12 whose predicted
effects are largest and 12 at random. "LDS" is the Spearman correlation of scores and retrained mean
effects of groups, averaged over queries, "singles" the Pearson correlation of single examples; the last
row is their ceiling, the root of the truth's reliability. "Error" is the mean squared error of the 12
largest effects, less the truth's own, relative to their mean square. `fuse` retrains subsets that lack
a tenth of the examples; "halves" are subsets made for the question: each lacks one half of the 30
examples of the largest predicted effects, the next one the other half, with random others up to a
tenth. "Datamodel" is ridge regression on the same retrainings, with the best of four penalties on the
very truth, which nobody knows. "Stacked" is the weighted sum of push-forward and datamodel that
predicts left-out retrainings best. Coverage is of 90 % intervals, with the truth's own error added;
"large" and "small" are the quarters of single effects whose scores are the largest and the smallest.
"Rise" is how much the measurement of a query rises without the 1 % of the examples that score highest
for it, relative to the push-forward's choice. The first row is the push-forward alone, with the errors
that `attribute` states. Up to 8 trainings on all data come on top of the retrainings.
"""

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import networks
import numpy as np
import optax
import optimizers
import page
import pandas as pd
import scipy.stats

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.attribution import comparison, fusion
from dtda_prob.attribution.drawn import Drawn, predict, retrain
from dtda_prob.attribution.fusion import Asked, Evidence, Fused, Predicted
from dtda_prob.attribution.methods import shifts
from dtda_prob.attribution.subsets import given_subsets
from dtda_prob.correlations import lengthened, pearson
from dtda_prob.demo import digits_training
from dtda_prob.perturbations import labelled
from dtda_prob.studies.run import HERE
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

SEED, NUM_TRUE, NUM_RAISED = 0, 16, 12
BUDGETS = 0, 10, 25, 50, 100, 200
PENALTIES = 1.0, 10.0, 100.0, 1000.0
REACH = 1.645
ALL = slice(None)
RAISED_AFTER = 50, 200
"""Retrainings after which the highest scores are removed."""
Effects = Mapping[str, np.ndarray]


def digits() -> pd.DataFrame:
    """Perceptron 64-64-10 on 1437 digits, SGD with momentum, cosine rate; `unroll`, 16 draws."""
    return study(dtda.unroll(digits_training(dtda.zoo.digits(), 40)))


def concrete() -> pd.DataFrame:
    """Perceptron 128-128-128 on 896 rows of Concrete, SGD at one rate; Nystroem 100, 16 draws."""
    return study(dtda.influence(networks.strength(), curvature.nystroem(rank=100)))


def diabetes_by_adam() -> pd.DataFrame:
    """Perceptron 10-68-1 on 300 rows of diabetes, Adam at a constant rate; `unroll`, 16 draws."""
    return study(dtda.unroll(optimizers.diabetes(optax.adam(3e-3))))


def cost() -> pd.DataFrame:
    """Made-up effects of 16 draws: processor seconds of the model alone, and the peak of memory.

    It is learned from some queries at once, and the others are fused four at a time, with 100 joint
    samples for the certainty of ranks; four queries of the larger size are timed.
    """
    rows = [priced(1437, 360, 100, 48, 360), priced(50000, 1000, 200, 8, 4)]
    return pd.DataFrame(rows).set_index(["examples", "queries", "retrainings"])


def priced(examples: int, queries: int, number: int, first: int, some: int) -> dict[str, float]:
    rng = np.random.default_rng(SEED)
    change = -(rng.uniform(size=(number, examples)) < 0.1).astype(float)
    start = time.process_time()
    learned = fusion.learn(made_up(rng, change, first)[0])
    learning, seconds = time.process_time() - start, 0.0
    for _ in range(0, some, 4):
        evidence, asked = made_up(rng, change, 4)
        start = time.process_time()
        fusion.fused(learned, evidence, asked, 100)
        seconds += (time.process_time() - start) * queries / some
    return {
        "examples": examples,
        "queries": queries,
        "retrainings": number,
        "learn, s": learning,
        "fuse, s": seconds,
        "memory, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def made_up(rng: np.random.Generator, change: np.ndarray, queries: int) -> tuple[Evidence, Asked]:
    """Return made-up retrainings of some queries, and the removal of each example."""
    each = rng.normal(size=(queries, change.shape[1])) + rng.normal(size=(16, queries, change.shape[1]))
    sums, keys = each @ change.T, np.arange(len(change)) % 8
    own = np.moveaxis(sums[keys, :, np.arange(len(change))], 0, -1)
    noisy, slopes = own + rng.normal(size=own.shape) * own.std(), each.mean(0)
    known = Predicted(sums.mean(0), sums - sums.mean(0), np.ones(len(change)))
    asked = Predicted(-slopes, slopes - each, np.full(change.shape[1], 10 / change.shape[1]))
    singles: Any = SimpleNamespace(
        change=lambda slopes, start: -slopes, squares=lambda values, start: values
    )
    evidence = Evidence(known, own, noisy, change, keys, slopes, np.ones(queries))
    return evidence, Asked(asked, singles, None)


def study(push_forward: PushForward, num_draws: int = 16) -> pd.DataFrame:
    """Return directions, errors and coverage for each number of retrainings."""
    training, most = push_forward.training, max(BUDGETS)
    own, truth, groups = jax.random.split(jax.random.key(SEED), 3)
    each = comparison(push_forward, own, None, "pull")
    drawn = retrain(predict(each, None, num_draws, HERE), most, HERE)
    predicted = drawn.question(ALL)
    order = np.argsort(-np.abs(predicted.predicted.mean).mean(0))
    made = given_subsets(training.program, halves(training.program, order[:30], most))
    by_halves = retrain(predict(each, made, num_draws, HERE), most, HERE)
    some = [*order[:12], *np.random.default_rng(SEED).choice(order[12:], 12, replace=False)]
    weights = {
        "groups": dtda.random_subsets(training.program, groups, 24, 0.9),
        "singles": dtda.leave_one_out(training.program, training.program.labels[some]),
    }
    true = {name: of_queries(shifts(training, truth, rows, NUM_TRUE)) for name, rows in weights.items()}
    asked = {name: question(drawn, rows, num_draws) for name, rows in weights.items()}
    found = {name: alone(those) for name, those in asked.items()}
    rows: dict[Any, dict[str, float]] = {0: directions(found, true) | coverage(found, true)}
    usual = rise(training, truth, predicted.predicted.mean)
    rows[0]["rise"] = 1.0
    for number in BUDGETS[1:]:
        evidence = first(drawn, number)
        learned = fusion.learn(evidence)
        found = {name: fusion.fused(learned, evidence, those, 2) for name, those in asked.items()}
        rows[number] = directions(found, true) | coverage(found, true)
        rows[number] |= baselines(evidence, asked, true)
        if number in RAISED_AFTER:
            scores = fusion.fused(learned, evidence, predicted, 2).mean
            rows[number]["rise"] = rise(training, truth, scores) / usual
        evidence = first(by_halves, number)
        learned = fusion.learn(evidence)
        found = {name: fusion.fused(learned, evidence, those, 2) for name, those in asked.items()}
        rows[number]["error halves"] = directions(found, true)["error"]
    rows["ceiling"] = {"LDS": ceiling(true["groups"], scipy.stats.rankdata)}
    rows["ceiling"]["singles"] = ceiling(true["singles"])
    return pd.DataFrame.from_dict(rows, "index").rename_axis("retrainings")[COLUMNS]


COLUMNS = [
    *("LDS", "LDS datamodel", "LDS stacked", "singles", "singles datamodel", "singles stacked"),
    *("error", "error halves", "rise"),
    *("coverage groups", "coverage singles", "coverage large", "coverage small"),
]


def halves(program: dtda.Program, asked: np.ndarray, number: int) -> np.ndarray:
    """Return weights without one half of some examples and then the other, and without others."""
    rng, weights = np.random.default_rng(SEED), np.ones((number, program.num_data))
    others, size = np.setdiff1d(np.arange(program.num_data), asked), program.num_data // 10
    for i in range(0, number, 2):
        parts = np.split(rng.permutation(asked), 2)
        for row, part in zip(weights[i : i + 2], parts, strict=True):
            row[part] = row[rng.choice(others, size - len(part), replace=False)] = 0.0
    return weights


def of_queries(each: np.ndarray) -> np.ndarray:
    return each.reshape(len(each), -1, each.shape[2])


def question(drawn: Drawn, weights: Any, num_draws: int) -> Asked:
    """Return other perturbed datasets as they are asked for."""
    asked = drawn.comparison
    compared = comparison(asked.source, asked.key, weights, "pull")
    return replace(drawn, comparison=compared, asked=compared.draw(num_draws)).question(ALL)


def first(drawn: Drawn, number: int) -> Evidence:
    return replace(drawn, values=drawn.values[: drawn.num_keys + number]).evidence(ALL)


def alone(asked: Asked) -> Fused:
    mean, apart, _ = asked.predicted
    variance = (apart**2).sum(0) / (len(apart) * (len(apart) - 1))
    return Fused(mean, variance, variance, apart[:0])


def directions(found: Mapping[str, Fused], true: Effects) -> dict[str, float]:
    groups, singles = (true[name].mean(0) for name in ("groups", "singles"))
    each, noise = found["singles"].mean[:, :12], true["singles"][:, :, :12].var(0, ddof=1) / NUM_TRUE
    large = singles[:, :12]
    return {
        "LDS": spearman(found["groups"].mean, groups),
        "singles": float(pearson(found["singles"].mean, singles).mean()),
        "error": float(((each - large) ** 2 - noise).mean() / (large**2 - noise).mean()),
    }


def coverage(found: Mapping[str, Fused], true: Effects) -> dict[str, float]:
    inside = {}
    for name, each in true.items():
        noise = each.var(0, ddof=1) / len(each)
        apart = np.abs(found[name].mean - each.mean(0))
        inside[name] = apart < REACH * np.sqrt(found[name].variance + noise)
    size, singles = np.abs(found["singles"].mean), inside["singles"]
    low, high = np.quantile(size, [0.25, 0.75])
    return {
        "coverage groups": inside["groups"].mean(),
        "coverage singles": singles.mean(),
        "coverage large": singles[size >= high].mean(),
        "coverage small": singles[size <= low].mean(),
    }


def baselines(evidence: Evidence, asked: Mapping[str, Asked], true: Effects) -> dict[str, float]:
    """Return the directions of ridge regressions, alone and added to the push-forward."""
    measures = {"groups": ("LDS", spearman), "singles": ("singles", lambda *x: pearson(*x).mean())}
    rows: dict[str, float] = {}
    for name, (label, measure) in measures.items():
        mean = true[name].mean(0)
        by_ridge = [asked[name].change(ridge(evidence, penalty)[0]) for penalty in PENALTIES]
        rows[f"{label} datamodel"] = max(float(measure(each, mean)) for each in by_ridge)
        rows[f"{label} stacked"] = float(measure(stacked(evidence, asked[name]), mean))
    return rows


def ridge(evidence: Evidence, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes, and the prediction of each retraining by all others."""
    change = evidence.change - evidence.change.mean(0)
    effects = evidence.retrained - evidence.retrained.mean(1, keepdims=True)
    gram = change @ change.T
    inverse = np.linalg.inv(gram + penalty * np.eye(len(change)))
    left_out = effects - (effects @ inverse) / np.diag(inverse)
    return effects @ inverse @ change, left_out


def stacked(evidence: Evidence, asked: Asked) -> np.ndarray:
    """Return the weighted sum of push-forward and ridge that predicts left-out retrainings best."""
    mean, unit = evidence.predicted.mean, np.sqrt(evidence.square)[:, None]
    fits = []
    for penalty in PENALTIES:
        slopes, left_out = ridge(evidence, penalty)
        both = np.stack([(mean / unit).ravel(), (left_out / unit).ravel()], 1)
        weights, loss, *_ = np.linalg.lstsq(both, (evidence.retrained / unit).ravel())
        fits.append((float(loss.sum()), weights, slopes))
    _, weights, slopes = min(fits, key=lambda fit: fit[0])
    return weights[0] * asked.predicted.mean + weights[1] * asked.change(slopes)


def rise(training: Training, key: Any, scores: np.ndarray) -> float:
    """Return the mean rise of some queries without the 1 % that score highest for each."""
    program, number = training.program, max(1, len(scores[0]) // 100)
    queries = np.linspace(0, len(scores) - 1, min(NUM_RAISED, len(scores))).astype(int)
    weights = np.ones((len(queries), program.num_data))
    for row, query in zip(weights, queries, strict=True):
        row[np.argsort(-scores[query])[:number]] = 0.0
    moved = of_queries(shifts(training, key, labelled(program, weights, "reweight", queries), 4))
    return float(moved.mean(0)[queries, np.arange(len(queries))].mean())


def spearman(one: np.ndarray, two: np.ndarray) -> float:
    return float(pearson(scipy.stats.rankdata(one, axis=-1), scipy.stats.rankdata(two, axis=-1)).mean())


def ceiling(each: np.ndarray, of: Any = lambda values, axis: values) -> float:
    halves = (of(half.mean(0), axis=-1) for half in (each[::2], each[1::2]))
    return float(np.sqrt(max(lengthened(pearson(*halves).mean()), 0.0)))


PARTS = digits, concrete, diabetes_by_adam, cost

if __name__ == "__main__":
    named = [part for part in PARTS if part.__name__ in sys.argv[1:]] or PARTS
    page.write_some("fuse", "Predictions and retrainings fused", __doc__, PARTS, named, SEED)
