"""Predictions and retrainings fused: the Gaussian model, its intervals, and what is retrained."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import optax
import pytest
import xarray as xr
from tables import train_network

import dtda_prob as dtda
from dtda_prob import kernels
from dtda_prob.attribution import fusion, methods
from dtda_prob.attribution.evidence import Asked, Evidence, Predicted
from dtda_prob.attribution.learning import Values, centre, learn
from dtda_prob.attribution.retrained import Retrained
from dtda_prob.attribution.subsets import made_for
from dtda_prob.studies.perturbed import LeaveOneOut, Rows

KEY = jax.random.key(3)
close = np.testing.assert_allclose
DRAWS, QUERIES, SUBSETS, EXAMPLES = 6, 40, 30, 24
TRUE = Values(
    1.6, 0.5, slope=0.1, absolute=0.3, relative=0.2, shared=0.05, key=0.1, noise=0.1, scatter=0.05
)


@pytest.fixture(scope="module")
def program() -> dtda.Program:
    """Twenty-four examples that may be removed."""
    split = dtda.zoo.digits()
    return dtda.Program(
        dtda.zoo.classifier([2], 10), split.x_train[:EXAMPLES], y=split.y_train[:EXAMPLES]
    )


def of(draws: np.ndarray, size: float = 1.0) -> Predicted:
    mean = draws.mean(0)
    return Predicted(mean, draws - mean, np.full(mean.shape[-1], size))


def made_up(seed: int = 0, fresh: int = 0) -> tuple[Evidence, np.ndarray, np.random.Generator]:
    """Draws of slopes, and retrainings, the last of which have a key that no draw has."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=(QUERIES, 1)))
    draws = rng.normal(size=(DRAWS, QUERIES, EXAMPLES))
    mean = np.random.default_rng(seed + 1000).normal(size=(QUERIES, EXAMPLES))
    slopes = scale * (mean + draws)
    change = -(rng.uniform(size=(SUBSETS, EXAMPLES)) < 0.3).astype(float)
    sums, keys = slopes @ change.T, np.arange(SUBSETS) % 4
    own = np.moveaxis(sums[keys, :, np.arange(SUBSETS)], 0, -1)
    seen, square = (np.arange(SUBSETS) < SUBSETS - fresh).astype(float), (sums**2).mean((0, 2))
    own, keys = np.where(seen, own, sums.mean(0)), np.where(seen, keys, 9)
    size, variance = np.sqrt((slopes**2).mean(0)), scale[:, 0] ** 2
    return Evidence(of(sums), own, seen, own, change, keys, size, variance, square), slopes, rng


def asked_of(slopes: np.ndarray, perturbed) -> Asked:
    ones = np.ones(EXAMPLES)
    return Asked(of(perturbed.change(slopes, ones), 0.1), perturbed, ones)


def dense(evidence: Evidence, asked: Asked, change: np.ndarray, query: int) -> tuple[np.ndarray, ...]:
    """Return means and variances by conditioning the joint normal of one query, written out."""
    v = TRUE._asdict()
    known, future = evidence.predicted, asked.predicted
    both = np.concatenate([known.mean[query], future.mean[query]])
    apart = np.concatenate([known.apart[:, query], future.apart[:, query]], -1)
    moved = np.concatenate([evidence.change, change])
    slopes, size = evidence.slopes[query], np.concatenate([known.size, future.size]) ** 2
    square = evidence.square[query]
    own = v["absolute"] * (slopes**2).mean() + v["relative"] * slopes**2
    joint = v["slope"] * np.outer(both, both) + moved @ np.diag(own) @ moved.T
    seen = np.append(evidence.seen, np.zeros(len(change)))
    by_sampling, covariance = TRUE.multiple * (1 - TRUE.own * seen), apart.T @ apart / (DRAWS - 3)
    either = np.arange(len(seen)) < SUBSETS  # neither informs about the mean of the other
    joint += np.outer(by_sampling, by_sampling) * covariance / DRAWS * (either[:, None] == either)
    joint += v["shared"] * square * np.outer(size, size)
    noise = evidence.unit[query] * (
        v["key"] * (evidence.key[:, None] == evidence.key) + v["noise"] * np.eye(SUBSETS)
    )
    fresh = np.outer(1 - evidence.seen, 1 - evidence.seen)  # all of them have one key
    noise += (TRUE.multiple * TRUE.own) ** 2 * fresh * covariance[:SUBSETS, :SUBSETS]
    noise += v["scatter"] * np.diag(known.mean[query] ** 2 + (known.apart[:, query] ** 2).mean(0))
    old, new = slice(SUBSETS), slice(SUBSETS, None)
    gain = joint[new, old] @ np.linalg.inv(joint[old, old] + noise)
    expected = (known.mean + TRUE.own * (evidence.own - known.mean))[query]
    left = evidence.retrained[query] - TRUE.multiple * expected
    mean = TRUE.multiple * future.mean[query] + gain @ left
    measured = np.diag(joint[old, old] + noise)
    return mean, np.diag(joint[new, new] - gain @ joint[old, new]), measured


@pytest.mark.parametrize("single", [True, False], ids=["each example", "groups"])
def test_effects_are_those_of_the_joint_normal(program, single):
    evidence, slopes, rng = made_up(fresh=7)
    evidence = evidence._replace(retrained=rng.normal(size=(QUERIES, SUBSETS)))
    rows = dtda.leave_one_out(program) if single else dtda.random_subsets(program, KEY, 5, 0.7)
    perturbed = LeaveOneOut(program) if single else Rows(rows)
    asked = asked_of(slopes, perturbed)
    found = fusion.fused([TRUE], evidence, asked, 4000)
    _, priors = fusion._made_up(TRUE, evidence, asked, 4000, rng)
    for query in (0, 7):
        mean, variance, measured = dense(evidence, asked, rows.values - 1, query)
        close(found.mean[query], mean, rtol=1e-3, atol=1e-5 * np.abs(mean).max())
        close(found.variance[query], variance, rtol=1e-3)
        samples = found.samples[:, query]
        close(samples.var(0), variance, rtol=0.15)
        assert (np.abs(samples.mean(0) - mean) < 5 * np.sqrt(variance / 4000)).all()
        close(priors[:, query].var(0), measured, rtol=0.15)
    assert (found.variance < found.prior).all()
    other = TRUE._replace(multiple=1.2, noise=0.4)
    both = fusion.fused([TRUE, other], evidence, asked, 2)
    means = np.stack([found.mean, fusion.fused([other], evidence, asked, 2).mean])
    close(both.mean, means.mean(0), rtol=1e-5, atol=1e-7)
    within = fusion.fused([centre([TRUE, other])], evidence, asked, 2).variance
    close(both.variance, within + means.var(0), rtol=1e-5)


def test_what_is_learned_is_what_made_the_retrainings(program):
    """And the intervals of single effects cover as they state."""
    covered, multiples, owns, noises = [], [], [], []
    for seed in range(12):
        evidence, slopes, rng = made_up(seed, fresh=6)
        asked = asked_of(slopes, LeaveOneOut(program))
        effects, measured = fusion._made_up(TRUE, evidence, asked, 1, rng)
        unit = evidence.unit
        known = evidence.predicted
        mean = TRUE.multiple * (known.mean + TRUE.own * (evidence.own - known.mean))
        evidence = evidence._replace(retrained=mean + measured[0])
        learned = learn(evidence)
        found = fusion.fused(learned, evidence, asked, 2)
        learned = centre(learned)
        apart = np.abs(TRUE.multiple * asked.predicted.mean + effects[0] - found.mean)
        covered.append((apart < 1.645 * np.sqrt(found.variance)).mean())
        multiples.append(learned.multiple), owns.append(learned.own)
        noises.append((learned.noise * evidence.unit / unit).mean())
    close(np.mean(covered), 0.9, atol=0.03)
    close(np.mean(multiples), TRUE.multiple, rtol=0.1)
    close(np.mean(owns), TRUE.own, rtol=0.1)
    close(np.mean(noises), 0.1, rtol=0.3)


def test_one_noisy_query_does_not_mislead_the_others(program):
    evidence, slopes, rng = made_up()
    small = TRUE._replace(absolute=0.01, relative=0.01, key=0.01, noise=0.02)
    asked = asked_of(slopes, LeaveOneOut(program))
    _, measured = fusion._made_up(small, evidence, asked, 1, rng)
    known = evidence.predicted.mean
    retrained = TRUE.multiple * (known + TRUE.own * (evidence.own - known)) + measured[0]
    retrained[0] += 60 * np.sqrt(evidence.square[0]) * rng.normal(size=SUBSETS)
    assert centre(learn(evidence._replace(retrained=retrained))).absolute < 0.05


def test_intervals_know_that_draws_are_few(program):
    """Retrainings with the keys of the draws do not show how far the mean of the draws is off."""
    covered = []
    for seed in range(8):
        evidence, slopes, rng = made_up(seed)
        evidence = evidence._replace(
            retrained=evidence.own + 0.01 * rng.normal(size=evidence.own.shape)
        )
        asked = asked_of(slopes, LeaveOneOut(program))
        found = fusion.fused(learn(evidence), evidence, asked, 2)
        scale = np.sqrt(evidence.variance)[:, None]
        mean = scale * np.random.default_rng(seed + 1000).normal(size=(QUERIES, EXAMPLES))
        covered.append((np.abs(found.mean + mean) < 1.645 * np.sqrt(found.variance)).mean())
    close(np.mean(covered), 0.9, atol=0.05)


def many(number: int = 123) -> Any:
    """Examples without a model."""
    return SimpleNamespace(
        initial_weights=np.ones(number), num_data=number, labels=np.arange(number), settings=()
    )


def test_subsets_are_dealt_out():
    some = made_for(many(), KEY, LeaveOneOut(many()), np.ones((3, 123)))
    removed = 1 - some.weights(40).values
    close(removed.sum(1), 12)
    assert np.ptp(removed[:33].sum(0)) == 1
    close(some.weights(1000).values.mean(0), some.centre, atol=1e-3)
    close(some.weights(7), some.weights(40)[:7])


def test_groups_are_retrained_in_turn_the_largest_first():
    rows = 1 - np.repeat(np.eye(41), 3, 1)
    weights = xr.DataArray(rows, dims=("perturbation", "example"), attrs={"removal": "drop"})
    some = made_for(many(), KEY, Rows(weights), np.arange(41.0)[None])
    close(some.weights(50), rows[[*range(40, -1, -1), *range(40, 31, -1)]])
    close(some.keys(123, 8)[::41], [0, 1, 2])
    close(some.num_removed(), [3])
    assert some.weights(1).attrs["removal"] == "drop"


def test_fused_scores_are_scores_and_their_retrainings_are_extended(tmp_path, monkeypatch):
    training = train_network()
    push_forward, where = dtda.unroll(training), dtda.Where(tmp_path / "study", progress=False)
    scores = dtda.fuse(push_forward, KEY, 4, retrainings=8, where=where)
    alone = dtda.attribute(push_forward, KEY, 4, ["mean"])
    close(scores["predicted"], alone["score"], rtol=1e-4, atol=1e-7)
    assert {*alone.data_vars} <= {*scores.data_vars}
    assert scores["learned"].max() <= 1
    close(scores["error"] > 0, True)
    assert dtda.scores.strongest(scores, 2).index.names == ["divergence", "query", "example"]
    names = {*dtda.contents(where.store).index}
    assert {"fused.asked", "fused.subsets", "fused.retrained"} <= names
    again = dtda.fuse(push_forward, KEY, 4, retrainings=8, where=where)
    close(again["score"], scores["score"])

    counts, draw = [], Retrained.__call__
    monkeypatch.setattr(
        Retrained,
        "__call__",
        lambda task, block: counts.append(block[0].stop - block[0].start) or draw(task, block),
    )
    several = replace(where, name="more", effects="fused")
    more = dtda.fuse(push_forward, KEY, 4, retrainings=12, where=several)
    assert counts == [4]
    never = dtda.until(lambda scores: scores["score"].isnull().all("example"), start=8, most=12)
    with ThreadPoolExecutor(2) as engine, pytest.warns(RuntimeWarning, match="12 retrainings, "):
        grown = dtda.fuse(push_forward, KEY, 4, never, where=dtda.Where(engine=engine, progress=False))
    assert counts == [4, 4 + 8, 4]  # four keys on all data once, and each subset once
    close(grown["score"], more["score"], rtol=1e-6)
    assert not grown["settled"].any()
    always = dtda.until(lambda scores: scores["score"].notnull().all("example"), start=8, most=12)
    first = dtda.fuse(push_forward, KEY, 4, retrainings=always)
    close(first["score"], scores["score"], rtol=1e-6)
    assert first["settled"].all()


def test_retrainings_have_the_keys_of_draws():
    """Where a draw predicts its own retraining nearly exactly, that is learned."""
    training = train_network()
    small = replace(training, kernel=kernels.sgd(optax.sgd(0.01), num_steps=3))
    scores = dtda.fuse(dtda.unroll(small), KEY, 8, retrainings=24)
    close([scores.attrs["multiple"], scores.attrs["own"]], 1.0, atol=0.1)
    assert scores.attrs["variance_noise"] < 1e-2


def test_what_cannot_be_fused_is_refused():
    training = train_network()
    push_forward = dtda.unroll(training)
    few = dtda.random_subsets(training.program, KEY, 3, 0.5)
    with pytest.raises(ValueError, match="3 subsets are too few"):
        dtda.fuse(push_forward, KEY, 4, retrainings=few)
    with pytest.raises(ValueError, match="1 subsets are too few"):
        dtda.fuse(push_forward, KEY, 4, retrainings=few[0])
    with pytest.raises(TypeError, match="retrainings must be a number of subsets"):
        dtda.fuse(push_forward, KEY, 4, retrainings=10.5)
    with pytest.raises(ValueError, match="4 subsets are too few"):
        dtda.fuse(push_forward, KEY, 4, retrainings=4)
    with pytest.raises(ValueError, match="options: fuse has no"):
        dtda.fuse(push_forward, KEY, 4, options=dtda.Options(num_permutations=3))
    params = jax.tree.map(np.asarray, training.program.init(KEY))
    still = replace(training, kernel=kernels.pretrained(params))
    with pytest.raises(ValueError, match="nothing can be retrained"):
        dtda.fuse(dtda.influence(still), KEY, 4)
    with pytest.raises(ValueError, match=r"0 subsets are too few.* pass a choice of `choose`"):
        dtda.fuse(push_forward, KEY, 4, retrainings=0)
    with pytest.raises(ValueError, match="these scores are not of `fuse`"):
        dtda.fuse(push_forward, KEY, 4, retrainings=xr.Dataset())
    free = choice_of(push_forward)
    with pytest.raises(ValueError, match="retrain for it"):
        dtda.fuse(replace(free, shifts=None), KEY, 4, retrainings=0)
    with pytest.raises(ValueError, match="removal='drop'"):
        dtda.fuse(replace(free, perturbations=few.assign_attrs(removal="drop")), KEY, 4, 0)


def choice_of(push_forward, number: int = 9) -> dtda.attribution.Choice:
    """Return a choice by made-up retrainings, each of them twice what unrolling predicts of it."""
    rows = dtda.random_subsets(push_forward.training.program, KEY, number, 0.9)
    shifts = 2 * methods.shifts(push_forward, jax.random.key(8), rows, 4)
    return dtda.attribution.Choice(push_forward, xr.Dataset(), rows, KEY, "retraining", {}, shifts)


def test_a_choice_and_earlier_scores_state_intervals_without_retraining(monkeypatch, tmp_path):
    """The size of effects is learned from the retrainings of the choice, and goes on to later calls."""
    push_forward = dtda.unroll(train_network())
    monkeypatch.delattr(Retrained, "__call__")  # nothing is retrained
    scores = dtda.fuse(choice_of(push_forward), KEY, 4, retrainings=0)
    size = (scores["score"] * scores["predicted"]).sum() / (scores["predicted"] ** 2).sum()
    close(size, 2, rtol=0.3)
    close(scores.attrs["multiple"], 2, rtol=0.3)
    assert (scores["error"] > 0).all()
    assert scores["learned"].max() > 0
    where = dtda.Where(tmp_path / "study", progress=False)
    later = dtda.fuse(push_forward, jax.random.key(4), 4, retrainings=scores, where=where)
    close(later["score"], scores.attrs["multiple"] * later["predicted"], rtol=1e-4)
    assert later["learned"].max() == 0
    close(later.attrs["multiple"], scores.attrs["multiple"])
