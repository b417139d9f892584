"""A Gaussian model of effects: a push-forward's predictions, corrected by a few retrainings.

The effect of weights w on a query is the sum over the examples of (w - 1) times a slope, which is not
known. A priori it is a multiple of what the push-forward predicts, plus an error of its own for each
example. Retraining a subset measures a sum of slopes, with noise. Everything is normal, so that effects
given the retrainings are known in closed form through a matrix of subsets by subsets; the few variances
are those under which the retrainings of all queries together are most probable. See
docs/mathematics.md.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float

from dtda_prob.studies.perturbed import Perturbed

VARIANCES = ("slope", "absolute", "relative", "shared", "key", "noise")
"""What varies a priori: the multiple of a query; errors of the slopes of examples, in units of the
query's root mean square slope and of their own predicted slope; what all subsets of one size share, for
effects are not linear; what the retrainings of one key share; and the rest."""

EXPECTED = np.array([1.0, 0.5, *[np.log(0.03)] * len(VARIANCES)])
SPREAD = np.array([1.0, 1.0, *[1.5] * len(VARIANCES)])
"""Mean and standard deviation of the multiples and the logarithms of variances, a priori: corrections
are small unless retrainings show otherwise."""
INDEPENDENT = 8
"""Queries count as so many at most, for one retraining moves all of them."""
TOLERANCE = 1e-7
"""Relative change of the log probability at which the search for the variances ends."""
MOST_ELEMENTS = 2**23
MOST_STEPS = 100
JITTER = 1e-6

Effects = Float[np.ndarray, "query row"]
Block = Float[np.ndarray, "query left right"]


class Predicted(NamedTuple):
    """What a push-forward predicts of some perturbed datasets.

    Attributes:
        mean: over draws, `(query, row)`.
        apart: deviations of the draws from their mean, `(draw, query, row)`.
        size: how many examples change, as a multiple of a retrained subset, `(row,)`.
    """

    mean: Effects
    apart: Float[np.ndarray, "draw query row"]
    size: Float[np.ndarray, " row"]

    def of(self, queries: slice | np.ndarray) -> "Predicted":
        """Return the predictions of some queries."""
        return Predicted(self.mean[queries], self.apart[:, queries], self.size)


class Evidence(NamedTuple):
    """Retrained subsets, each by one key, and what was predicted of them.

    Attributes:
        predicted: of the subsets.
        own: predictions by the draw whose key the retraining has, `(query, row)`.
        retrained: effects, `(query, row)`.
        change: of the weights, `(row, example)`.
        key: the position of the key of each retraining, `(row,)`.
        slopes: the predicted slope of each example, `(query, example)`.
        variance: of the measurement over draws, `(query,)`.
    """

    predicted: Predicted
    own: Effects
    retrained: Effects
    change: Float[np.ndarray, "row example"]
    key: Float[np.ndarray, " row"]
    slopes: Float[np.ndarray, "query example"]
    variance: Float[np.ndarray, " query"]

    def of(self, queries: slice | np.ndarray) -> "Evidence":
        """Return the evidence on some queries."""
        names = ("own", "retrained", "slopes", "variance")
        some = {name: getattr(self, name)[queries] for name in names}
        return self._replace(predicted=self.predicted.of(queries), **some)

    def of_rows(self, some: np.ndarray) -> "Evidence":
        """Return the evidence of some retrainings."""
        mean, apart, size = self.predicted
        return self._replace(
            predicted=Predicted(mean[:, some], apart[:, :, some], size[some]),
            own=self.own[:, some],
            retrained=self.retrained[:, some],
            change=self.change[some],
            key=self.key[some],
        )

    @property
    def square(self) -> Float[np.ndarray, " query"]:
        """Return the mean squared prediction of a subset; 1 where nothing is predicted."""
        square = (self.predicted.mean**2).mean(-1)
        return np.where(square > 0, square, 1.0)

    @property
    def mean_square(self) -> Float[np.ndarray, " query"]:
        """Return the mean squared slope of the examples that any subset lacks."""
        return (self.slopes[:, self.change.any(0)] ** 2).mean(-1)


class Asked(NamedTuple):
    """The perturbed datasets whose effects are asked for.

    Attributes:
        predicted: what a push-forward predicts of them.
        perturbed: the datasets.
        start: the weights that they change.
    """

    predicted: Predicted
    perturbed: Perturbed
    start: Any

    def of(self, queries: slice) -> "Asked":
        """Return the effects on some queries."""
        return self._replace(predicted=self.predicted.of(queries))

    def change(self, slopes: Float[np.ndarray, "... example"]) -> Float[np.ndarray, "... row"]:
        """Return the effects that slopes have."""
        return self.perturbed.change(slopes, self.start)

    def squares(self, variances: Float[np.ndarray, "... example"]) -> Float[np.ndarray, "... row"]:
        """Return the variances of effects where slopes vary independently."""
        return self.perturbed.squares(variances, self.start)


class Learned(NamedTuple):
    """What all queries together say about a push-forward.

    Attributes:
        multiple: of its predictions, on average over queries.
        own: the share of a draw's deviation from the mean that its own retraining has too.
        variances: by the names in `VARIANCES`.
    """

    multiple: float
    own: float
    variances: Float[np.ndarray, " variance"]

    def of(self, name: str) -> float:
        """Return a variance by its name."""
        return float(self.variances[VARIANCES.index(name)])


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
    samples: Float[np.ndarray, "sample query row"]


def learn(evidence: Evidence) -> Learned:
    """Return the multiples and variances under which the retrainings are most probable.

    Raises:
        ValueError: if no query has finite predictions.
    """
    known = np.flatnonzero(np.isfinite(evidence.predicted.mean).all(-1))
    if not known.size:
        raise ValueError("no query has finite predicted effects: see diagnostics.linear_range")
    evidence = evidence.of(known)
    unit = np.sqrt(evidence.square)[:, None]
    parts = [part / unit[..., None] ** 2 for part in _among(evidence)]
    sampled = _sampled(evidence) / unit[..., None] ** 2
    mean = evidence.predicted.mean / unit
    given = parts, sampled, mean, evidence.own / unit - mean, evidence.retrained / unit
    options = {"maxiter": MOST_STEPS, "ftol": TOLERANCE}
    bounds = [(None, None), (0.0, 1.0), *[(None, None)] * len(VARIANCES)]
    found = scipy.optimize.minimize(
        _surprise, EXPECTED, given, jac=True, method="L-BFGS-B", options=options, bounds=bounds
    )
    return Learned(float(found.x[0]), float(found.x[1]), np.exp(found.x[2:]))


def _surprise(
    x: np.ndarray, parts: list[Block], sampled: Block, mean: Effects, own: Effects, retrained: Effects
) -> tuple[float, np.ndarray]:
    """Return minus the log probability of retrainings, up to a constant, and its gradient.

    Args:
        x: the multiple, the share that own draws predict, and the logarithms of the variances.
        parts: covariances for a variance of 1.
        sampled: covariance of the mean of the draws.
        mean: predicted effects.
        own: how far the prediction by a retraining's own draw is from the mean.
        retrained: effects.
    """
    (multiple, share), variances = x[:2], np.exp(x[2:])
    predicted, unseen = mean + share * own, multiple * (1 - share)
    inverse, log_det = _inverted(_sum(variances, parts) + unseen**2 * sampled)
    left = retrained - multiple * predicted
    solved = (inverse @ left[..., None])[..., 0]
    slopes = [_slope(inverse, solved, part) for part in parts]
    by_unseen = 2 * unseen * _slope(inverse, solved, sampled)
    multiples = [
        (1 - share) * by_unseen - (predicted * solved).sum(),
        -multiple * (by_unseen + (own * solved).sum()),
    ]
    weight = min(1.0, INDEPENDENT / len(mean))
    apart = (x - EXPECTED) / SPREAD
    value = 0.5 * weight * ((left * solved).sum() + log_det.sum()) + 0.5 * (apart**2).sum()
    return value, weight * np.array([*multiples, *(variances * slopes)]) + apart / SPREAD


def _slope(inverse: Block, solved: Effects, part: Block) -> float:
    """Return the derivative of minus the log probability in the variance of a part."""
    moved = (part @ solved[..., None])[..., 0]
    return float(
        0.5 * (np.vdot(inverse, np.broadcast_to(part, inverse.shape)) - np.vdot(moved, solved))
    )


def fused(learned: Learned, evidence: Evidence, asked: Asked, num_samples: int) -> Fused:
    """Return the effects of perturbed datasets given the retrainings, some queries at a time.

    Args:
        learned: see `learn`.
        evidence: the retrainings.
        asked: the perturbed datasets.
        num_samples: samples of the effects of a query together.
    """
    rows, examples = len(asked.predicted.size), evidence.change.shape[1]
    each = max(len(evidence.change), num_samples) * max(rows, examples)
    step = max(1, MOST_ELEMENTS // each)
    rng, blocks = np.random.default_rng(0), []
    for i in range(0, len(evidence.retrained), step):
        some = slice(i, i + step)
        blocks.append(_fused(learned, evidence.of(some), asked.of(some), num_samples, rng))
    mean, variance, prior, samples = zip(*blocks, strict=True)
    return Fused(*(np.concatenate(x) for x in (mean, variance, prior)), np.concatenate(samples, 1))


def _fused(
    learned: Learned, evidence: Evidence, asked: Asked, num_samples: int, rng: np.random.Generator
) -> Fused:
    square, own = evidence.square, _errors(learned, evidence)
    unseen = (learned.multiple * (1 - learned.own)) ** 2 * _sampled(evidence)
    inverse, _ = _inverted(_sum(learned.variances, _among(evidence)) + unseen)
    cross = _cross(learned, evidence, asked.predicted)
    cross += asked.change(own[:, None] * evidence.change)
    gain = inverse @ cross
    deviation = evidence.own - evidence.predicted.mean
    left = evidence.retrained - learned.multiple * (evidence.predicted.mean + learned.own * deviation)
    prior = _variance(learned, asked.predicted, square) + asked.squares(own)
    before = learned.multiple * asked.predicted.mean
    effects, measured = _made_up(learned, evidence, asked, num_samples, rng)
    return Fused(
        before + (left[:, None] @ gain)[:, 0],
        np.maximum(prior - (cross * gain).sum(1), 0.0),
        prior,
        before + effects + _by_query(left - measured, gain),
    )


def _made_up(
    learned: Learned,
    evidence: Evidence,
    asked: Asked,
    number: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return samples a priori: deviations of the effects that are asked for, and of the retrainings."""
    known, square, unit = evidence.predicted, evidence.square[:, None], _unit(evidence)[:, None]
    queries, draws, of = len(square), len(known.apart), learned.of
    slope = _normal(rng, of("slope"), number, queries, 1)
    weight = _normal(rng, 1 / _pairs(draws), number, queries, draws)
    shared = _normal(rng, of("shared") * square, number, queries, 1)
    effects, measured = (
        slope * rows.mean
        + learned.multiple * unseen * _by_query(weight, rows.apart.swapaxes(0, 1))
        + shared * rows.size**2
        for rows, unseen in ((asked.predicted, 1.0), (known, 1 - learned.own))
    )
    own = _normal(rng, _errors(learned, evidence), number, *evidence.slopes.shape)
    keys, place = np.unique(evidence.key, return_inverse=True)
    by_key = _normal(rng, of("key") * unit, number, queries, len(keys))[..., place]
    noise = _normal(rng, of("noise") * unit, *measured.shape)
    return effects + asked.change(own), measured + own @ evidence.change.T + by_key + noise


def _normal(rng: np.random.Generator, variance: np.ndarray | float, *shape: int) -> np.ndarray:
    return np.sqrt(variance) * rng.normal(size=shape)


def _among(evidence: Evidence) -> list[Block]:
    """Return the covariances of retrainings for a variance of 1, by the names in `VARIANCES`."""
    change, known, square = evidence.change, evidence.predicted, evidence.square
    errors = evidence.slopes[:, None] * change
    unit = _unit(evidence)[:, None, None]
    by_key = evidence.key[:, None] == evidence.key
    size = known.size**2
    return [
        _outer(known.mean, known.mean),
        evidence.mean_square[:, None, None] * (change @ change.T),
        errors @ errors.mT,
        square[:, None, None] * (size[:, None] * size),
        unit * by_key,
        unit * np.eye(len(change)),
    ]


def _sampled(evidence: Evidence) -> Block:
    """Return the covariance of the predicted effects of retrainings, as means of the draws."""
    return _between(evidence.predicted.apart, evidence.predicted.apart)


def _errors(learned: Learned, evidence: Evidence) -> Float[np.ndarray, "query example"]:
    """Return the variance a priori of what predictions miss of each example's slope."""
    absolute = learned.of("absolute") * evidence.mean_square[:, None]
    return absolute + learned.of("relative") * evidence.slopes**2


def _cross(learned: Learned, evidence: Evidence, asked: Predicted) -> Block:
    """Return the covariance of retrainings and effects, but for the errors of single examples."""
    known, square = evidence.predicted, evidence.square
    size = known.size[:, None] ** 2 * asked.size**2
    return (
        learned.of("slope") * _outer(known.mean, asked.mean)
        + learned.multiple**2 * (1 - learned.own) * _between(known.apart, asked.apart)
        + learned.of("shared") * square[:, None, None] * size
    )


def _outer(left: Effects, right: Effects) -> Block:
    return left[:, :, None] * right[:, None]


def _variance(learned: Learned, asked: Predicted, square: np.ndarray) -> Effects:
    sampled = (asked.apart**2).sum(0) / _pairs(len(asked.apart))
    return (
        learned.of("slope") * asked.mean**2
        + learned.multiple**2 * sampled
        + learned.of("shared") * square[:, None] * asked.size**4
    )


def _unit(evidence: Evidence) -> Float[np.ndarray, " query"]:
    """Return the unit of a retraining's noise, which is positive if training is not random too."""
    return evidence.variance + evidence.square


def _sum(variances: np.ndarray, parts: list[Block]) -> Block:
    return sum((v * part for v, part in zip(variances, parts, strict=True)), np.zeros(()))


def _between(left: np.ndarray, right: np.ndarray) -> Block:
    """Return the covariance of two means of draws, from deviations `(draw, query, row)`."""
    return left.transpose(1, 2, 0) @ right.swapaxes(0, 1) / _pairs(len(left))


def _by_query(left: Float[np.ndarray, "sample query k"], right: Block) -> np.ndarray:
    """Return the products of the samples of each query with its matrix."""
    return (left.swapaxes(0, 1) @ right).swapaxes(0, 1)


def _pairs(number: int) -> int:
    """Return what squared deviations are divided by for the variance of the mean of so many draws.

    Two less than unbiased, because the covariance of few draws is uncertain: its mean a posteriori.
    """
    return number * max(number - 3, 1)


def _inverted(matrices: Block) -> tuple[Block, Float[np.ndarray, " query"]]:
    """Return inverses of covariances and their log determinants."""
    diagonal = np.einsum("qss->qs", matrices).mean(-1)[:, None, None]
    matrices = matrices + JITTER * diagonal * np.eye(matrices.shape[-1])
    return np.linalg.inv(matrices), np.linalg.slogdet(matrices)[1]
