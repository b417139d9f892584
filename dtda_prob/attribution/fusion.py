"""A Gaussian model of effects: a push-forward's predictions, corrected by a few retrainings.

The effect of weights w on a query is the sum over the examples of (w - 1) times a slope, which is not
known. A priori it is a multiple of what the push-forward predicts, plus an error of its own for each
example. Retraining a subset measures a sum of slopes, with noise. How far the mean of the draws is from
the mean over seeds is noise too, and is not inferred: draws and retrainings share keys, so that little
of it is seen, and what is wrong with the model would be taken for it, many times as large. Everything
is normal, so that effects given the retrainings are known in closed form through a matrix of subsets by
subsets. The few variances are not known either: effects are averaged over values of them that the
retrainings of all queries leave probable. See docs/mathematics.md.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dtda_prob.attribution.evidence import Asked, Effects, Evidence
from dtda_prob.attribution.learning import (
    Block,
    Terms,
    Values,
    centre,
    covariance,
    pairs,
    terms_of,
    unexplained,
)

MOST_ELEMENTS = 2**23
Several = Float[np.ndarray, "sample query row"]


class Fused(NamedTuple):
    """Effects given the retrainings.

    Attributes:
        mean: `(query, row)`.
        variance: of the same shape.
        prior: the variance without the retrainings.
        samples: of the effects of a query together, `(sample, query, row)`.
    """

    mean: Effects
    variance: Effects
    prior: Effects
    samples: Several


def fused(sets: list[Values], evidence: Evidence, asked: Asked, num_samples: int) -> Fused:
    """Return the effects of perturbed datasets given the retrainings, some queries at a time.

    Args:
        sets: values that are equally probable; see `learning.learn`.
        evidence: the retrainings.
        asked: the perturbed datasets.
        num_samples: samples of the effects of a query together.
    """
    rows, examples = len(asked.predicted.size), evidence.change.shape[1]
    each = max(len(evidence.change), num_samples // 2) * max(rows, examples)
    step = max(1, MOST_ELEMENTS // each)
    unit = np.sqrt(evidence.square)[:, None]
    evidence, asked = evidence.in_units(), asked.in_units(unit)
    rng, blocks = np.random.default_rng(0), []
    for i in range(0, len(evidence.retrained), step):
        some = slice(i, i + step)
        blocks.append(_fused(sets, evidence.of(some), asked.of(some), num_samples, rng))
    mean, variance, prior, samples = zip(*blocks, strict=True)
    variance, prior = (unit**2 * np.concatenate(each) for each in (variance, prior))
    samples = unit.astype(np.float32) * np.concatenate(samples, 1)
    return Fused(unit * np.concatenate(mean), variance, prior, samples)


def _fused(
    sets: list[Values], evidence: Evidence, asked: Asked, num_samples: int, rng: np.random.Generator
) -> Fused:
    terms = terms_of(evidence)
    parts = np.array_split(np.arange((num_samples + 1) // 2), len(sets))
    each = [_of_set(v, terms, evidence, asked, len(p), rng) for v, p in zip(sets, parts, strict=True)]
    means = np.stack([mean for mean, _ in each])
    above = np.concatenate([mean + apart for mean, apart in each])
    below = np.concatenate([mean - apart for mean, apart in each])
    samples = np.concatenate([above, below])[:num_samples]
    among = means.var(0)
    prior, removed = _variances(centre(sets), terms, evidence, asked)
    before = np.var([values.multiple for values in sets]) * asked.predicted.mean**2
    return Fused(means.mean(0), np.maximum(prior - removed, 0.0) + among, prior + before, samples)


def _of_set(
    values: Values,
    terms: Terms,
    evidence: Evidence,
    asked: Asked,
    number: int,
    rng: np.random.Generator,
) -> tuple[Effects, Several]:
    """Return the mean effects for some values, and samples of how far effects are from it."""
    effects, measured = _made_up(values, evidence, asked, number, rng)
    right = np.concatenate([unexplained(values, terms)[None], measured])
    solved = np.linalg.solve(covariance(values, terms), right.transpose(1, 2, 0))
    solved = solved.transpose(2, 0, 1).astype(np.float32)
    moved = _moved(values, evidence, asked, solved)
    mean = values.multiple * asked.predicted.mean + moved[0]
    return mean, effects - moved[1:]


def _moved(values: Values, evidence: Evidence, asked: Asked, solved: Several) -> Several:
    """Return the covariance of effects and retrainings, times solutions for the latter."""
    known, future = evidence.predicted.light(), asked.predicted
    slope = np.float32(values.slope) * (solved * known.mean).sum(-1, keepdims=True)
    shared = (np.float32(values.shared) * (solved @ known.size**2))[..., None]
    own = _errors(values, evidence) * (solved @ evidence.change)
    return slope * future.mean + shared * future.size**2 + asked.change(own)


def _variances(
    values: Values, terms: Terms, evidence: Evidence, asked: Asked
) -> tuple[Effects, Effects]:
    """Return the variance a priori, and what the retrainings remove of it."""
    known, future = evidence.predicted.light(), asked.predicted
    slope, shared = np.float32(values.slope), np.float32(values.shared)
    scale, own = values.multiple**2 / pairs(len(known.apart)), _errors(values, evidence)
    prior = slope * future.mean**2 + np.float32(scale) * (future.apart**2).sum(0)
    prior += shared * future.size**4 + asked.squares(own)
    cross = asked.change(own[:, None] * evidence.change)
    cross += slope * known.mean[:, :, None] * future.mean[:, None]
    cross += shared * (known.size[:, None] ** 2 * future.size**2)
    lower = np.linalg.inv(np.linalg.cholesky(covariance(values, terms))).astype(np.float32)
    return prior, ((lower @ cross) ** 2).sum(1)


def _made_up(
    values: Values, evidence: Evidence, asked: Asked, number: int, rng: np.random.Generator
) -> tuple[Several, Several]:
    """Return samples a priori: deviations of the effects that are asked for, and of the retrainings."""
    known, square, unit = evidence.predicted, evidence.square[:, None], evidence.unit[:, None]
    queries, draws = len(square), len(known.apart)
    slope = _normal(rng, values.slope, number, queries, 1)
    sampled = values.multiple**2 / pairs(draws)
    shared = _normal(rng, values.shared * square, number, queries, 1)
    effects, measured = (
        slope * rows.mean
        + shared * rows.size**2
        + unseen * _by_query(_normal(rng, sampled, number, queries, draws), rows.apart.swapaxes(0, 1))
        for rows, unseen in (
            (asked.predicted, np.float32(1)),
            (known, 1 - values.own * evidence.seen),
        )
    )
    own = _normal(rng, _errors(values, evidence), number, *evidence.slopes.shape)
    keys, place = np.unique(evidence.key, return_inverse=True)
    by_key = _normal(rng, values.key * unit, number, queries, len(keys))[..., place]
    measured[..., evidence.seen == 0] += _deviations(values, evidence, number, rng)
    each = values.noise * unit + values.scatter * evidence.squares
    noise = _normal(rng, each, *measured.shape)
    return effects + asked.change(own), measured + own @ evidence.change.T + by_key + noise


def _deviations(values: Values, evidence: Evidence, number: int, rng: np.random.Generator) -> Several:
    """Return samples of how far keys that no draw has are from the mean, as draws are."""
    fresh = evidence.seen == 0
    keys, place = np.unique(evidence.key[fresh], return_inverse=True)
    apart = evidence.predicted.apart[:, :, fresh]
    variance = (values.multiple * values.own) ** 2 * len(apart) / pairs(len(apart))
    weight = _normal(rng, variance, number, apart.shape[1], len(keys), len(apart))
    return np.einsum("sqrd,dqr->sqr", weight[:, :, place], apart)


def _errors(values: Values, evidence: Evidence) -> Float[np.ndarray, "query example"]:
    """Return the variance a priori of what predictions miss of each example's slope."""
    absolute = values.absolute * evidence.mean_square[:, None]
    return absolute.astype(np.float32) + np.float32(values.relative) * evidence.slopes**2


def _normal(rng: np.random.Generator, variance: np.ndarray | float, *shape: int) -> np.ndarray:
    """Return normal numbers, in single precision, which is enough for samples."""
    return np.sqrt(variance, dtype=np.float32) * rng.standard_normal(shape, np.float32)


def _by_query(samples: Float[np.ndarray, "sample query k"], matrices: Block) -> Several:
    """Return the products of the samples of each query with its matrix."""
    return (samples.swapaxes(0, 1) @ matrices).swapaxes(0, 1)
