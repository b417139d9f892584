"""Removal curves: how a query changes as more of its most influential examples are removed."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.stats
import xarray as xr

from dtda_prob.evaluate.arms import predictions, retrainings
from dtda_prob.perturbations import Data, Removal, remove_leading
from dtda_prob.program import Program
from dtda_prob.studies.run import HERE, Where
from dtda_prob.studies.source import Source, training_of
from dtda_prob.training import Training
from dtda_prob.typing import PRNGKey


@dataclass(frozen=True)
class CurveOptions:
    """Settings of `removal_curves` that most calls leave as they are.

    Attributes:
        num_random: random orders of all data, shared by all queries.
        removal: what a training does with the data.
        coupled: whether trainings on all data and on fewer share keys; see `retrainings`.
        direction: how a push-forward predicts, see `attribute`.
        seed: seed of the random orders, so that predicted and retrained curves have the same ones.
    """

    num_random: int = 4
    removal: Removal = "reweight"
    coupled: bool = True
    direction: Literal["pull", "push"] | None = None
    seed: int = 0


USUAL = CurveOptions()


def removal_curves(
    source: Source,
    key: PRNGKey,
    rankings: Mapping[Hashable, Data],
    counts: Sequence[int],
    *,
    num_draws: int = 16,
    options: CurveOptions = USUAL,
    where: Where = HERE,
) -> xr.Dataset:
    """Remove more and more of the first examples of each query's ranking, and of random orders.

    Costs a training (or a push) for each draw, query and count, and for each draw, random order and
    count.

    Args:
        source: a training, which retrains, or a push-forward, which predicts the same curves.
        key: key of the draws.
        rankings: by label of the query, labels of data in the order of removal: the most supporting
            ones first, to see on how many examples a prediction depends.
        counts: numbers of examples to remove.
        num_draws: number of draws.
        options: how data are removed, and how many random orders there are; see `CurveOptions`.
        where: see `Where`, `retrainings` and `predictions`.

    Returns:
        A dataset of both arms: `full`, `(draw, query[, output])`, and `perturbed`,
        `(draw, query, order, count[, output])`, where `order` is "ranking" or "random 0", ...; pass
        it to `effects` for the shift of the mean, or the distance of the whole distribution.

    Raises:
        ValueError: for unknown queries or data, or counts beyond a ranking.
    """
    training = training_of(source)
    queries = _positions(training, rankings)
    orders = [*rankings.values(), *_random_orders(training.program, options)]
    program, names = training.program, np.arange(len(orders) * len(counts))
    weights = [remove_leading(program, order, counts, removal=options.removal) for order in orders]
    each = xr.concat(weights, "perturbation", combine_attrs="override").assign_coords(
        perturbation=names
    )
    if isinstance(source, Training):
        arms = retrainings(
            source, key, each, num_retrainings=num_draws, coupled=options.coupled, where=where
        )
    else:
        arms = predictions(
            source, key, num_draws, each, direction=options.direction, check=False, where=where
        )
    return _along_curves(arms, queries, counts, options.num_random)


def brittleness(
    curves: xr.Dataset,
    flips: Callable[[xr.DataArray], xr.DataArray] = lambda margin: margin < 0,
    *,
    share: float = 0.5,
    level: float = 0.9,
) -> xr.Dataset:
    """Find the smallest number of data whose removal flips a query in a share of the draws.

    Args:
        curves: a result of `removal_curves` for a scalar measure.
        flips: function from measurements to whether the prediction is flipped; by default whether a
            margin is negative.
        share: share of the draws.
        level: coverage of the intervals.

    Returns:
        A dataset with `flipped`, the share of flipped draws after each removal (count 0 is training on
        all data), and its Wilson interval `flipped_lower`, `flipped_upper`, `(query, order, count)`;
        and `brittleness`, the smallest count at which `flipped` reaches the share, with `earliest` and
        `latest`, at which the ends of the interval do, `(query, order)`. They are NaN where no
        count is enough.

    Raises:
        ValueError: if `share` or `level` does not lie between 0 and 1.
    """
    if not (0 < share < 1 and 0 < level < 1):
        raise ValueError(f"share={share} and level={level} must lie between 0 and 1")
    whole = curves["full"].expand_dims(order=curves["order"], count=[0], axis=(2, 3))
    flipped = flips(xr.concat([whole, curves["perturbed"]], "count"))
    number = flipped.sum("draw")
    shares = number / curves.sizes["draw"]
    lower, upper = xr.apply_ufunc(
        lambda k: scipy.stats.binomtest(int(k), curves.sizes["draw"]).proportion_ci(level, "wilson"),
        number,
        output_core_dims=[[], []],
        vectorize=True,
    )
    return xr.Dataset(
        {
            "flipped": shares,
            "flipped_lower": lower,
            "flipped_upper": upper,
            "brittleness": _first(shares >= share),
            "earliest": _first(upper >= share),
            "latest": _first(lower >= share),
        },
        attrs={"share": share, "level": level},
    )


def _first(reached: xr.DataArray) -> xr.DataArray:
    """Return the smallest count that has reached it."""
    return reached["count"].where(reached).min("count")


def _positions(training: Training, rankings: Mapping[Hashable, Data]) -> np.ndarray:
    labels = training.measure.queries.tolist()
    unknown = [query for query in rankings if query not in labels]
    if unknown or not rankings:
        raise ValueError(f"rankings are given for {unknown or 'no query'}; pass queries of the measure")
    return np.array([labels.index(query) for query in rankings])


def _random_orders(program: Program, options: CurveOptions) -> list[np.ndarray]:
    rng, present = np.random.default_rng(options.seed), program.labels[program.initial_weights > 0]
    return [rng.permutation(present) for _ in range(options.num_random)]


def _along_curves(
    arms: xr.Dataset, queries: np.ndarray, counts: Sequence[int], num_random: int
) -> xr.Dataset:
    """Keep, for each query, its own curve and the random ones."""
    names = np.array(["ranking", *(f"random {i}" for i in range(num_random))])
    rows = np.arange(arms.sizes["perturbation"]).reshape(-1, len(counts))
    random = rows[len(queries) :]
    parts: list[Any] = []
    for row, query in enumerate(queries):
        chosen = np.concatenate([rows[row : row + 1], random])
        where = xr.DataArray(chosen, {"order": names, "count": list(counts)}, ("order", "count"))
        parts.append(arms["perturbed"].isel(query=query, perturbation=where).drop_vars("perturbation"))
    perturbed = xr.concat(parts, "query").transpose("draw", "query", "order", "count", ...)
    full = arms["full"].isel(query=queries)
    return xr.Dataset({"full": full, "perturbed": perturbed, "key": arms["key"]}, attrs=arms.attrs)
