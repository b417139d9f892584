"""Designs of perturbed datasets that check a push-forward: single examples, groups, subsets."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import xarray as xr

from dtda_prob import perturbations as perturb
from dtda_prob.evaluate.agreement import agreement
from dtda_prob.evaluate.arms import Divergences, effects, predictions, retrainings
from dtda_prob.perturbations import Data, Removal
from dtda_prob.studies.run import HERE, Where
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey


@dataclass(frozen=True)
class CompareOptions:
    """How many predictions are compared with how many retrainings, and how both are computed.

    Attributes:
        num_draws: draws that predict.
        num_retrainings: retrainings per perturbation, an even number of at least 6: halves give the
            reliability of the truth.
        coupled: whether retrainings with and without the data share keys.
        direction: how effects are predicted, see `attribute`.
        num_splits: splits of the retrainings into halves.

    Raises:
        ValueError: if `num_retrainings` cannot be halved.
    """

    num_draws: int = 16
    num_retrainings: int = 32
    coupled: bool = True
    direction: Literal["pull", "push"] | None = None
    num_splits: int = 20

    def __post_init__(self) -> None:
        if self.num_retrainings < 6 or self.num_retrainings % 2:
            raise ValueError(
                f"num_retrainings={self.num_retrainings} must be even and at least 6, for two halves"
            )


@dataclass(frozen=True)
class Subsets:
    """Random subsets of the data.

    Attributes:
        number: how many there are.
        keep: share or number of data that a subset keeps.
        removal: what a retraining does with the others.
    """

    number: int = 30
    keep: float | int = 0.5
    removal: Removal = "drop"


USUAL = CompareOptions()
HALVES = Subsets()


def compare(
    push_forward: PushForward,
    key: PRNGKey,
    retrain_key: PRNGKey,
    perturbations: Any,
    divergences: Divergences = "mean",
    *,
    options: CompareOptions = USUAL,
    where: Where = HERE,
) -> xr.Dataset:
    """Predict and retrain the same perturbations, and measure how far they agree; see `agreement`.

    Groups are left out by `perturbations=groups(program, by)`. For several push-forwards call
    `retrainings` once, `predictions` for each, and `agreement` of their `effects`.

    Args:
        push_forward: the transform that predicts.
        key: key of the draws that predict.
        retrain_key: key of the retrainings.
        perturbations: weights `(perturbation, example)`.
        divergences: see `effects`.
        options: how many draws and retrainings there are; see `CompareOptions`.
        where: see `Where`. What is kept is called "retrained" and "predicted", after a name and a dot
            if one is given.

    Raises:
        ValueError: if the key is used on both sides.
    """
    _check_apart(key, retrain_key)
    truth = retrainings(
        push_forward.training,
        retrain_key,
        perturbations,
        num_retrainings=options.num_retrainings,
        coupled=options.coupled,
        where=where / "retrained",
    )
    predicted = predictions(
        push_forward,
        key,
        options.num_draws,
        perturbations,
        direction=options.direction,
        check=False,
        where=where / "predicted",
    )
    return agreement(
        effects(predicted, divergences), effects(truth, divergences, num_splits=options.num_splits)
    )


def loo(
    push_forward: PushForward,
    key: PRNGKey,
    retrain_key: PRNGKey,
    data: Data,
    divergences: Divergences = "mean",
    *,
    options: CompareOptions = USUAL,
    where: Where = HERE,
) -> xr.Dataset:
    """Compare predicted with retrained effects of leaving out single examples; see `compare`.

    Left-out examples are reweighted; to drop them, pass `leave_one_out(..., removal="drop")` to
    `compare`.

    Args:
        push_forward: the transform that predicts.
        key: key of the draws that predict.
        retrain_key: key of the retrainings.
        data: labels of the data to leave out, one at a time.
        divergences: see `effects`.
        options: see `compare`.
        where: see `compare`.
    """
    each = perturb.leave_one_out(push_forward.training.program, data)
    return compare(push_forward, key, retrain_key, each, divergences, options=options, where=where)


def lds(
    push_forward: PushForward,
    key: PRNGKey,
    retrain_key: PRNGKey,
    divergences: Divergences = "mean",
    *,
    subsets: Subsets = HALVES,
    options: CompareOptions = USUAL,
    where: Where = HERE,
) -> xr.Dataset:
    """Compute the linear datamodelling score over random subsets, distributional or of the mean.

    Args:
        push_forward: the transform that predicts; it is matched to the rows that a "drop" leaves.
        key: key of the draws that predict.
        retrain_key: key of the retrainings and of the subsets.
        divergences: see `effects`.
        subsets: how many subsets there are, and how large they are.
        options: see `compare`.
        where: see `compare`.

    Returns:
        The result of `agreement`; the score of each divergence is `lds`, in [`lds_lower`, `lds_upper`].
    """
    _check_apart(key, retrain_key)
    subset_key, retrain_key = jax.random.split(retrain_key)
    program = push_forward.training.program
    number, keep, removal = subsets.number, subsets.keep, subsets.removal
    each = perturb.random_subsets(program, subset_key, number, keep, removal=removal)
    return compare(push_forward, key, retrain_key, each, divergences, options=options, where=where)


def _check_apart(key: PRNGKey, retrain_key: PRNGKey) -> None:
    if (jax.random.key_data(key) == jax.random.key_data(retrain_key)).all():
        raise ValueError("retrain_key is key: pass another key, or prediction and truth share seeds")
