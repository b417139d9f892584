"""A sample set in a few lines, and as numbers."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr

from dtda_prob.cli.output import MOST_ROWS, aligned
from dtda_prob.report.numbers import plain, with_error
from dtda_prob.storage import contents
from dtda_prob.studies.tree import values_of

DRAWS = ("chain", "draw")


def moments(tree: xr.DataTree) -> dict[str, Any]:
    """Give mean, its error and the standard deviation of each measured number over draws."""
    values = values_of(tree)
    return {
        "measure": str(values.name),
        **_means(tree, values),
        "sd": values.std(DRAWS, ddof=1).values.ravel().tolist(),
        "diverging": int(_stats(tree)["diverging"].sum()),
    }


def moved(tree: xr.DataTree, store: Path) -> dict[str, Any] | None:
    """Give how far means have moved from those of the sample set on all data with the same keys."""
    values = values_of(tree)
    for name in _unperturbed(store, str(values.name)):
        full = xr.open_datatree(store, group=name, engine="zarr")
        if _stats(full)["key"].equals(_stats(tree)["key"]):
            return {"from": name, **_means(tree, values - values_of(full))}
    return None


def moments_in_words(found: dict[str, Any]) -> list[str]:
    """Tell mean, error and standard deviation of the first numbers."""
    rows = [
        (label, plain(with_error(mean, error)), f"{sd:.3g}")
        for label, mean, error, sd in zip(
            *map(found.get, ("labels", "mean", "error", "sd")), strict=True
        )
    ]
    head = found["measure"], "mean +- error", "sd over draws"
    return aligned([head, *rows], MOST_ROWS + 1)


def moved_in_words(found: dict[str, Any] | None) -> list[str]:
    """Tell how far the first means have moved."""
    if found is None:
        return []
    columns = _columns(found, "labels", "mean", "error")
    rows = [(label, plain(with_error(mean, error))) for label, mean, error in columns]
    return aligned([(f"moved from {found['from']} (same keys)", "by +- error"), *rows], MOST_ROWS + 1)


def _columns(found: dict[str, Any], *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(found[name] for name in names), strict=True)


def _means(tree: xr.DataTree, values: xr.DataArray) -> dict[str, Any]:
    return {
        "labels": _labels(values),
        "mean": values.mean(DRAWS).values.ravel().tolist(),
        "error": _error(tree, values).values.ravel().tolist(),
    }


def _error(tree: xr.DataTree, values: xr.DataArray) -> xr.DataArray:
    """Take errors from run to run: states of a run, which has one key, are correlated."""
    keys = _stats(tree)["key"]
    if keys.sizes["draw"] > 1 and bool((keys == keys.isel(draw=0)).all()):
        return values.mean("draw").std("chain", ddof=1) / values.sizes["chain"] ** 0.5
    return values.std(DRAWS, ddof=1) / (values.sizes["chain"] * values.sizes["draw"]) ** 0.5


def _stats(tree: xr.DataTree) -> xr.Dataset:
    return tree.children["sample_stats"].to_dataset()


def _labels(values: xr.DataArray) -> list[str]:
    dims = [dim for dim in values.dims if dim not in DRAWS]
    axes = [[f"{dim} {label}" for label in values[dim].values.tolist()] for dim in dims]
    return [", ".join(parts) for parts in itertools.product(*axes)]


def _unperturbed(store: Path, measure: str) -> list[str]:
    """Name the sample sets of training on the data as they are."""
    table = contents(store)
    alike = table[(table["kind"] == "sample set") & (table["measure"] == measure)]
    drawn = alike[(alike["transform"] == "training") & (alike["perturbations"] == 0)].index
    return [name for name in drawn if _is_even(store, name)]


def _is_even(store: Path, name: str) -> bool:
    weights = xr.open_datatree(store, group=name, engine="zarr")["constant_data/weights"]
    return bool((weights == 1).all())
