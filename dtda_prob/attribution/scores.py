"""Scores from draws: every divergence of every pair, with errors, p-values and ranks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Array

from dtda_prob.attribution.arms import Arms, Comparison, Values, arms_of, part
from dtda_prob.attribution.ranks import rank_pairs
from dtda_prob.divergences import Divergence
from dtda_prob.divergences.estimates import expand_and_permute, summarise
from dtda_prob.divergences.meaning import encoded
from dtda_prob.studies.identity import of_program
from dtda_prob.studies.options import Options
from dtda_prob.studies.pull import Responses
from dtda_prob.typing import PRNGKey

MOST_ELEMENTS = 2**22
"""Numbers per block of pairs that are compared at once."""
ROUNDING = 64
"""Units of rounding by which draws of one model may differ, as solves from several starts do."""
NUM_TRIED = 16
"""Draws of noise that divergences are tried on."""


@dataclass(frozen=True, eq=False)
class ByQuery(ABC):
    """Scores of a comparison, computed for a block of queries at a time.

    Attributes:
        comparison: what is compared.
        columns: queries that are scored at once.
    """

    comparison: Comparison
    columns: int

    dims = ("query",)

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the divergences."""

    @property
    def shape(self) -> tuple[int]:
        """Return the number of queries."""
        return (len(self.comparison.training.measure.queries),)

    @property
    def block(self) -> tuple[int]:
        """Return the number of queries of a block."""
        return (self.columns,)

    @property
    def coords(self) -> xr.Dataset:
        """Return the labels of divergences, queries and perturbations."""
        own, queries = self.comparison.perturbed, self.comparison.training.measure.queries
        return xr.Dataset(coords={"divergence": self.names, "query": queries, own.dim: own.labels})

    @property
    def program(self) -> dict[str, Any]:
        """Return what identifies the program of the study."""
        return of_program(self.comparison.training.program)


@dataclass(frozen=True, eq=False)
class Scores(ByQuery):
    """Score a block of queries.

    Attributes:
        both: draws of both arms, or responses that are pulled block by block.
        num_draws: of either arm.
        divergences: what the arms are compared by.
        options: how scores are estimated.
    """

    both: xr.Dataset | Responses
    num_draws: int
    divergences: tuple[Divergence, ...]
    options: Options

    @property
    def names(self) -> list[str]:
        """Return the names of the divergences."""
        return [divergence.name for divergence in self.divergences]

    @property
    def like(self) -> xr.Dataset:
        """Return the scores of one query, its draws being noise."""
        old, new = np.split(noise(self.comparison, self.num_draws, 1 + len(self.perturbed)), [1], 2)
        return self.of_arms(Arms(old, new), slice(0, 1))

    @property
    def perturbed(self) -> Any:
        """Return the perturbed datasets."""
        return self.comparison.perturbed

    @property
    def identity(self) -> dict[str, Any]:
        """Return what identifies the scores."""
        names = ("level", "num_permutations", "num_resamples", "top", "keep_contributions")
        return self.comparison.identity | {
            "kind": "scores",
            "num_draws": self.num_draws,
            "divergences": self.names,
            "trials": [tried(each, self.comparison) for each in self.divergences],
            "options": {name: getattr(self.options, name) for name in names},
        }

    def in_blocks(self, block: tuple[int, ...]) -> "Scores":
        """Return the same scores, so many queries at a time."""
        both = self.both
        both = both.in_blocks((both.block[0], *block)) if isinstance(both, Responses) else both
        return replace(self, columns=block[0], both=both)

    def __call__(self, block: tuple[slice, ...]) -> xr.Dataset:
        """Score a block of queries; see `attribute` for what is in it."""
        return self.of_arms(arms_of(part(self.both, block[0])), block[0])

    def of_arms(self, arms: Arms, queries: slice) -> xr.Dataset:
        """Score both arms of some queries."""
        training = self.comparison.training
        scores = score_arms(
            arms, self.divergences, self.perturbed.dim, self.comparison.coupled, self.options,
            num_states=training.kernel.num_states, resolution=training.kernel.resolution,
        )  # fmt: skip
        labels = self.coords.isel(query=queries).coords
        scores = scores.assign_coords({name: labels[name] for name in labels})
        missing = ~np.isfinite(arms.new).all(tuple(range(2, arms.new.ndim)))
        measure, vector = training.measure.name, arms.old.ndim == 4
        chosen = {each.name: each.of(vector) for each in self.divergences}
        scores["num_not_finite"] = ("query", missing.sum(0))
        return scores.assign_attrs(
            measure=measure,
            coupled=int(self.comparison.coupled),
            num_draws=self.num_draws,
            level=self.options.level,
            top=self.options.top,
            **encoded({name: each.meaning(measure, "{unit}") for name, each in chosen.items()}),
        )


def score_arms(
    arms: Arms,
    divergences: tuple[Divergence, ...],
    dim: str,
    coupled: bool,
    options: Options,
    num_states: int = 1,
    resolution: float = 0.0,
) -> xr.Dataset:
    """Estimate divergences between both arms, whose perturbations lie along `dim`; see `attribute`."""
    settings = coupled, options, num_states, resolution
    scored = [_of_divergence(each, arms, settings) for each in divergences]
    dims = ("divergence", "arm", "draw", "query", dim)
    fields = {name: np.stack([fields[name] for fields in scored]) for name in scored[0]}
    variables: dict[str, Any] = {
        name: ((dims[0], *dims[len(dims) + 1 - field.ndim :]), field) for name, field in fields.items()
    }
    spread = arms.old.std(0, ddof=1)[:, 0]
    variables["sd"] = ("query", "output")[: spread.ndim], spread
    names = ["both"] if coupled else ["old", "new"]
    return xr.Dataset(variables, {"arm": names} if "contribution" in fields else {})


def _of_divergence(divergence: Divergence, arms: Arms, settings: tuple) -> dict[str, np.ndarray]:
    """Estimate a few queries at a time, so that memory stays bounded."""
    step = max(1, MOST_ELEMENTS * arms.new.shape[1] // arms.new.size)
    places = (slice(i, i + step) for i in range(0, arms.new.shape[1], step))
    blocks = [_of_block(divergence, arms.old[:, some], arms.new[:, some], *settings) for some in places]
    return {name: np.concatenate([b[name] for b in blocks], axis=-2) for name in blocks[0]}


def _of_block(
    divergence: Divergence,
    old: Values,
    new: Values,
    coupled: bool,
    options: Options,
    num_states: int,
    resolution: float,
) -> dict[str, np.ndarray]:
    chosen = divergence.of(old.ndim == 4)
    expansion, permuted = expand_and_permute(
        chosen,
        old,
        new,
        coupled=coupled,
        num_permutations=options.num_permutations,
        num_states=num_states,
    )
    estimate = summarise(chosen, expansion, permuted, options.level)
    ranking = rank_pairs(expansion, options.top, options.level, options.num_resamples, seed=0)
    fields = {"score": estimate.value} | estimate._asdict() | ranking._asdict()
    del fields["value"]
    unknown = identical(old, new, resolution)[:, None]
    for name in ("error", "lower", "upper", "p_value", *UNSURE):
        fields[name] = np.where(unknown, np.nan, fields[name])
    fields["q_value"] = q_values(fields["p_value"])
    if options.keep_contributions:
        error = expansion.error()
        scale = np.divide(fields["error"], error, out=np.zeros_like(error), where=error != 0)
        fields["contribution"] = np.stack([scale * arm for arm in expansion.contributions])
    return fields


UNSURE = ("rank_lower", "rank_upper", "rank_probability", "top_probability")


def identical(old: Values, new: Values, resolution: float = 0.0) -> np.ndarray:
    """Return for which queries all draws of both arms are the same up to rounding, and something moves.

    Such draws are one model: they say nothing about how training varies. Where training ends within a
    tolerance, draws of one minimum differ by as much; see `Kernel.resolution`.
    """
    relative = max(ROUNDING * np.finfo(old.dtype).eps, resolution)
    largest = np.maximum(np.abs(old).max(0), np.maximum(new.max(0), -new.min(0)))
    same = np.ptp(old, 0) <= relative * largest
    if same.any():  # Rarely, and moves take longer to look at.
        same &= np.ptp(new - old, 0) <= relative * largest
    still = (new[:1] == old[:1]).all(0)
    axes = tuple(range(1, same.ndim))
    return same.all(axes) & ~still.all(axes)


def q_values(p_values: np.ndarray) -> np.ndarray:
    """Return the false discovery rate at which each would be discovered, along the last axis.

    By Benjamini and Hochberg (1995); NaN where there is no p-value, which counts as no discovery.
    """
    missing = np.isnan(p_values)
    adjusted = scipy.stats.false_discovery_control(np.where(missing, 1.0, p_values), axis=-1)
    return np.where(missing, np.nan, adjusted)


def tried(divergence: Divergence, comparison: Comparison) -> str:
    """Try a divergence on noise: its values tell divergences of one name apart.

    Raises:
        ValueError: if it does not reduce the first axis alone.
    """
    old, new = np.split(noise(comparison, NUM_TRIED, 3).astype(float), [1], 2)
    value = np.asarray(divergence.of(old.ndim == 4).statistic(old, new, comparison.coupled))
    if value.shape != (1, 2):
        raise ValueError(
            f"divergence {divergence.name!r} gives shape {value.shape} for draws of shape {old.shape} "
            f"and {new.shape}, and must give (1, 2): reduce the first axis"
            f"{', and the last one, of outputs,' if old.ndim == 4 else ''} alone"
        )
    return " ".join(f"{number:.5g}" for number in value.ravel())


def noise(comparison: Comparison, num_draws: int, several: int) -> np.ndarray:
    """Make up measured values of one query, which add up to 1 where they are vectors."""
    program, measure = comparison.training.program, comparison.training.measure

    def value_of(key: PRNGKey) -> Array:
        return measure.readout(measure.outputs(program.init(key)))

    value = jax.eval_shape(value_of, jax.random.key(0))  # of an untrained model: training is not traced
    output = value.shape[1:]
    noise = np.random.default_rng(0).uniform(size=(num_draws, 1, several, *output))
    # Shares that add up to 1 are fit for any divergence, those between probabilities too.
    shares = noise / noise.sum(-1, keepdims=True) if output else noise
    return shares.astype(value.dtype)
