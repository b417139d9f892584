"""Predictions and retrainings fused: directions, errors and coverage against the number of retrainings.

Run with `uv run python benchmarks/fuse.py` (half an hour of a processor), or with the names of some of
its parts. It prints its tables and writes their sections of `docs/benchmarks/fuse.md`. Trainings are
kept in `~/.cache/dtda_prob/fuse`, and taken up by the next run.

Truth is coupled retraining under other keys: of random groups of a tenth of the examples, and of single
examples, half of them with the largest predicted effects and half at random. "LDS" is the Spearman
correlation of scores and retrained mean effects of groups, averaged over queries, "singles" the Pearson
correlation of single examples; the last row is their ceiling, the root of the truth's reliability. The
first row is the push-forward alone, with the errors that `attribute` states; the second one is `fuse`
without a retraining of its own, by the retrainings of the choice of the push-forward (4 keys of 23
other groups, as `choose` retrains by default). The others are means over as many sets of retrainings as
there are in all of them, up to twenty; "gain" is what is added to the push-forward alone, "+-" its
error by sets, queries and rows of the truth. "Error" is the mean squared error of the largest single
effects, less the truth's own, relative to their mean square. `fuse` retrains subsets that lack a tenth
of the examples; "halves" are subsets made for the question: each lacks one half of up to 30 examples of
the largest predicted effects, the next one the other half, with random others up to a tenth.
"Datamodel" is ridge regression on the same retrainings, with the best of four penalties on the very
truth, which nobody knows. "Stacked" is the weighted sum of push-forward and datamodel that predicts
left-out retrainings best. Coverage is of 90 % intervals in per cent, with the truth's own error added;
"by quarter" from the smallest to the largest single scores. "Rise" is how much the measurement of a
query rises without the highest-scoring hundredth of the examples, relative to the push-forward's
choice. Up to 8 trainings on all data come on top.
"""

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import mnist
import networks
import numpy as np
import optax
import optimizers
import page
import pandas as pd
import scipy.stats
import xarray as xr

import dtda_prob as dtda
from dtda_prob import curvature
from dtda_prob.attribution import comparison, fusion, learning
from dtda_prob.attribution.drawn import Drawn, others_of, predict, retrain
from dtda_prob.attribution.evidence import Asked, Evidence, Predicted
from dtda_prob.attribution.fusion import Fused
from dtda_prob.attribution.methods import shifts
from dtda_prob.attribution.subsets import given_subsets
from dtda_prob.correlations import lengthened, pearson
from dtda_prob.demo import digits_training
from dtda_prob.perturbations import labelled
from dtda_prob.studies.perturbed import Rows
from dtda_prob.studies.run import Where
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward

SEED, NUM_DRAWS, NUM_RAISED, MOST_SETS = 0, 16, 12, 20
BUDGETS = 10, 25, 50, 100, 200
PENALTIES = 1.0, 10.0, 100.0, 1000.0
REACH = 1.645
ALL = slice(None)
RAISED_AFTER = 50, 200
"""Retrainings after which the highest scores are removed."""
FOLDER = Path.home() / ".cache" / "dtda_prob" / "fuse"
Effects = Mapping[str, np.ndarray]


class Sizes(NamedTuple):
    """How much is trained.

    Attributes:
        retrainings: at most.
        groups: and as many single examples, of the truth.
        keys: of the truth.
        halves: retrainings of subsets that are made for the question.
    """

    retrainings: int = 200
    groups: int = 24
    keys: int = 16
    halves: int = 100


class Gathered(NamedTuple):
    """What is drawn and trained before anything is fused.

    Attributes:
        drawn: predictions and retrainings.
        choice: the choice of the push-forward.
        true: retrained effects of groups and of single examples, `(retraining, query, row)`.
        whole: the measurement after their trainings on all data, `(retraining, query)`.
        asked: both as they are asked for.
        by_halves: retrainings of subsets that are made for the question.
    """

    drawn: Drawn
    choice: dtda.attribution.Choice
    true: Effects
    whole: np.ndarray
    asked: Mapping[str, Asked]
    by_halves: Drawn


def digits() -> pd.DataFrame:
    """Perceptron 64-64-10 on 1437 digits, SGD with momentum, cosine rate; `unroll`, 16 draws."""
    return study("digits", digits_unrolled())


def digits_unrolled() -> PushForward:
    return dtda.unroll(digits_training(dtda.zoo.digits(), 40))


def diabetes_unrolled() -> PushForward:
    return dtda.unroll(optimizers.diabetes(optax.adam(3e-3)))


def concrete() -> pd.DataFrame:
    """Perceptron 128-128-128 on 896 rows of Concrete, SGD at one rate; EK-FAC, refined, 16 draws."""
    refined = curvature.chebyshev(preconditioner=curvature.kronecker("gauss_newton"))
    return study("concrete", dtda.influence(networks.strength(), refined))


def diabetes_by_adam() -> pd.DataFrame:
    """Perceptron 10-68-1 on 300 rows of diabetes, Adam at a constant rate; `unroll`, 16 draws."""
    return study("diabetes", diabetes_unrolled())


def transformer_by_adamw() -> pd.DataFrame:
    """Decoder-only transformer of characters, 3,355 parameters, 128 sequences; `unroll`, 16 draws.

    AdamW with warm-up, cosine decay and clipping, 6 epochs; the loss of 8 others.
    """
    return study("transformer", dtda.unroll(networks.characters(128, 8)))


def mnist_5k() -> pd.DataFrame:
    """Perceptron 784-64-10 on 5,000 images of MNIST, SGD with momentum; `unroll`, 16 draws.

    Cosine rate, 5 epochs; the loss of 20 test images. 100 retrainings at most, and a truth of 16 groups
    and 16 single images by 8 keys, so that the part takes no longer than the others.
    """
    split = mnist.load(5000, 20)
    program = dtda.Program(dtda.zoo.classifier([64], 10), split.x_train, y=split.y_train)
    kernel = dtda.kernels.sgd(
        lambda steps: optax.sgd(optax.cosine_decay_schedule(0.05, steps), momentum=0.9),
        num_epochs=5,
        batch_size=100,
    )
    training = Training(program, kernel, dtda.measures.loss(split.x_test, y=split.y_test))
    return study("mnist", dtda.unroll(training), Sizes(retrainings=100, groups=16, keys=8, halves=0))


def distributions() -> pd.DataFrame:
    """Fuse what draws and retrainings contribute to a variance or to an upper quartile.

    Digits and diabetes as above. To first order a removal changes the variance of a measurement m by
    the mean over seeds of 2 (m - E m) (d - E d), where d is the effect under one seed, and its quartile
    by the mean of d over the seeds whose m is near it (by a Gaussian kernel). These contributions take
    the place of d in the same model; E d is fused first. The truth has 16 seeds, its noise is the
    jackknife's. "Error" is the mean squared error less the truth's own, relative to the mean square.
    """
    rows = {}
    for name, push_forward in (("digits", digits_unrolled()), ("diabetes", diabetes_unrolled())):
        found = gathered(name, push_forward, Sizes())
        for kind in CONTRIBUTIONS:
            for number, row in by_contributions(found, kind).items():
                rows[name, kind, number] = row
    table = pd.DataFrame.from_dict(rows, "index")
    return table.rename_axis(["data", "of", "retrainings"])


def by_contributions(found: Gathered, kind: str) -> dict[Any, dict[str, float]]:
    """Return what contributions predict of the retrained change of one functional."""
    true, noise, limit = {}, {}, {}
    for name, moved in found.true.items():
        new, seeds = found.whole[..., None] + moved, np.arange(len(moved))
        each = [effect(kind, np.delete(found.whole, i, 0), np.delete(new, i, 0)) for i in seeds]
        true[name], noise[name] = effect(kind, found.whole, new), (len(seeds) - 1) * np.var(each, 0)
        split = [effect(kind, found.whole[i::2], new[i::2]) for i in (0, 1)]
        limit[name] = float(np.sqrt(max(lengthened(CORRELATIONS[name](*split).mean()), 0.0)))
    evidence, asked = contributing(found, kind)
    rows = {"none": agreement({name: alone(those) for name, those in asked.items()}, true, noise)}
    for number in (50, 200):
        some = evidence.of_rows(np.arange(number))
        values = learning.learn(some)
        fused = {name: fusion.fused(values, some, those, 0) for name, those in asked.items()}
        rows[number] = agreement(fused, true, noise)
    return rows | {"ceiling": limit}


def contributing(found: Gathered, kind: str) -> tuple[Evidence, dict[str, Asked]]:
    """Return evidence and questions with contributions in the place of effects."""
    drawn, weight = found.drawn, CONTRIBUTIONS[kind](found.drawn.measured(ALL))

    def weighed(effects: xr.Dataset) -> xr.Dataset:
        change = effects["change"]
        change = change - change.mean("run") if kind == "variance" else change
        return effects.assign(change=change * xr.DataArray(weight, dims=("run", "query")))

    other = replace(drawn, singles=weighed(drawn.singles), centred=weighed(drawn.centred))
    plain, evidence = drawn.evidence(ALL), other.evidence(ALL)
    effects = plain.retrained
    if kind == "variance":
        asked = Asked(plain.predicted, Rows(drawn.subsets.weights(drawn.number)), drawn.start)
        effects = effects - fusion.fused(learning.learn(plain), plain, asked, 0).mean
    asked = {name: question(other, those.perturbed.weights()) for name, those in found.asked.items()}
    return evidence._replace(retrained=weight[drawn.keys].T * effects), asked


def near_quartile(m: np.ndarray) -> np.ndarray:
    """Return weights of the draws that are near the upper quartile, with mean 1."""
    width = m.std(0, ddof=1) * len(m) ** -0.2
    near = np.exp(-0.5 * ((m - np.quantile(m, 0.75, axis=0)) / width) ** 2)
    return near / near.mean(0)


CONTRIBUTIONS = {
    "variance": lambda m: 2 * (m - m.mean(0)) * len(m) / (len(m) - 1),
    "upper quartile": near_quartile,
}


def effect(kind: str, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return how a functional changes, `(query, row)`."""
    if kind == "variance":
        return new.var(0, ddof=1) - old.var(0, ddof=1)[:, None]
    return np.quantile(new, 0.75, axis=0) - np.quantile(old, 0.75, axis=0)[:, None]


def agreement(found: Mapping[str, Fused], true: Effects, noise: Effects) -> dict[str, float]:
    """Return correlations, errors and coverage of groups and of single examples."""
    row = {name: CORRELATIONS[name](found[name].mean, true[name]).mean() for name in true}
    for name, value in true.items():
        apart = found[name].mean - value
        row[f"error {name}"] = (apart**2 - noise[name]).mean() / (value**2 - noise[name]).mean()
    for name in true:
        reach = REACH * np.sqrt(found[name].variance + noise[name])
        row[f"coverage {name}"] = 100 * (np.abs(found[name].mean - true[name]) < reach).mean()
    return row


def cost() -> pd.DataFrame:
    """Made-up effects of 16 draws: processor seconds of the model alone, and the peak of memory.

    It is learned from 24 queries (of the larger size 8) and the others are fused four at a time, with
    100 joint samples for the certainty of ranks; four queries of the larger size are timed.
    """
    rows = [priced(1437, 360, 100, 24, 360), priced(50000, 1000, 200, 8, 4)]
    return pd.DataFrame(rows).set_index(["examples", "queries", "retrainings"])


def priced(examples: int, queries: int, number: int, first: int, some: int) -> dict[str, float]:
    rng = np.random.default_rng(SEED)
    change = -(rng.uniform(size=(number, examples)) < 0.1).astype(float)
    start = time.process_time()
    learned = learning.learn(made_up(rng, change, first)[0])
    took, seconds = time.process_time() - start, 0.0
    for _ in range(0, some, 4):
        evidence, asked = made_up(rng, change, 4)
        start = time.process_time()
        fusion.fused(learned, evidence, asked, 100)
        seconds += (time.process_time() - start) * queries / some
    return {
        "examples": examples,
        "queries": queries,
        "retrainings": number,
        "learn, s": took,
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
    seen, square, size = np.ones(len(change)), (sums**2).mean((0, 2)), np.sqrt((each**2).mean(0))
    evidence = Evidence(known, own, seen, noisy, change, keys, size, np.ones(queries), square)
    return evidence, Asked(asked, singles, None)


def gathered(name: str, push_forward: PushForward, sizes: Sizes) -> Gathered:
    """Draw and train, or take up what is there."""
    where = Where(FOLDER / f"{name}.zarr", progress=False)
    training, most = push_forward.training, sizes.retrainings
    own, truth, groups, chosen = jax.random.split(jax.random.key(SEED), 4)
    choice = dtda.choose(training, chosen, methods=[push_forward], where=where / "choice")
    print(choice.summary, flush=True)
    each = comparison(choice.push_forward, own, None, "pull")
    drawn = predict(each, None, None, NUM_DRAWS, where / "fused")
    drawn = retrain(drawn, most, where / "fused")
    mean = drawn.question(ALL).predicted.mean
    order, half = np.argsort(-np.abs(mean).mean(0)), sizes.groups // 2
    some = [*order[:half], *np.random.default_rng(SEED).choice(order[half:], half, replace=False)]
    weights = {
        "groups": dtda.random_subsets(training.program, groups, sizes.groups, 0.9),
        "singles": dtda.leave_one_out(training.program, training.program.labels[some]),
    }
    arms = {
        key: dtda.evaluate.retrainings(
            training, truth, rows, num_retrainings=sizes.keys, where=where / f"truth.{key}"
        )
        for key, rows in weights.items()
    }
    whole = arms["groups"]["full"].values.astype(float)
    true = {key: each["perturbed"].values - whole[..., None] for key, each in arms.items()}
    asked = {key: question(drawn, rows) for key, rows in weights.items()}
    leading = order[: min(30, 2 * (training.program.num_data // 10))]
    made = given_subsets(training.program, halves(training.program, leading, most))
    by_halves = replace(drawn, subsets=made, values=drawn.values[:0])
    by_halves = retrain(by_halves, sizes.halves, where / "halves")
    return Gathered(drawn, choice, true, whole, asked, by_halves)


def study(name: str, push_forward: PushForward, sizes: Sizes = Sizes()) -> pd.DataFrame:  # noqa: B008
    """Return directions, errors and coverage for each number of retrainings."""
    found = gathered(name, push_forward, sizes)
    drawn, true, asked = found.drawn, found.true, found.asked
    own, raised = jax.random.key(SEED + 1), drawn.question(ALL)
    usual = rise(push_forward.training, own, raised.predicted.mean)
    rows: dict[Any, dict[str, Any]] = {"none": pushed(asked, true) | {"rise": 1.0}}
    none = replace(drawn, values=drawn.values[:0], others=others_of(found.choice))
    rows["choice"] = averaged([none.evidence(ALL)], asked, true)
    whole = drawn.evidence(ALL)
    for number in [each for each in BUDGETS if each <= sizes.retrainings]:
        several = list(sets(whole, number))
        rows[number] = averaged(several, asked, true)
        rows[number] |= baselines(several[0], asked, true)
        if number in RAISED_AFTER:
            scores = fusion.fused(learning.learn(several[0]), several[0], raised, 0).mean
            rows[number]["rise"] = rise(push_forward.training, own, scores) / usual
        if number <= sizes.halves:
            evidence = found.by_halves.evidence(ALL).of_rows(np.arange(number))
            rows[number]["error halves"] = averaged([evidence], asked, true)["error"]
    rows["ceiling"] = {"LDS": ceiling(true["groups"], scipy.stats.rankdata)}
    rows["ceiling"]["singles"] = ceiling(true["singles"])
    return pd.DataFrame.from_dict(rows, "index").rename_axis("retrainings").reindex(columns=COLUMNS)


COLUMNS = [
    *("LDS", "gain", "+-", "LDS datamodel", "LDS stacked"),
    *("singles", "gain ", "+- ", "singles datamodel", "singles stacked"),
    *("error", "error halves", "rise", "coverage groups", "coverage singles", "by quarter"),
]


def sets(whole: Evidence, number: int) -> Iterator[Evidence]:
    """Return sets of so many retrainings, none of which is in two of them."""
    for i in range(min(MOST_SETS, len(whole.change) // number)):
        yield whole.of_rows(np.arange(i * number, (i + 1) * number))


def averaged(several: list[Evidence], asked: Mapping[str, Asked], true: Effects) -> dict[str, Any]:
    """Return the means over sets of retrainings, and what is gained over the push-forward alone."""
    each = [(learning.learn(evidence), evidence) for evidence in several]
    found = [{name: fusion.fused(*pair, those, 0) for name, those in asked.items()} for pair in each]
    base = directions({name: alone(those) for name, those in asked.items()}, true)
    moved = [directions(one, true) for one in found]
    row = means([coverage(one, true) for one in found]) | means(moved)
    for name, gain, error in (("LDS", "gain", "+-"), ("singles", "gain ", "+- ")):
        gains = np.stack([one[name] - base[name] for one in moved])
        row |= {
            gain: gains.mean(),
            error: (error_of(gains) ** 2 + by_row(name, found, asked, true)) ** 0.5,
        }
    return row


def by_row(name: str, found: list, asked: Mapping[str, Asked], true: Effects) -> float:
    """Return the variance of the mean gain by the rows of the truth, by the jackknife."""
    each = "groups" if name == "LDS" else "singles"
    before, truth = asked[each].predicted.mean, true[each].mean(0)

    def gain(some: np.ndarray) -> float:
        measure = lambda scores: CORRELATIONS[each](scores[:, some], truth[:, some]).mean()  # noqa: E731
        return np.mean([measure(one[each].mean) for one in found]) - measure(before)

    number = truth.shape[1]
    gains = [gain(np.delete(np.arange(number), i)) for i in range(number)]
    return float((number - 1) * np.var(gains))


def means(tables: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return the means over sets and queries; coverage by quarter becomes text."""
    mean = {name: np.mean([table[name] for table in tables], 0) for name in tables[0]}
    return {
        name: " ".join(f"{each:.0f}" for each in value) if name == "by quarter" else float(value.mean())
        for name, value in mean.items()
    }


def error_of(gains: np.ndarray) -> float:
    """Return the standard error of the mean gain over sets and queries, both taken as random."""
    several = [np.mean(gains, axis) for axis in (0, 1)]
    return float(sum(each.var(ddof=1) / len(each) for each in several if len(each) > 1) ** 0.5)


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


def question(drawn: Drawn, rows: Any) -> Asked:
    """Return other perturbed datasets as they are asked for, by the responses that there are."""
    compared, groups = drawn.comparison, (rows.values == 0).sum(1).max() > 1
    effects = drawn.centred if groups else drawn.singles
    perturbed = comparison(compared.source, compared.key, rows, "pull").perturbed
    change = perturbed.change(-effects["change"].values, drawn.start)
    other = xr.Dataset({"value": effects["value"], "change": (DIMS, change)})
    return replace(drawn, comparison=replace(compared, perturbed=perturbed), asked=other).question(ALL)


DIMS = "run", "state", "query", "perturbation"


def alone(asked: Asked) -> Fused:
    mean, apart, _ = asked.predicted
    variance = (apart**2).sum(0) / (len(apart) * (len(apart) - 1))
    return Fused(mean, variance, variance, apart[:0])


def pushed(asked: Mapping[str, Asked], true: Effects) -> dict[str, Any]:
    """Return the row of the push-forward alone."""
    found = {name: alone(those) for name, those in asked.items()}
    return means([directions(found, true)]) | means([coverage(found, true)])


def directions(found: Mapping[str, Fused], true: Effects) -> dict[str, np.ndarray]:
    """Return correlations by query, and the error of the largest effects."""
    groups, singles = (true[name].mean(0) for name in ("groups", "singles"))
    half = singles.shape[1] // 2
    noise = true["singles"][:, :, :half].var(0, ddof=1) / len(true["singles"])
    each, large = found["singles"].mean[:, :half], singles[:, :half]
    return {
        "LDS": spearman(found["groups"].mean, groups),
        "singles": pearson(found["singles"].mean, singles),
        "error": ((each - large) ** 2 - noise).mean() / (large**2 - noise).mean(),
    }


def coverage(found: Mapping[str, Fused], true: Effects) -> dict[str, np.ndarray]:
    """Return how many intervals cover, in per cent."""
    inside = {}
    for name, each in true.items():
        noise = each.var(0, ddof=1) / len(each)
        apart = np.abs(found[name].mean - each.mean(0))
        inside[name] = 100.0 * (apart < REACH * np.sqrt(found[name].variance + noise))
    order = np.argsort(np.abs(found["singles"].mean).ravel())
    quarters = [inside["singles"].ravel()[part].mean() for part in np.array_split(order, 4)]
    return {
        "coverage groups": inside["groups"].mean(),
        "coverage singles": inside["singles"].mean(),
        "by quarter": np.array(quarters),
    }


def baselines(evidence: Evidence, asked: Mapping[str, Asked], true: Effects) -> dict[str, float]:
    """Return the directions of ridge regressions, alone and added to the push-forward."""
    measures = {"groups": ("LDS", spearman), "singles": ("singles", pearson)}
    rows: dict[str, float] = {}
    for name, (label, measure) in measures.items():
        mean = true[name].mean(0)
        by_ridge = [asked[name].change(ridge(evidence, penalty)[0]) for penalty in PENALTIES]
        rows[f"{label} datamodel"] = max(measure(each, mean).mean() for each in by_ridge)
        rows[f"{label} stacked"] = measure(stacked(evidence, asked[name]), mean).mean()
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


def spearman(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return pearson(scipy.stats.rankdata(one, axis=-1), scipy.stats.rankdata(two, axis=-1))


CORRELATIONS = {"groups": spearman, "singles": pearson}


def ceiling(each: np.ndarray, of: Any = lambda values, axis: values) -> float:
    halves = (of(half.mean(0), axis=-1) for half in (each[::2], each[1::2]))
    return float(np.sqrt(max(lengthened(pearson(*halves).mean()), 0.0)))


PARTS = digits, concrete, diabetes_by_adam, transformer_by_adamw, mnist_5k, distributions, cost

if __name__ == "__main__":
    named = [part for part in PARTS if part.__name__ in sys.argv[1:]] or PARTS
    page.write_some("fuse", "Predictions and retrainings fused", __doc__, PARTS, named, SEED)
