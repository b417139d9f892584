"""Predictions and retrainings fused: direction and coverage against the number of retrainings.

Run with `uv run python benchmarks/fuse.py` (some ten minutes on two cores), or with the names of
some of its parts. It prints its tables and writes their sections of `docs/benchmarks/fuse.md`.
Truth is coupled retraining under other keys: of 24 random groups of a tenth of the examples, and of
24 single examples, 12 at random and the 12 whose predicted effects are largest. Direction is the
Pearson correlation of scores and retrained mean effects, averaged over queries, whose ceiling is
the root of the truth's reliability. "Datamodel" is ridge regression on the same retrainings with
the best of four penalties on the very truth, which nobody knows. Coverage is of 90 % intervals,
with the truth's own error added; "large" and "small" are the quarters of single effects whose
scores are the largest and the smallest. The first row is the push-forward alone, with the errors
that `attribute` states. Up to 8 trainings on all data come on top of the retrainings.
"""

import sys
from dataclasses import replace

import jax
import numpy as np
import optax
import optimizers
import page
import pandas as pd
from networks import strength

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.attribution import comparison, fusion
from dtda_prob.attribution.drawn import Drawn, draw
from dtda_prob.attribution.fusion import Asked, Evidence, Fused
from dtda_prob.attribution.methods import shifts
from dtda_prob.correlations import lengthened, pearson
from dtda_prob.demo import digits_training
from dtda_prob.studies.perturbed import Rows
from dtda_prob.studies.run import HERE
from dtda_prob.transforms import PushForward

SEED, NUM_DRAWS, NUM_KEYS, MOST, NUM_TRUE = 0, 16, 8, 192, 16
BUDGETS = 0, 12, 24, 48, 96, MOST
PENALTIES = 1.0, 10.0, 100.0, 1000.0
REACH = 1.645


def digits() -> pd.DataFrame:
    """Perceptron 64-64-10 on 1437 digits, SGD with momentum, cosine rate; `unroll`."""
    return study(dtda.unroll(digits_training(dtda.zoo.digits(), 40)))


def concrete() -> pd.DataFrame:
    """Perceptron 128-128-128 on 896 rows of Concrete, SGD at one rate; influence by Nystroem."""
    return study(dtda.influence(strength(), curvature.nystroem(rank=100)))


def diabetes_by_adam() -> pd.DataFrame:
    """Perceptron 10-68-1 on 300 rows of diabetes, Adam at a constant rate; `unroll`."""
    return study(dtda.unroll(optimizers.diabetes(optax.adam(3e-3))))


def study(push_forward: PushForward) -> pd.DataFrame:
    """Return directions and coverage for each number of retrainings."""
    training = push_forward.training
    own, truth, groups_key, subsets_key = jax.random.split(jax.random.key(SEED), 4)
    subsets = dtda.random_subsets(training.program, subsets_key, MOST, 0.9)
    each = comparison(push_forward, own, None, "pull")
    drawn = draw(each, subsets, NUM_DRAWS, np.arange(MOST) % NUM_KEYS, HERE)
    groups = dtda.random_subsets(training.program, groups_key, 24, 0.9)
    singles = dtda.leave_one_out(training.program, some_examples(drawn))
    true, asked = {}, {}
    for name, weights in (("groups", groups), ("singles", singles)):
        true[name] = of_queries(shifts(training, truth, weights, NUM_TRUE))
        both = comparison(push_forward, own, weights, "pull").draw(NUM_DRAWS)
        asked[name] = replace(drawn, asked=both, perturbed=Rows(weights)).question(slice(None))
    evidence = drawn.evidence(slice(None))
    rows = {number: row(evidence, asked, true, number) for number in BUDGETS}
    table = pd.DataFrame.from_dict(rows, "index").rename_axis("retrainings")
    ceilings = {(name, "fused"): ceiling(each) for name, each in true.items()}
    table.loc["ceiling"] = pd.Series(ceilings)
    table.columns = [" ".join(column) for column in table.columns]
    return table


def some_examples(drawn: Drawn) -> list[int]:
    """Return the examples of the largest predicted effects, and others at random."""
    order = np.argsort(-np.abs(drawn.question(slice(None)).predicted.mean).mean(0))
    others = np.random.default_rng(SEED).choice(order[12:], 12, replace=False)
    return np.concatenate([order[:12], others]).tolist()


def of_queries(each: np.ndarray) -> np.ndarray:
    return each.reshape(len(each), -1, each.shape[2])


def row(whole: Evidence, asked: dict, true: dict, number: int) -> dict[tuple[str, str], float]:
    evidence = whole.of_rows(np.arange(MOST) < number)
    found, numbers = {}, {}
    learned = fusion.learn(evidence) if number else None
    for name, each in asked.items():
        mean = true[name].mean(0)
        noise = true[name].var(0, ddof=1) / len(true[name])
        found[name] = fusion.fused(learned, evidence, each, 2) if learned else alone(each)
        numbers[name, "fused"] = pearson(found[name].mean, mean).mean()
        if number:
            numbers[name, "datamodel"] = max(ridge(evidence, each, mean, x) for x in PENALTIES)
        apart = np.abs(found[name].mean - mean)
        inside = apart < REACH * np.sqrt(found[name].variance + noise)
        numbers[name, "coverage"] = inside.mean()
        if name == "singles":
            sizes = np.abs(found[name].mean)
            low, high = np.quantile(sizes, [0.25, 0.75])
            numbers[name, "large"] = inside[sizes >= high].mean()
            numbers[name, "small"] = inside[sizes <= low].mean()
    return numbers


def alone(asked: Asked) -> Fused:
    mean, apart, _ = asked.predicted
    variance = (apart**2).sum(0) / (len(apart) * (len(apart) - 1))
    return Fused(mean, variance, variance, apart[:0])


def ridge(evidence: Evidence, asked: Asked, mean: np.ndarray, penalty: float) -> float:
    change = evidence.change - evidence.change.mean(0)
    effects = evidence.retrained - evidence.retrained.mean(1, keepdims=True)
    solved = np.linalg.solve(change @ change.T + penalty * np.eye(len(change)), change)
    return float(pearson(asked.change(effects @ solved), mean).mean())


def ceiling(each: np.ndarray) -> float:
    halves = each[::2].mean(0), each[1::2].mean(0)
    return float(np.sqrt(max(lengthened(pearson(*halves).mean()), 0.0)))


PARTS = digits, concrete, diabetes_by_adam

if __name__ == "__main__":
    named = [part for part in PARTS if part.__name__ in sys.argv[1:]] or PARTS
    page.write_some("fuse", "Predictions and retrainings fused", __doc__, PARTS, named, SEED)
