"""What can be trusted and what not: all diagnostics on one page, in numbers and in words."""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pandas as pd
import xarray as xr

from dtda_prob.attribution.arms import comparison, given
from dtda_prob.attribution.methods import candidates, cheaper, retrained_shifts, shifts
from dtda_prob.diagnostics.across_seeds import compare_shifts, recommend
from dtda_prob.diagnostics.along_training import along_training
from dtda_prob.diagnostics.calibration import calibration, check_apart, keys_of
from dtda_prob.diagnostics.checks import Finding, findings
from dtda_prob.diagnostics.linear_range import linear_range
from dtda_prob.diagnostics.posterior import k_hats
from dtda_prob.diagnostics.sampling import LEAST_DRAWS, coupling, draws
from dtda_prob.diagnostics.solves import null_space, residuals
from dtda_prob.perturbations import num_removed
from dtda_prob.studies.check import far, moves_far
from dtda_prob.studies.perturbed import perturbed
from dtda_prob.studies.run import HERE, Where
from dtda_prob.studies.source import Source, draw_keys, training_of
from dtda_prob.studies.tree import draws_of, in_chains
from dtda_prob.training import Training
from dtda_prob.transforms import PushForward
from dtda_prob.typing import PRNGKey

NUM_CHAINS = 4
"""Blocks of seeds that R-hat compares."""


class Verdict(NamedTuple):
    """Whether a prediction can be trusted.

    Attributes:
        table: one row per check, with `value`, `error`, `threshold` and `passed`; see `checks.Check`.
        text: what can be trusted and what not, what to do about it, and what was not checked.
        results: the result of each diagnostic, by name.
    """

    table: pd.DataFrame
    text: str
    results: dict[str, Any]

    def to_dataset(self) -> xr.Dataset:
        """Return the table along `check`, with the text as an attribute, to be saved in a study."""
        return self.table.rename_axis("check").to_xarray().assign_attrs(text=self.text)

    def __str__(self) -> str:
        return f"{self.table.to_string(float_format='{:.3g}'.format)}\n\n{self.text}"


@dataclass(frozen=True)
class VerdictOptions:
    """Settings of `verdict` that most calls leave as they are.

    Attributes:
        direction: how to predict, see `attribute`; the cheaper direction if None.
        num_checked: number of perturbations that are retrained, and of draws checked in detail.
        shares: shares of training after which the response is compared with the exact one, which costs
            a `pull` of both for two draws each; skipped if empty.
    """

    direction: Literal["pull", "push"] | None = None
    num_checked: int = 4
    shares: tuple[float, ...] = (1.0,)


USUAL = VerdictOptions()


def verdict(
    source: Source,
    key: PRNGKey,
    perturbations: Any,
    *,
    num_draws: int = 32,
    retrained: xr.DataTree | xr.DataArray | None = None,
    options: VerdictOptions = USUAL,
    where: Where = HERE,
) -> Verdict:
    """Run the diagnostics that apply, and summarise what can be trusted and what not.

    The draws are the same as in `attribute` with this key. The perturbations with the longest predicted
    steps are retrained for a few draws, and a transform's curvature is checked by its solve, its null
    space and its agreement with the exact response. If steps are out of range, other methods are tried
    on them, and the one that does better is named. Thresholds and their reasons are in
    `diagnostics.checks`.

    Args:
        source: a push-forward; or a training, which retrains, and has only its draws to be checked.
        key: key of the draws.
        perturbations: weights `(perturbation, example)`.
        num_draws: number of draws, a multiple of 4 and at least 16; where the kernel keeps several
            states of a run, at least 4 from each, and at least 3 runs.
        retrained: a sample set of retraining at the same perturbations with another key, to calibrate
            the prediction.
        options: how to predict, and how much is checked in detail; see `VerdictOptions`.
        where: the engine that computes the draws, and whether to show progress; see `Where`. In a
            store they are called "verdict.draws", or after its name.

    Raises:
        ValueError: for bad or no weights, a bad number of draws, or `retrained` that does not fit.
    """
    num_states = training_of(source).kernel.num_states
    num_chains = _count_chains(training_of(source), num_draws)
    some = perturbed(training_of(source).program, given(perturbations))
    compared = comparison(source, key, some, options.direction or cheaper(source, len(some)))
    both = compared.labelled(compared.arms(num_draws, where.named("verdict") / "draws"))
    old, new = both["full"].astype(float), both["perturbed"].astype(float)
    results = _of_draws(old, new, num_chains, num_states)
    if retrained is not None:
        results |= _calibrations(old, new, retrained, key)
    left_out: dict[str, str] = {}
    if moves_far(source):
        moved = far(old.expand_dims(perturbation=1, axis=2).values, new.values)
        results["shifts"] = results["shifts"].assign(far=(results["shifts"]["mean"].dims, moved))
    if isinstance(source, PushForward):
        longest = np.sort(np.argsort(-_lengths(results["shifts"]))[: options.num_checked])
        weights = some.weights(longest)
        for name, run in _of_transform(source, key, weights, options).items():
            _attempt(name, run, results, left_out)
        if "linear_range" in results:
            results["shifts"] = results["shifts"].assign(length=_length_by_draw(new - old))
            own = (new - old).isel(perturbation=longest).values
            compare = partial(_across_seeds, source, key, weights, own, results)
            _attempt("across_seeds", compare, results, left_out)
    return judge(results, left_out)


def judge(results: Mapping[str, Any], left_out: Mapping[str, str] | None = None) -> Verdict:
    """Compute the verdict on existing results, such as stored ones.

    Args:
        results: results of diagnostics, by name, as in `Verdict.results`.
        left_out: diagnostics that did not apply, and why.

    Raises:
        ValueError: for unknown names, or no results.
    """
    made = findings(results)
    if not made:
        raise ValueError("results are empty: pass the result of at least one diagnostic")
    rows = {one.check.name: (one.value, one.error, one.check.threshold(), one.passed) for one in made}
    table = pd.DataFrame.from_dict(rows, "index", columns=["value", "error", "threshold", "passed"])
    return Verdict(
        table.rename_axis("name"),
        _write(made, left_out or {}, results.get("across_seeds")),
        dict(results),
    )


def _count_chains(training: Training, num_draws: int) -> int:
    """Return the number of blocks of draws to compare: runs, where each has several states."""
    runs, several = training.num_runs(num_draws), training.kernel.num_states > 1
    num_chains = runs if several else NUM_CHAINS
    if num_draws % num_chains or num_draws < num_chains * LEAST_DRAWS or (several and runs < 3):
        raise ValueError(
            f"num_draws={num_draws} must be a multiple of {num_chains} and at least "
            f"{num_chains * LEAST_DRAWS}, to compare "
            f"{'3 or more runs' if several else 'blocks of seeds'}"
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


def _length_by_draw(change: xr.DataArray) -> xr.DataArray:
    return (change**2).sum([dim for dim in change.dims if dim != "draw"]) ** 0.5


def _of_transform(
    source: PushForward, key: PRNGKey, weights: xr.DataArray, options: VerdictOptions
) -> dict[str, Callable[[], Any]]:
    """Return the diagnostics of a transform, matched to training on the perturbed data.

    Importance weights carry the distribution and not single draws, so that draws have no steps.
    """
    if source.push == source.training.push:
        return {}
    fitting = source.matched(int(num_removed(weights).max()))
    if fitting.weigh is not None:
        return {"pareto_k": partial(k_hats, fitting, weights)}
    num_draws, shares = options.num_checked, options.shares
    range_of = partial(linear_range, source, key, weights, num_draws=num_draws)
    chosen: dict[str, Callable[[], Any]] = {"linear_range": range_of}
    if fitting.curvature is not None:
        which = fitting.training, fitting.curvature, key
        chosen["residuals"] = partial(residuals, *which)
        chosen["null_space"] = partial(null_space, *which, num_draws=num_draws)
    if fitting.curvature is not None and fitting.at is not None and shares:
        chosen["along_training"] = partial(along_training, fitting, key, shares=shares, num_draws=2)
    return chosen


def _across_seeds(
    source: PushForward, key: PRNGKey, weights: xr.DataArray, own: np.ndarray, results: dict[str, Any]
) -> xr.Dataset:
    """Compare mean shifts with retraining under other seeds; with other methods' where they are off."""
    truth = retrained_shifts(source, key, weights, 2 * len(results["linear_range"]["draw"]))
    compared = compare_shifts({source.name: own}, truth)
    if not any(
        one.check.method and not one.passed for one in findings(results | {"across_seeds": compared})
    ):
        return compared
    predicted = {source.name: own}
    for name, other in candidates(source.training)[0].items():
        if other.curvature is not None or source.curvature is not None:
            predicted[name] = shifts(other, key, weights, len(own))
    return compare_shifts(predicted, truth)


def _calibrations(
    old: xr.DataArray, new: xr.DataArray, retrained: xr.DataTree | xr.DataArray, key: PRNGKey
) -> dict[str, xr.Dataset]:
    """Calibrate the prediction, and the sample before, against the same retrained draws."""
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
    """Run a diagnostic, or record why it does not apply."""
    try:
        results[name] = run()
    except (ValueError, NotImplementedError) as error:
        left_out[name] = str(error)


def _lengths(shifts: xr.Dataset) -> np.ndarray:
    """Return the length of each mean shift; one that is not finite counts as the longest."""
    square = shifts["mean"] ** 2
    lengths = square.sum([dim for dim in square.dims if dim != "perturbation"], skipna=False)
    return lengths.fillna(np.inf).values


def _write(made: list[Finding], left_out: Mapping[str, str], compared: xr.Dataset | None) -> str:
    passed = [one for one in made if one.passed]
    failed = [one for one in made if not one.passed]
    better = "" if compared is None else recommend(compared)
    if compared is not None and compared.sizes["transform"] > 1 and not better:
        better = "no method that was tried agrees better with retraining under other seeds: retrain"
    parts = [
        f"{len(passed)} of {len(made)} checks are passed.",
        *_listed(
            "Take another method, since more draws of this one would not help:",
            [better] if better else [],
        ),
        *_listed("What can be trusted:", [one.text for one in passed]),
        *_listed("What cannot, and what to do:", [_remedy(one, bool(better)) for one in failed]),
        *_listed("Not checked:", [f"{name}: {why}" for name, why in left_out.items()]),
    ]
    return "\n".join(parts)


def _listed(heading: str, items: list[str]) -> list[str]:
    wrap = partial(textwrap.fill, width=100, initial_indent="- ", subsequent_indent="  ")
    return [heading, *(wrap(item) for item in items)] if items else []


def _remedy(one: Finding, wrong: bool) -> str:
    error = "" if np.isnan(one.error) else f" +- {one.error:.1g}"
    text = one.text.split(": ")[0] if wrong and one.check.more_draws else one.text
    return f"{text} ({one.check.name}: {one.value:.3g}{error}, wanted {one.check.threshold()})"
