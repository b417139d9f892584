"""What can be trusted here and what not: all diagnostics on a page, in numbers and in words."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pandas as pd
import xarray as xr

from dtda_prob.attribution import Arms, draw_arms
from dtda_prob.diagnostics.along_training import along_training
from dtda_prob.diagnostics.calibration import calibration, check_apart, keys_of
from dtda_prob.diagnostics.checks import Check, check
from dtda_prob.diagnostics.coupling import coupling
from dtda_prob.diagnostics.draws import LEAST_DRAWS, draws
from dtda_prob.diagnostics.linear_range import linear_range
from dtda_prob.diagnostics.null_space import null_space
from dtda_prob.diagnostics.pareto import k_hats
from dtda_prob.diagnostics.residuals import residuals
from dtda_prob.perturbations import num_removed
from dtda_prob.studies.perturbed import perturbed
from dtda_prob.studies.run import Where
from dtda_prob.studies.source import Source, draw_keys, training_of
from dtda_prob.studies.tree import draws_of, in_chains
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey

NUM_CHAINS = 4
"""Blocks of seeds that R-hat compares."""


class Verdict(NamedTuple):
    """What a prediction rests on.

    Attributes:
        table: a row a check, with `value`, `error`, `threshold` and `passed`; see `checks.Check`.
        text: what can be trusted and what not, with what to do, and what was not looked at.
        results: what each diagnostic gave, by name.
    """

    table: pd.DataFrame
    text: str
    results: dict[str, Any]

    def to_dataset(self) -> xr.Dataset:
        """Give the table, along `check`, with the text as an attribute: what a study can keep of it."""
        return self.table.rename_axis("check").to_xarray().assign_attrs(text=self.text)

    def __str__(self) -> str:
        return f"{self.table.to_string(float_format='{:.3g}'.format)}\n\n{self.text}"


def verdict(
    source: Source,
    key: PRNGKey,
    perturbations: Any,
    *,
    num_draws: int = 32,
    retrained: xr.DataTree | xr.DataArray | None = None,
    direction: Literal["pull", "push"] | None = None,
    num_checked: int = 4,
    shares: Sequence[float] = (1.0,),
    progress: bool = True,
) -> Verdict:
    """Run the diagnostics that apply, and say what can be trusted and what not.

    Draws, their coupling and the error of the shifts are those of `attribute` with this key. The
    perturbations of the longest predicted steps are retrained for a few draws, and where the transform
    has a curvature, its solve, its null space and its agreement with the exact response are looked at.
    Thresholds and their reasons stand in `diagnostics.checks`. Every number is computed here.

    Args:
        source: a push-forward; or a training, which retrains, and has only its draws to be looked at.
        key: key of the draws.
        perturbations: weights `(perturbation, datum)`.
        num_draws: number of draws, a multiple of 4 and at least 16; where the kernel keeps several
            states of a run, at least 4 from each, and at least 3 runs.
        retrained: a sample set of retraining at the same perturbations with another key, for the
            calibration of the prediction.
        direction: how it is predicted, see `attribute`; the cheaper one if None.
        num_checked: perturbations that are retrained, and draws that are looked at in detail.
        shares: shares of training after which the response is compared with the exact one, which costs
            a `pull` of both for two draws each; none if empty.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: for bad or no weights, a bad number of draws, or `retrained` that does not fit.
    """
    num_states = training_of(source).kernel.num_states
    num_chains = _count_chains(training_of(source), num_draws)
    if perturbations is None:
        raise ValueError("perturbations=None: say which, as leave_one_out or groups give them")
    arms = draw_arms(
        source,
        key,
        num_draws,
        perturbations,
        direction=direction or _cheaper(source, len(np.atleast_2d(perturbations))),
        where=Where(progress=progress),
    )
    all_weights = perturbed(training_of(source).program, perturbations).weights()
    old, new = _labelled(source, arms, all_weights)
    results = _of_draws(old, new, num_chains, num_states)
    if retrained is not None:
        results |= _calibrations(old, new, retrained, key)
    left_out: dict[str, str] = {}
    if isinstance(source, PushForward):
        longest = np.argsort(-_lengths(results["shifts"]))[:num_checked]
        weights = all_weights[np.sort(longest)]
        for name, run in _of_transform(source, key, weights, num_checked, shares).items():
            _attempt(name, run, results, left_out)
    return judge(results, left_out)


def judge(results: Mapping[str, Any], left_out: Mapping[str, str] | None = None) -> Verdict:
    """Give the verdict on results that are at hand, such as stored ones.

    Args:
        results: what diagnostics gave, by their names; any of those in `Verdict.results`.
        left_out: diagnostics that did not apply, and why.

    Raises:
        ValueError: for names that are no diagnostic's, or none at all.
    """
    checks = check(results)
    if not checks:
        raise ValueError("results are empty: give the result of one diagnostic at least")
    rows = [one._asdict() for one in checks]
    table = pd.DataFrame(rows).set_index("name")[["value", "error", "threshold", "passed"]]
    return Verdict(table, _write(checks, left_out or {}), dict(results))


def _count_chains(training: Training, num_draws: int) -> int:
    """Count the blocks of draws to compare: runs, where several states of a run are draws."""
    runs, several = training.num_runs(num_draws), training.kernel.num_states > 1
    num_chains = runs if several else NUM_CHAINS
    if num_draws % num_chains or num_draws < num_chains * LEAST_DRAWS or (several and runs < 3):
        raise ValueError(
            f"num_draws={num_draws} must be a multiple of {num_chains} and at least "
            f"{num_chains * LEAST_DRAWS}, for {'3 or more runs' if several else 'blocks of seeds'} "
            "to be compared"
        )
    return num_chains


def _of_draws(old: xr.DataArray, new: xr.DataArray, num_chains: int, num_states: int) -> dict[str, Any]:
    chains = in_chains(old.values, num_chains)
    blocks = xr.DataArray(chains, old.coords, ("chain", *old.dims))
    shift = new - old
    by_run = xr.DataArray(in_chains(shift.values, len(shift) // num_states).mean(1), dims=shift.dims)
    missing = xr.apply_ufunc(lambda x: ~np.isfinite(x), new)
    return {
        "draws": draws(blocks, num_null=max(1999, 20 * old[0].size)),
        "coupling": coupling(old, new),
        "shifts": xr.Dataset(
            {
                "mean": shift.mean("draw"),
                "error": by_run.std("draw", ddof=1) / by_run.sizes["draw"] ** 0.5,
                "not_finite": missing.sum("draw"),
            }
        ),
    }


def _of_transform(
    source: PushForward, key: PRNGKey, weights: xr.DataArray, num_draws: int, shares: Sequence[float]
) -> dict[str, Callable[[], Any]]:
    """Give the diagnostics that retrain, solve or weigh, of training as the perturbations run it.

    Importance weights carry the distribution and not each draw, so that draws have no steps.
    """
    if source.push == source.training.push:
        return {}
    fitting = source.matched(int(num_removed(weights).max()))
    if fitting.weigh is not None:
        return {"pareto_k": partial(k_hats, fitting, weights)}
    range_of = partial(linear_range, source, key, weights, num_draws=num_draws)
    found: dict[str, Callable[[], Any]] = {"linear_range": range_of}
    if fitting.curvature is not None:
        which = fitting.training, fitting.curvature, key
        found["residuals"] = partial(residuals, *which)
        found["null_space"] = partial(null_space, *which, num_draws=num_draws)
    if fitting.curvature is not None and fitting.at is not None and shares:
        found["along_training"] = partial(along_training, fitting, key, shares=shares, num_draws=2)
    return found


def _calibrations(
    old: xr.DataArray, new: xr.DataArray, retrained: xr.DataTree | xr.DataArray, key: PRNGKey
) -> dict[str, xr.Dataset]:
    """Calibrate what was predicted, and what there was before, against the same retrained draws."""
    if isinstance(retrained, xr.DataTree):
        check_apart(np.asarray(jax.random.key_data(draw_keys(key, len(old)))), keys_of(retrained))
    truth = draws_of(retrained)
    if "perturbation" not in truth.dims:
        truth = truth.expand_dims(perturbation=new["perturbation"])
    before = old.expand_dims(perturbation=new["perturbation"])
    return {"calibration": calibration(new, truth), "unmoved": calibration(before, truth)}


def _attempt(
    name: str, run: Callable[[], Any], results: dict[str, Any], left_out: dict[str, str]
) -> None:
    """Run a diagnostic, or keep why it does not apply."""
    try:
        results[name] = run()
    except (ValueError, NotImplementedError) as error:
        left_out[name] = str(error)


def _cheaper(source: Source, num_perturbations: int) -> Literal["pull", "push"]:
    if isinstance(source, Training):
        return "push"
    by_push = source.cost.push * num_perturbations
    return "push" if np.isnan(source.cost.pull) or by_push <= source.cost.pull else "pull"


def _labelled(source: Source, arms: Arms, weights: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    output = ["output"][: arms.old.ndim - 3]
    coords = {"query": training_of(source).measure.queries}
    old = xr.DataArray(arms.old[:, :, 0].astype(float), coords, ["draw", "query", *output])
    coords["perturbation"] = weights["perturbation"].values
    dims = ["draw", "query", "perturbation", *output]
    return old, xr.DataArray(arms.new.astype(float), coords, dims)


def _lengths(shifts: xr.Dataset) -> np.ndarray:
    """Give the length of each mean shift over all else; one that is not finite comes first."""
    square = shifts["mean"] ** 2
    lengths = square.sum([dim for dim in square.dims if dim != "perturbation"], skipna=False)
    return lengths.fillna(np.inf).values


def _write(checks: list[Check], left_out: Mapping[str, str]) -> str:
    passed = [one for one in checks if one.passed]
    failed = [one for one in checks if not one.passed]
    parts = [
        f"{len(passed)} of {len(checks)} checks are passed.",
        *_listed("What can be trusted:", [one.says for one in passed]),
        *_listed("What cannot, and what to do:", [_told(one) for one in failed]),
        *_listed("Not looked at:", [f"{name}: {why}" for name, why in left_out.items()]),
    ]
    return "\n".join(parts)


def _listed(heading: str, items: list[str]) -> list[str]:
    wrap = partial(textwrap.fill, width=100, initial_indent="- ", subsequent_indent="  ")
    return [heading, *(wrap(item) for item in items)] if items else []


def _told(one: Check) -> str:
    error = "" if np.isnan(one.error) else f" +- {one.error:.1g}"
    return f"{one.says} ({one.name}: {one.value:.3g}{error}, wanted {one.threshold})"
