"""Scores in a store: a block of queries at a time, so that memory holds a block and no more."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from dtda_prob.attribution.arms import Arms, Direction, check_request
from dtda_prob.attribution.effects import Effects, effects_of
from dtda_prob.attribution.keeping import keep_effects
from dtda_prob.attribution.scoring import Comparison, Held, Kept, Pulled, Scoring
from dtda_prob.fingerprints import of_source
from dtda_prob.outcomes.devices import mesh_of
from dtda_prob.outcomes.draws import lay_out, warn_not_finite
from dtda_prob.outcomes.pulling import queries_at_once
from dtda_prob.outcomes.reading import Reading
from dtda_prob.outcomes.shards import Grid
from dtda_prob.outcomes.source import Source, training_of
from dtda_prob.outcomes.stored import fill
from dtda_prob.outcomes.study import (
    Place,
    finish_group,
    group_of,
    is_there,
    key_words,
    study,
    weights_words,
)
from dtda_prob.perturbations import check_weights
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey


class Request(NamedTuple):
    """Which arms are asked for; see `attribute`.

    Attributes:
        source: a push-forward, or a training.
        key: of the draws.
        num_draws: of either arm.
        weights: the perturbations, or what all data weigh where each is removed in turn.
        direction: "pull" or "push".
        new_key: of the draws on perturbed data, where these are independent.
    """

    source: Source
    key: PRNGKey
    num_draws: int
    weights: xr.DataArray
    direction: Direction
    new_key: PRNGKey | None

    @property
    def training(self) -> Training:
        """Give the training whose measurements are compared."""
        return training_of(self.source)

    @property
    def num_runs(self) -> int:
        """Count the runs of either arm."""
        return self.training.num_runs(self.num_draws)

    @property
    def columns(self) -> int:
        """Give the queries of a block that fits into memory with all its draws."""
        return queries_at_once(self.training, self.num_runs * self.weights.shape[0])


class Scored(NamedTuple):
    """Scores in a store, and what they were taken from.

    Attributes:
        scores: what `attribute` gives, read when it is asked for.
        arms: both arms, where these are in memory.
        effects: what was pulled, else.
        is_new: whether any was scored just now.
    """

    scores: xr.Dataset
    arms: Arms | None
    effects: Effects | None
    is_new: bool


def attribute_into(
    place: Place,
    source: Source,
    key: PRNGKey,
    num_draws: int,
    comparison: Comparison,
    perturbations: Any,
    direction: Direction | None,
    new_key: PRNGKey | None,
    effects: str | None,
) -> Scored:
    """Score what is missing, into a store; see `attribute`."""
    request = request_of(source, key, num_draws, perturbations, direction, new_key)
    _check_effects(place, effects, request.direction)
    here = _describe(request, comparison)
    with study(place, request.training.program):
        is_there(place, here)  # what is refused is refused before anything is drawn
    score = partial(_score, request=request, comparison=comparison, here=here)
    if request.direction == "pull":
        pulled = _pulled(place, request, effects)
        scores, is_new = score(place, arms=pulled)
        return Scored(scores, None, pulled.effects, is_new)
    arms = _pushed(place, request)
    # Arms are here already: sent elsewhere, they would take longer to get there.
    scores, is_new = score(place._replace(engine=None), arms=Held(arms))
    return Scored(scores, arms, None, is_new)


def arms_into(
    place: Place,
    source: Source,
    key: PRNGKey,
    num_draws: int,
    perturbations: Any,
    direction: Direction | None,
    new_key: PRNGKey | None,
) -> Arms:
    """Draw both sides of a comparison, into a store; see `draw_arms`."""
    request = request_of(source, key, num_draws, perturbations, direction, new_key)
    if request.direction == "push":
        return _pushed(place, request)
    pulled = _pulled(place, request, place.name)
    return pulled(slice(0, len(request.training.measure.queries)))


def effects_in(request: Request, engine: Any, kept: bool) -> Effects:
    """Say how effects are pulled into a store: by blocks that are scored, or by more if kept."""
    columns = request.columns
    at_once = queries_at_once(request.training, request.weights.shape[-1])
    assert isinstance(request.source, PushForward)
    return effects_of(
        request.source,
        request.key,
        request.weights,
        columns=columns * max(1, at_once // columns) if kept else columns,
        mesh=mesh_of(engine),
    )


def draws_into(
    place: Place,
    part: str,
    source: Source,
    key: PRNGKey,
    num_runs: int,
    weights: xr.DataArray,
    shared: bool,
) -> np.ndarray:
    """Draw one arm, into a store, as a sample set whose name follows that of the whole.

    Returns:
        Measured values `(draw, query, *output)`, or `(draw, perturbation, query, *output)`.
    """
    training = training_of(source)
    read = Reading(training, frozenset())
    drawing = lay_out(source, key, num_runs, weights, read, engine=place.engine, shared=shared)
    tree, _ = fill(place._replace(name=f"{place.name}.{part}"), drawing, num_runs, 1)
    values = tree.children["posterior_predictive"].to_dataset()[training.measure.name]
    by_draw = values.transpose("draw", "chain", ...).values
    return by_draw.reshape(-1, *by_draw.shape[2:])


def _check_effects(place: Place, name: str | None, direction: Direction) -> None:
    if name is not None and direction != "pull":
        raise ValueError(f"effects={name!r} are those of a pull; leave it out, or pull")
    if name == place.name:
        raise ValueError(f"effects={name!r} have the name of the scores; choose another for either")


def request_of(
    source: Source,
    key: PRNGKey,
    num_draws: int,
    perturbations: Any,
    direction: Direction | None,
    new_key: PRNGKey | None,
) -> Request:
    """Say which arms are asked for; see `attribute` for what is refused."""
    weights, direction = check_request(source, key, perturbations, direction, new_key)
    return Request(source, key, num_draws, weights, direction, new_key)


def _pulled(place: Place, request: Request, name: str | None) -> Pulled | Kept:
    """Say how arms of some queries are pulled; where they are to be kept, pull them first."""
    effects = effects_in(request, place.engine, kept=name is not None)
    if name is None:
        return Pulled(effects, request.num_runs)
    kept, program = place._replace(name=name), request.training.program
    group = keep_effects(kept, program, effects, request.num_runs, request.columns)
    return Kept(effects, group, request.num_runs)


def _pushed(place: Place, request: Request) -> Arms:
    """Draw both arms into the store, as sample sets of their own."""
    training, weights, runs = request.training, request.weights, request.num_runs
    whole, shared = check_weights(training.program, None), request.new_key is None
    new_key = request.key if request.new_key is None else request.new_key
    old = draws_into(place, "all_data", training, request.key, runs, whole, shared=True)
    new = draws_into(place, "perturbed", request.source, new_key, runs, weights, shared=shared)
    return Arms(old[:, :, None], np.moveaxis(new, 1, 2), weights)


def _score(
    place: Place,
    *,
    request: Request,
    comparison: Comparison,
    here: dict[str, Any],
    arms: Callable[[slice], Arms],
) -> tuple[xr.Dataset, bool]:
    """Score what is missing; say whether anything was."""
    num_queries = len(request.training.measure.queries)
    wanted = {"query": num_queries}
    with study(place, request.training.program):

        def template() -> xr.DataTree:
            return comparison.template(request.num_draws, request.weights)

        group = group_of(place, here, template, {"query": request.columns})
        group.grow(wanted)
        sizes = group.sizes().astype(int)
        grid = Grid(1, group.blocks["query"])
        shards = grid.unfinished((1, num_queries), lambda where: (1, int(sizes[where[1], 0])))
        finish_group(place, Scoring(arms, comparison, group), shards, group, wanted)
        diverging = int(group.facts("num_diverging").max())
    flags = np.arange(request.num_draws) < diverging
    warn_not_finite(flags, "scores that they enter are NaN")
    found = xr.open_datatree(place.store, group=place.name, engine="zarr")
    return found.to_dataset(), bool(shards)


def _describe(request: Request, comparison: Comparison) -> dict[str, Any]:
    return of_source(request.source) | {
        "kind": "scores",
        "key": key_words(request.key),
        "new_key": key_words(request.new_key),
        "num_draws": request.num_draws,
        "direction": request.direction,
        "divergences": [divergence.name for divergence in comparison.divergences],
        "trials": comparison.trials(),
        "options": comparison.options._asdict(),
        **weights_words(request.weights),
    }
