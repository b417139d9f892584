"""Both sides of a comparison: draws of the measurement on all data and on perturbed data."""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from dtda_prob.perturbations import check_weights
from dtda_prob.sampling import warn_not_finite
from dtda_prob.studies.devices import mesh_of
from dtda_prob.studies.digests import of_key
from dtda_prob.studies.draw import Draws, draws
from dtda_prob.studies.identity import of_source
from dtda_prob.studies.perturbed import Perturbed, perturbed
from dtda_prob.studies.pull import Responses, queries_at_once, responses
from dtda_prob.studies.reading import STATS, VALUE
from dtda_prob.studies.run import HERE, Where, run
from dtda_prob.studies.source import Source, training_of
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.transforms.importance import PARETO_K
from dtda_prob.typing import PRNGKey, check_key

Values = Float[np.ndarray, "draw ..."]
Direction = Literal["pull", "push"]


class Arms(NamedTuple):
    """Draws of the measurement on all data and on perturbed data.

    Attributes:
        old: shape `(draw, query, 1, *output)`.
        new: shape `(draw, query, perturbation, *output)`.
    """

    old: Values
    new: Values


@dataclass(frozen=True, eq=False)
class Comparison:
    """Which draws are compared: on all data, and on each perturbed dataset.

    Attributes:
        source: a push-forward, or a training, which retrains.
        key: one typed key.
        perturbed: the perturbed datasets.
        direction: "pull" or "push".
        new_key: the key of the draws on perturbed data, which then share no seed with any other; if
            None both arms share keys.
    """

    source: Source
    key: PRNGKey
    perturbed: Perturbed
    direction: Direction
    new_key: PRNGKey | None = None

    @property
    def training(self) -> Training:
        """Return the training whose measurements are compared."""
        return training_of(self.source)

    @property
    def coupled(self) -> bool:
        """Return whether both arms share keys."""
        return self.new_key is None

    @property
    def identity(self) -> dict[str, Any]:
        """Return what identifies the comparison, as JSON can hold it."""
        keys = {"key": of_key(self.key), "new_key": of_key(self.new_key)}
        return of_source(self.source) | keys | {"direction": self.direction} | self.perturbed.identity

    def tasks(
        self, num_draws: int, where: Where = HERE, first: int = 0
    ) -> tuple[Responses | Draws, ...]:
        """Return the tasks that draw both arms: responses by pull, two sample sets by push.

        Args:
            num_draws: of either arm.
            where: in a store that keeps no effects, queries are pulled in the blocks that are scored.
            first: runs to pass over, so that draws can be added to those there are.
        """
        runs = self.training.num_runs(num_draws)
        settings: dict[str, Any] = {"first": first, "mesh": mesh_of(where.engine)}
        if self.direction == "pull":
            assert isinstance(self.source, PushForward)
            columns = self.columns(num_draws) if where.store and not where.effects else None
            return (
                responses(self.source, self.key, runs, self.perturbed, columns=columns, **settings),
            )
        settings["keep"] = ("statistics",) if where.store else (PARETO_K,)
        whole, weights = check_weights(self.training.program, None), self.perturbed.weights()
        key = self.key if self.new_key is None else self.new_key
        new = draws(self.source, key, runs, weights, shared=self.coupled, **settings)
        return draws(self.training, self.key, runs, whole, **settings), new

    def columns(self, num_draws: int) -> int:
        """Count the queries whose draws of both arms fit into memory."""
        runs = self.training.num_runs(num_draws)
        return queries_at_once(self.training, runs * len(self.perturbed))

    def draw(self, num_draws: int, where: Where = HERE, first: int = 0) -> xr.Dataset:
        """Draw both arms; by push, samples in a store have names that begin with its own.

        Returns:
            A dataset with `value`, `(run, state, query, [output])`, and by pull its `change`, by push
            what it `moved` to, `(run, state, query, perturbation, [output])`, and by importance
            weights `pareto_k`, `(run, perturbation)`.
        """
        tasks = self.tasks(num_draws, where, first)
        if self.direction == "pull":
            return run(tasks[0], replace(where, name=where.effects) if where.effects else where)
        before, after = (
            run(task, where / name) for task, name in zip(tasks, ("all_data", "perturbed"), strict=True)
        )
        value, k_hat = f"{VALUE}/{self.training.measure.name}", f"{STATS}/{PARETO_K}"
        fields = {"value": self._by_run(before[value]), "moved": self._by_run(after[value])}
        if STATS in after.children and PARETO_K in after[STATS]:
            fields[PARETO_K] = self._by_run(after[k_hat]).isel(state=0)
        own = {str(self.perturbed.weights(slice(1)).dims[0]): self.perturbed.dim}
        order = ("run", "state", "query", self.perturbed.dim, "output")
        return xr.Dataset(fields).rename(own).transpose(*order, missing_dims="ignore")

    def arms(self, num_draws: int, where: Where = HERE) -> Arms:
        """Draw both arms, warn where draws are not finite, and lay them out as arrays."""
        arms = arms_of(self.draw(num_draws, where))
        finite = np.isfinite(arms.new).reshape(len(arms.new), -1).all(1)
        warn_not_finite(~finite, "scores that they enter are NaN")
        return arms

    def labelled(self, arms: Arms) -> xr.Dataset:
        """Label both arms: `full`, by draw and query, and `perturbed`, by perturbation as well."""
        output = ["output"][: arms.old.ndim - 3]
        fields = {
            "full": (["draw", "query", *output], arms.old[:, :, 0]),
            "perturbed": (["draw", "query", "perturbation", *output], arms.new),
        }
        queries = self.training.measure.queries
        return xr.Dataset(fields, {"query": queries, "perturbation": self.perturbed.labels})

    def _by_run(self, values: xr.DataArray) -> xr.DataArray:
        """Return values of a sample set by run and state."""
        chain, draw = ("run", "state") if self.training.kernel.num_states > 1 else ("state", "run")
        return values.rename(chain=chain, draw=draw).drop_vars(["run", "state"])


def comparison(
    source: Source,
    key: PRNGKey,
    perturbations: Any,
    direction: Direction | None = None,
    new_key: PRNGKey | None = None,
) -> Comparison:
    """Check what is to be compared, before anything is drawn.

    Args:
        source: a push-forward, or a training.
        key: one typed key.
        perturbations: weights `(perturbation, example)`, or `(example,)` for one dataset; each example
            removed in turn if None.
        direction: "pull" or "push"; if None pull where the source can, unless keys are new.
        new_key: see `Comparison`.

    Raises:
        ValueError: for bad weights, or a direction that the source does not have.
    """
    check_key(key)
    training = training_of(source)
    own = directions(source)
    if direction is None:
        direction = "push" if new_key is not None or "pull" not in own else "pull"
    if direction not in own:
        raise ValueError(f"direction={direction!r}: {_name(source)} has {' and '.join(map(repr, own))}")
    if direction == "pull" and new_key is not None:
        raise ValueError("new_key: a pull moves the draws that there are; take direction='push'")
    chosen = perturbed(training.program, perturbations)
    return Comparison(source, key, chosen, direction, new_key)


def given(perturbations: Any) -> Any:
    """Return perturbations, which must be given where each example in turn is too many.

    Raises:
        ValueError: if they are None.
    """
    if perturbations is None:
        raise ValueError("perturbations=None: pass weights, such as leave_one_out(program)")
    return perturbations


def directions(source: Source) -> tuple[Direction, ...]:
    """Return the directions of a source, which a transform declares; a training only pushes."""
    if isinstance(source, Training):
        return ("push",)
    return source.directions


def part(both: xr.Dataset | Responses, queries: slice, runs: slice = slice(None)) -> xr.Dataset:
    """Return some queries and runs of both arms, from memory, from a store, or pulled now."""
    if isinstance(both, xr.Dataset):
        return both.isel(query=queries, run=runs)
    start, stop, _ = runs.indices(both.num_runs)
    step = both.block[0]
    each = (slice(i, min(i + step, stop)) for i in range(start, stop, step))
    return xr.concat([both((some, queries)) for some in each], "run")


def arms_of(both: xr.Dataset) -> Arms:
    """Return both arms by draw, in double precision where small changes are added to values."""
    old = by_draw(both["value"])[:, :, None]
    if "moved" in both:
        return Arms(old, by_draw(both["moved"]))
    return Arms(old, old.astype(float) + by_draw(both["change"]))


def by_draw(array: xr.DataArray) -> Values:
    """Return the states of all runs as draws; of R runs, draw i is of run i modulo R."""
    values = array.transpose("state", "run", ...).values
    return values.reshape(-1, *values.shape[2:])


def _name(source: Source) -> str:
    return "a training" if isinstance(source, Training) else source.name
