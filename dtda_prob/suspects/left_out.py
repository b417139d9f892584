"""The loss of each row under models that were trained without it."""

from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float, Int

from dtda_prob.kernels import sgd
from dtda_prob.perturbations import groups
from dtda_prob.program import Program
from dtda_prob.sampling import sample
from dtda_prob.studies.options import Options
from dtda_prob.studies.run import Where
from dtda_prob.suspects.models import judged, tabular
from dtda_prob.training import Training

FOLDS, SMALL, MANY_FOLDS = 5, 500, 10
"""Parts that are left out in turn; more of them where rows are few."""
BATCH, RATE, DECAY = 64, 3e-3, 1e-2
LEAST_STEPS, MOST_STEPS = 1500, 2500
NUM_CHAINS = 2


class Judgement(NamedTuple):
    """What models that were trained without a row say of it, row by row.

    Attributes:
        loss: the negative log of the density or probability of its target, averaged over draws.
        error: its standard error over draws.
        predicted: the predicted number, or the position of the predicted class.
        spread: the standard deviation of the prediction, or the probability of the predicted class.
        num_models: models that were trained.
    """

    loss: Float[np.ndarray, " row"]
    error: Float[np.ndarray, " row"]
    predicted: Float[np.ndarray, " row"]
    spread: Float[np.ndarray, " row"]
    num_models: int


def optimizer(num_steps: int) -> optax.GradientTransformation:
    """Return AdamW, whose step size falls to 0 over training."""
    return optax.adamw(optax.cosine_decay_schedule(RATE, num_steps), weight_decay=DECAY)


def training_of(x: np.ndarray, y: np.ndarray, num_classes: int | None) -> Training:
    """Return the training of a model of a table, in which each row is its own query.

    Args:
        x: features by row.
        y: numbers, or positions of classes.
        num_classes: number of classes; None for numbers.
    """
    program = Program(tabular(num_classes), x, y=y)
    batch = min(BATCH, len(y))
    steps = int(np.clip(2 * len(y) // batch, LEAST_STEPS, MOST_STEPS))
    return Training(program, sgd(optimizer, num_steps=steps, batch_size=batch), judged(x, y=y))


def folds(number: int, seed: int) -> Int[np.ndarray, " row"]:
    """Return the part of each row: parts of equal size, at random."""
    parts = min(number, MANY_FOLDS if number < SMALL else FOLDS)
    return np.random.default_rng(seed).permutation(number) % parts


def judge(
    x: np.ndarray, y: np.ndarray, num_classes: int | None, seed: int, num_draws: int, progress: bool
) -> Judgement:
    """Train without one part of the rows after another, and judge the rows of each part.

    Raises:
        ValueError: if `num_draws` is odd, or not positive.
    """
    training = training_of(x, y, num_classes)
    program = training.program
    part = folds(program.num_data, seed)
    tree = sample(
        training,
        jax.random.key(seed),
        num_draws,
        groups(program, part),
        options=Options(check=False, num_chains=NUM_CHAINS, chunk_size=2 * (part.max() + 1)),
        where=Where(progress=progress),
    )
    values = tree["posterior_predictive/judged"].stack(drawn=("chain", "draw"))
    values = values.transpose("drawn", "perturbation", "query", "output").values
    own = values[:, part, np.arange(len(part))].astype(float)
    number = num_draws * (int(part.max()) + 1)
    return _judgement(own, num_classes is not None, number)


def of_all(loss: Float[np.ndarray, "drawn *row"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of the density averaged over draws, and its standard error to first order."""
    least = loss.min(0)
    density = np.exp(least - loss)
    mean = density.mean(0)
    error = density.std(0, ddof=1) / (mean * len(loss) ** 0.5)
    return least - np.log(mean), error


def _judgement(own: Float[np.ndarray, "drawn row output"], by_class: bool, number: int) -> Judgement:
    loss, predicted, spread = np.moveaxis(own, -1, 0)
    mean, error = of_all(loss)
    if not by_class:
        between = predicted.var(0)
        return Judgement(mean, error, predicted.mean(0), np.sqrt((spread**2).mean(0) + between), number)
    votes = np.stack([(predicted == k).sum(0) for k in range(int(predicted.max()) + 1)])
    chosen = votes.argmax(0)
    agrees = predicted == chosen
    share = (spread * agrees).sum(0) / np.maximum(agrees.sum(0), 1)
    return Judgement(mean, error, chosen.astype(float), share, number)
