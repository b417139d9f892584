"""Scores in a store: a block of queries at a time, so that memory holds a block and no more."""

from collections.abc import Callable
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
from dtda_prob.outcomes.source import Source
from dtda_prob.outcomes.stored import fill
from dtda_prob.outcomes.study import Place, digest, finish_group, group_of, key_words, study
from dtda_prob.perturbations import check_weights
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey


class Request(NamedTuple):
    """What is to be scored; see `attribute`.

    Attributes:
        source: a push-forward, or a training.
        key: of the draws.
        num_draws: of either arm.
        weights: the perturbations, or what all data weigh where each is removed in turn.
        direction: "pull" or "push".
        new_key: of the draws on perturbed data, where these are independent.
        comparison: how arms are compared.
    """

    source: Source
    key: PRNGKey
    num_draws: int
    weights: xr.DataArray
    direction: Direction
    new_key: PRNGKey | None
    comparison: Comparison

    @property
    def num_runs(self) -> int:
        """Count the runs of either arm."""
        return self.comparison.training.num_runs(self.num_draws)


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
    weights, direction = check_request(source, key, perturbations, direction, new_key)
    request = Request(source, key, num_draws, weights, direction, new_key, comparison)
    if isinstance(source, PushForward) and direction == "pull":
        pulled = _pulled(place, source, request, effects)
        scores, is_new = _score(place, request, pulled)
        return Scored(scores, None, pulled.effects, is_new)
    arms = _pushed(place, request)
    # Arms are here already: sent elsewhere, they would take longer to get there.
    scores, is_new = _score(place._replace(engine=None), request, Held(arms))
    return Scored(scores, arms, None, is_new)


def _pulled(place: Place, source: PushForward, request: Request, name: str | None) -> Pulled | Kept:
    """Say how arms of some queries are pulled; where they are to be kept, pull them first."""
    training, mesh = request.comparison.training, mesh_of(place.engine)
    columns = _columns(request)
    at_once = queries_at_once(training, request.weights.shape[-1])
    together = columns if name is None else columns * max(1, at_once // columns)
    effects = effects_of(source, request.key, request.weights, columns=together, mesh=mesh)
    if name is None:
        return Pulled(effects, request.num_runs)
    group = keep_effects(place._replace(name=name), effects, request.num_runs, columns)
    return Kept(effects, group, request.num_runs)


def _pushed(place: Place, request: Request) -> Arms:
    """Draw both arms into the store, as sample sets of their own."""
    training, weights = request.comparison.training, request.weights
    whole = check_weights(training.program, None)
    shared = request.new_key is None
    new_key = request.key if shared else request.new_key

    def draws(
        name: str, source: Source, key: PRNGKey, weights: xr.DataArray, shared: bool
    ) -> np.ndarray:
        read, runs = Reading(training, frozenset()), request.num_runs
        drawing = lay_out(source, key, runs, weights, read, engine=place.engine, shared=shared)
        tree, _ = fill(place._replace(name=f"{place.name}.{name}"), drawing, runs, 1)
        values = tree.children["posterior_predictive"].to_dataset()[training.measure.name]
        by_draw = values.transpose("draw", "chain", ...).values
        return by_draw.reshape(-1, *by_draw.shape[2:])

    old = draws("all_data", training, request.key, whole, True)
    new = draws("perturbed", request.source, new_key, weights, shared)
    return Arms(old[:, :, None], np.moveaxis(new, 1, 2), weights)


def _score(place: Place, request: Request, arms: Callable[[slice], Arms]) -> tuple[xr.Dataset, bool]:
    """Score what is missing; say whether anything was."""
    comparison, num_queries = request.comparison, len(request.comparison.training.measure.queries)
    with study(place, comparison.training.program):

        def template() -> xr.DataTree:
            return comparison.template(request.num_draws, request.weights)

        columns = {"query": _columns(request)}
        group = group_of(place, _describe(request), template, columns)
        grid = Grid(1, group.blocks["query"])
        group.grow({"query": num_queries})
        sizes = group.sizes().astype(int)
        shards = grid.unfinished((1, num_queries), lambda where: (1, int(sizes[where[1], 0])))
        finish_group(place, Scoring(arms, comparison, group), shards, group, {"query": num_queries})
        diverging = int(group.facts("num_diverging").max())
    flags = np.arange(request.num_draws) < diverging
    warn_not_finite(flags, "scores that they enter are NaN")
    found = xr.open_datatree(place.store, group=place.name, engine="zarr")
    return found.to_dataset(), bool(shards)


def _describe(request: Request) -> dict[str, Any]:
    comparison = request.comparison
    return of_source(request.source) | {
        "kind": "scores",
        "key": key_words(request.key),
        "new_key": key_words(request.new_key),
        "num_draws": request.num_draws,
        "direction": request.direction,
        "divergences": [divergence.name for divergence in comparison.divergences],
        "options": comparison.options._asdict(),
        "perturbations": digest(request.weights.values),
    }


def _columns(request: Request) -> int:
    """Give the queries of a block, which all draws of it fit into memory with."""
    training = request.comparison.training
    return queries_at_once(training, request.num_runs * request.weights.shape[0])
