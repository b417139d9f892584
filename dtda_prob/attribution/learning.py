"""How far a push-forward is off, and how noisy retrainings are, by the retrainings of all queries."""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Float

from dtda_prob.attribution.evidence import Effects, Evidence

Block = Float[np.ndarray, "query left right"]


class Values(NamedTuple):
    """What holds for all queries.

    Attributes:
        multiple: of the predictions, on average over queries.
        own: the share of a draw's deviation from the mean that its own retraining has too.
        slope: variance of the multiple between queries.
        absolute: variance of the errors of examples, in units of the query's mean squared slope.
        relative: the same in units of the example's own squared slope.
        shared: variance of what all subsets of one size share, for effects are not linear.
        key: variance of what the retrainings of one key share, in units of `Evidence.unit`.
        noise: variance of the rest, in the same units.
        scatter: the same in units of the mean squared prediction of the very subset.
    """

    multiple: float
    own: float
    slope: float
    absolute: float
    relative: float
    shared: float
    key: float
    noise: float
    scatter: float


EXPECTED = Values(1.0, 0.5, 0.01, 0.01, 0.02, 0.02, 0.002, 0.005, 0.03)
SPREAD = np.array([0.5, 2.0, 1.0, 1.5, 1.0, 1.5, 1.5, 1.5, 1.5])
"""Median values a priori, and the standard deviations of the multiple, of the logit of the share `own`
and of the logarithms of the variances: corrections are small unless retrainings show otherwise."""
INDEPENDENT = 8
"""Queries count as so many at most, for one retraining moves all of them."""
TOLERANCE = 1e-6
"""Relative change of the log probability at which the search for the most probable values ends."""
MOST_STEPS = 100
JITTER = 1e-6
STEP = 0.05
"""Of the differences of gradients."""
DEGREES = 5
"""Of freedom of the distribution from which values are proposed."""
PROPOSED = 32
"""Values that are proposed."""
KEPT, LEAST_KEPT, FEW = 16, 4, 25
"""Values that are drawn from them by their probabilities, for up to a `FEW` retrainings; the more there
are, the less values differ."""


class Terms(NamedTuple):
    """Retrainings of some queries and what they share a priori.

    Attributes:
        mean: predicted effects.
        deviation: how far the prediction by a retraining's own draw is from it.
        retrained: effects.
        seen: whether a draw has the key of a retraining, `(row,)`.
        same: covariances for a variance of 1 that are the same for all queries, up to a factor: by
            `absolute`, `shared`, `key` and `noise`.
        factors: of them, `(query, 4)`.
        relative: covariance for a `relative` of 1.
        sampled: covariance of the predictions, as means of draws.
        squares: mean squared predictions by draws, `(query, row)`.
        fresh: covariance of deviations of draws that nobody has drawn: of the keys that none has.
    """

    mean: Effects
    deviation: Effects
    retrained: Effects
    seen: Float[np.ndarray, " row"]
    same: Float[np.ndarray, "4 left right"]
    factors: Float[np.ndarray, "query 4"]
    relative: Block
    sampled: Block
    squares: Effects
    fresh: Block


def learn(evidence: Evidence) -> list[Values]:
    """Return values that the retrainings leave probable, each as probable as the others.

    Raises:
        ValueError: if no query has finite predictions.
    """
    known = np.flatnonzero(np.isfinite(evidence.predicted.mean).all(-1))
    if not known.size:
        raise ValueError("no query has finite predicted effects: see diagnostics.linear_range")
    terms = terms_of(evidence.of(known).in_units())
    options = {"maxiter": MOST_STEPS, "ftol": TOLERANCE}
    found = scipy.optimize.minimize(
        _surprise, _numbers(EXPECTED), (terms,), jac=True, method="L-BFGS-B", options=options
    )
    number = max(LEAST_KEPT, min(KEPT, KEPT * FEW // len(evidence.change)))
    return [_values(each) for each in _probable(found.x, terms, number)]


def centre(sets: list[Values]) -> Values:
    """Return the mean values."""
    return Values(*np.mean(sets, 0).tolist())


def _values(x: np.ndarray) -> Values:
    return Values(float(x[0]), float(scipy.special.expit(x[1])), *np.exp(x[2:]).tolist())


def _numbers(values: Values) -> np.ndarray:
    """Return values as numbers of either sign."""
    return np.array([values.multiple, scipy.special.logit(values.own), *np.log(values[2:])])


def _probable(best: np.ndarray, terms: Terms, number: int) -> np.ndarray:
    """Return values around the most probable ones, by importance resampling."""
    size, rng = len(best), np.random.default_rng(0)
    steps = STEP * np.eye(size)
    here = _surprise(best, terms)[1]
    curvature = np.stack([_surprise(best + step, terms)[1] - here for step in steps]) / STEP
    lengths, axes = np.linalg.eigh((curvature + curvature.T) / 2)
    heavy = np.sqrt(DEGREES / rng.chisquare(DEGREES, size=(PROPOSED // 2, 1)))
    apart = heavy * rng.normal(size=(PROPOSED // 2, size))
    apart = np.concatenate([apart, -apart])
    least = 0.3 / SPREAD.max() ** 2
    proposed = best + (apart / np.sqrt(np.maximum(lengths, least))) @ axes.T
    surprise = np.array([_value(each, terms) for each in proposed])
    weights = (DEGREES + size) / 2 * np.log1p((apart**2).sum(1) / DEGREES) - surprise
    shares = np.cumsum(scipy.special.softmax(weights))
    places = np.searchsorted(shares, (np.arange(number) + 0.5) / number)
    return proposed[np.minimum(places, PROPOSED - 1)]


def _surprise(x: np.ndarray, terms: Terms) -> tuple[float, np.ndarray]:
    """Return minus the log probability of retrainings, up to a constant, and its gradient.

    Args:
        x: the multiple, the logit of the share that own draws predict, and the logarithms of variances.
        terms: the retrainings.
    """
    values = _values(x)
    whole = covariance(values, terms)
    inverse, determinant = np.linalg.inv(whole), _log_determinant(whole)
    left = unexplained(values, terms)
    solved = (inverse @ left[..., None])[..., 0]
    by = _slopes_of(inverse, solved, terms)
    unseen, seen = 1 - values.own * terms.seen, terms.seen
    among = np.outer(unseen, unseen) * terms.sampled
    by_multiple = 2 * values.multiple * _slope(inverse, solved, among)
    by_fresh = 2 * values.multiple * values.own * _slope(inverse, solved, terms.fresh)
    by_multiple += values.own * by_fresh
    by_multiple -= (solved * (terms.mean + values.own * terms.deviation)).sum()
    cross = -np.outer(seen, unseen) * terms.sampled
    by_own = values.multiple**2 * _slope(inverse, solved, cross + cross.mT)
    by_own += values.multiple * (by_fresh - (solved * terms.deviation).sum())
    variances = np.array(values[2:]) * np.array([by[name] for name in Values._fields[2:]])
    gradient = np.array([by_multiple, values.own * (1 - values.own) * by_own, *variances])
    apart = (x - _numbers(EXPECTED)) / SPREAD
    weight = _weight(terms)
    value = 0.5 * weight * ((left * solved).sum() + determinant) + 0.5 * (apart**2).sum()
    return float(value), weight * gradient + apart / SPREAD


def _value(x: np.ndarray, terms: Terms) -> float:
    """Return minus the log probability alone, which takes a third of the time."""
    values = _values(x)
    whole, left = covariance(values, terms), unexplained(values, terms)
    solved = np.linalg.solve(whole, left[..., None])[..., 0]
    apart = (x - _numbers(EXPECTED)) / SPREAD
    both = (left * solved).sum() + _log_determinant(whole)
    return float(0.5 * _weight(terms) * both + 0.5 * (apart**2).sum())


def _log_determinant(matrices: Block) -> float:
    """Return the sum of the log determinants of positive definite matrices."""
    return 2 * float(np.log(np.einsum("qss->qs", np.linalg.cholesky(matrices))).sum())


def _weight(terms: Terms) -> float:
    return min(1.0, INDEPENDENT / len(terms.mean))


def _slopes_of(inverse: Block, solved: Effects, terms: Terms) -> dict[str, float]:
    """Return the derivatives of minus the log probability in the variances."""
    queries, number = solved.shape
    same = terms.same.reshape(4, number**2)
    traces = inverse.reshape(queries, -1) @ same.T
    squares = np.stack([((solved @ each) * solved).sum(1) for each in terms.same], 1)
    slopes = 0.5 * (terms.factors * (traces - squares)).sum(0)
    along = (inverse @ terms.mean[..., None])[..., 0]
    return dict(zip(("absolute", "shared", "key", "noise"), slopes.tolist(), strict=True)) | {
        "slope": 0.5 * ((along * terms.mean).sum() - ((terms.mean * solved).sum(1) ** 2).sum()),
        "relative": _slope(inverse, solved, terms.relative),
        "scatter": 0.5 * ((np.einsum("qss->qs", inverse) - solved**2) * terms.squares).sum(),
    }


def _slope(inverse: Block, solved: Effects, part: Block) -> float:
    """Return the derivative of minus the log probability in the variance of a part."""
    moved = (part @ solved[..., None])[..., 0]
    return float(0.5 * (np.vdot(inverse, part) - np.vdot(moved, solved)))


def terms_of(evidence: Evidence) -> Terms:
    """Return the retrainings and what they share, of evidence in units of each query."""
    change, (mean, apart, size) = evidence.change.astype(float), evidence.predicted
    by_key = (evidence.key[:, None] == evidence.key).astype(float)
    same = [change @ change.T, np.outer(size**2, size**2), by_key, np.eye(len(change))]
    factors = [evidence.mean_square, evidence.square, evidence.unit, evidence.unit]
    errors = evidence.slopes[:, None] * evidence.change
    sampled = apart.transpose(1, 2, 0) @ apart.swapaxes(0, 1) / pairs(len(apart))
    fresh = len(apart) * sampled * (by_key * np.outer(1 - evidence.seen, 1 - evidence.seen))
    return Terms(
        *(mean, evidence.own - mean, evidence.retrained, evidence.seen),
        *(np.stack(same), np.stack(factors, 1)),
        *((errors @ errors.mT).astype(float), sampled, evidence.squares, fresh),
    )


def covariance(values: Values, terms: Terms) -> Block:
    """Return the covariances of the retrainings of each query."""
    queries, number = terms.mean.shape
    variances = np.array([values.absolute, values.shared, values.key, values.noise])
    unseen = values.multiple * (1 - values.own * terms.seen)
    whole = ((terms.factors * variances) @ terms.same.reshape(4, -1)).reshape(queries, number, number)
    whole += values.relative * terms.relative
    whole += (
        np.outer(unseen, unseen) * terms.sampled + (values.multiple * values.own) ** 2 * terms.fresh
    )
    whole += values.slope * terms.mean[:, :, None] * terms.mean[:, None]
    diagonal = np.einsum("qss->qs", whole)  # a view
    diagonal += values.scatter * terms.squares
    diagonal += JITTER * diagonal.sum(-1, keepdims=True) / max(number, 1)
    return whole


def unexplained(values: Values, terms: Terms) -> Effects:
    """Return what retrainings show beyond a multiple of the predictions."""
    return terms.retrained - values.multiple * (terms.mean + values.own * terms.deviation)


def pairs(number: int) -> int:
    """Return what squared deviations are divided by for the variance of the mean of so many draws.

    Two less than unbiased, because the covariance of few draws is uncertain: its mean a posteriori.
    """
    return number * max(number - 3, 1)
