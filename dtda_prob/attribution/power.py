"""How many draws a study needs: coupled and independent, from a pilot."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from dtda_prob.attribution.arms import Arms, Direction, Values, comparison
from dtda_prob.attribution.attribute import DEFAULT, Divergences, resolved
from dtda_prob.divergences import Divergence
from dtda_prob.studies.run import HERE, Where
from dtda_prob.studies.source import Source
from dtda_prob.typing import PRNGKey

PILOT_RUNS = 8
DRAWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Power(NamedTuple):
    """Draws that a study needs, by a pilot.

    Attributes:
        table: by divergence (medians over queries): `effect_sd`, the standard deviation over examples
            of the true scores; `coupled_error` and `independent_error`, the standard error of one score
            from the pilot's number of draws; `gain`, how many independent draws one coupled draw is
            worth; `coupled_draws` and `independent_draws`, how many reach the correlation asked for;
            `queries_hidden`, for how many queries the pilot's noise hides the effects.
        correlation: between estimated and true scores over examples, expected of a number of draws:
            dimensions `arms` ("coupled", "independent"), `draws`, `divergence` and `query`. NaN where
            the pilot's noise hides the effects.
        advice: for the median query, as text.
    """

    table: pd.DataFrame
    correlation: xr.DataArray
    advice: str

    def __str__(self) -> str:
        return f"{self.table.to_string(float_format='{:.3g}'.format)}\n{self.advice}"


def power(
    source: Source,
    key: PRNGKey,
    perturbations: Any = None,
    divergences: Divergences = DEFAULT,
    *,
    num_draws: int | None = None,
    correlation: float = 0.9,
    direction: Direction | None = None,
    where: Where = HERE,
) -> Power:
    """Estimate how many draws a study needs, coupled or independent, from a coupled pilot of a few.

    Scores over examples are the true ones, of variance V, plus noise of variance s^2 / n from n draws,
    so that they correlate with the true ones by sqrt(V / (V + s^2 / n)). A coupled pilot gives s^2 of
    both kinds, from the contributions of draws to the scores, paired (coupled) or arm by arm
    (independent), less what all examples share (the draws on all data are common to them); and V, the
    variance of its scores less their coupled noise. To first order in the contributions: the
    second-order noise of distances between arms that hardly differ is left out.

    Args:
        source: a training, or a push-forward.
        key: key of the pilot.
        perturbations: weights `(perturbation, example)`; the removal of each example in turn if None.
        divergences: see `attribute`.
        num_draws: draws of the pilot; 8 runs if None.
        correlation: what the study should reach, over examples, for each query.
        direction: see `attribute`.
        where: the engine that computes the pilot, and whether to show progress; see `Where`.

    Raises:
        ValueError: as `attribute`, for fewer than 3 perturbations, or a correlation out of range.
    """
    if not 0 < correlation < 1:
        raise ValueError(f"correlation={correlation} must lie between 0 and 1, both excluded")
    compared = comparison(source, key, perturbations, direction)
    chosen = resolved(divergences, compared)
    if len(compared.perturbed) < 3:
        raise ValueError(f"at least 3 perturbations are needed, got {len(compared.perturbed)}")
    num_draws = num_draws or PILOT_RUNS * compared.training.kernel.num_states
    arms = compared.arms(num_draws, where)
    return power_of(arms, chosen, compared.training.measure.queries, correlation)


def power_of(
    arms: Arms, divergences: Sequence[Divergence], queries: np.ndarray, correlation: float
) -> Power:
    """Estimate how many draws a study needs from the draws of a pilot; see `power`."""
    each = [_components(divergence, arms.old, arms.new) for divergence in divergences]
    parts = xr.concat(each, "divergence").assign_coords(
        divergence=[divergence.name for divergence in divergences], query=queries
    )
    wanted = correlation**2 / (1 - correlation**2)
    table = _tabulate(parts, wanted * parts["own"] / parts["effect"], len(arms.old))
    return Power(table, _expected(parts), _advise(table, correlation))


def _components(divergence: Divergence, old: Values, new: Values) -> xr.Dataset:
    """Return the variance of true scores over examples, and of a score's noise from one draw."""
    chosen = divergence.of(old.ndim == 4)
    if not chosen.has_contributions:
        raise ValueError(
            f"divergence {divergence.name!r} has no contributions of draws by arm, which tell coupled "
            "from independent noise; choose among dtda.divergences.available"
        )
    by_old, by_new = chosen.contributions(old, new, True)
    total = np.stack([_variance(by_old + by_new), _variance(by_old) + _variance(by_new)])
    own = np.stack([_variance(_own(by_old + by_new)), _variance(_own(by_old)) + _variance(by_new)])
    spread = chosen.statistic(old, new, True).var(-1, ddof=1)
    effect = spread - own[0] / len(old)
    return xr.Dataset(
        {
            "effect": ("query", np.where(effect > 0, effect, np.nan)),
            "total": (("arms", "query"), total),
            "own": (("arms", "query"), own),
        },
        coords={"arms": ["coupled", "independent"]},
    )


def _own(contributions: Values) -> Values:
    """Subtract what all examples share, which moves no example against another."""
    return contributions - contributions.mean(-1, keepdims=True)


def _variance(contributions: Values) -> Float[np.ndarray, " query"]:
    """Return the mean over examples of the variance over draws."""
    return contributions.var(0, ddof=1).mean(-1)


def _expected(parts: xr.Dataset) -> xr.DataArray:
    draws = xr.DataArray(list(DRAWS), dims="draws", coords={"draws": list(DRAWS)})
    found = (parts["effect"] / (parts["effect"] + parts["own"] / draws)) ** 0.5
    return found.transpose("arms", "draws", "divergence", "query").rename("correlation")


def _tabulate(parts: xr.Dataset, needed: xr.DataArray, num_draws: int) -> pd.DataFrame:
    error = (parts["total"] / num_draws) ** 0.5
    columns = {
        "effect_sd": parts["effect"] ** 0.5,
        "coupled_error": error.sel(arms="coupled", drop=True),
        "independent_error": error.sel(arms="independent", drop=True),
        "gain": parts["total"].sel(arms="independent") / parts["total"].sel(arms="coupled"),
        "coupled_draws": needed.sel(arms="coupled", drop=True),
        "independent_draws": needed.sel(arms="independent", drop=True),
    }
    medians = {name: column.median("query") for name, column in columns.items()}
    hidden = parts["effect"].isnull().sum("query")
    return xr.Dataset(medians | {"queries_hidden": hidden}).to_dataframe()[[*medians, "queries_hidden"]]


def _advise(table: pd.DataFrame, correlation: float) -> str:
    """Write the advice for the median query."""
    return "\n".join(
        f"{name}: to correlate {correlation:g} with the true scores, {_number(row['coupled_draws'])} "
        f"coupled draws or {_number(row['independent_draws'])} independent ones (the median query); "
        f"one coupled draw is worth {_number(row['gain'])}"
        for name, row in table.iterrows()
    )


def _number(value: float) -> str:
    return "more than the pilot can tell" if np.isnan(value) else f"{np.ceil(value):,.0f}"
