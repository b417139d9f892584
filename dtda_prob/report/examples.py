"""What a person can look at of each datum and of each query: a thumbnail, a row, a target, a label."""

import inspect
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import UInt8
from numpyro import handlers

from dtda_prob.plates import describe, whole
from dtda_prob.program import Program
from dtda_prob.training import Training

SIDE = 32
"""Pixels of a thumbnail's sides, at most."""
MOST_COLUMNS = 16
"""Features of a row that are shown."""
MOST_BYTES = 2**25
"""Of all that is kept of the data, in memory; the first are kept where they are more."""

Shape = tuple[int, ...]
Arrays = dict[str, np.ndarray]


class Look(NamedTuple):
    """How inputs are looked at; see `examples`."""

    shape: Shape | None
    columns: Sequence[str] | None
    rows: pd.DataFrame | None
    classes: Sequence[str] | None


def examples(
    training: Training,
    *,
    shape: Shape | None = None,
    columns: Sequence[str] | None = None,
    rows: pd.DataFrame | None = None,
    classes: Sequence[str] | None = None,
    data: Sequence[Hashable] | np.ndarray | None = None,
) -> xr.DataTree:
    """Gather what a person can look at of each datum and query, for the report of a study.

    Inputs of shape `(height, width)`, or with 1 or 3 channels behind, become thumbnails of at most 32 x
    32 pixels; the numbers of at most 16 features, a row of a table. What is observed is the target. Of
    anything else the label and the target stand alone. Keep it by
    `dtda.save(examples(training), study, name="examples", kind="examples")`.

    Args:
        training: whose program holds the data, and whose measure the queries.
        shape: of inputs that are images laid out flat, `(height, width)` or `(height, width, channel)`.
        columns: names of the features, in the order of the arguments.
        rows: a table to be shown in the place of the inputs, such as what they were made of; its index
            holds the labels of all data and queries.
        classes: names of the classes, where targets are whole numbers.
        data: labels of the data to keep; all if None.

    Returns:
        A tree with `data` (dimension `datum`) and `queries` (dimension `query`, empty where the measure
        is asked of no data), each with what there is of `thumbnail` (uint8: pixels by row, column and
        channel), `row` (by `column`; text where some of a table's columns are) and `target` (text, or
        numbers by `site`). The attribute `left_out` says what is not shown and why.

    Raises:
        ValueError: if no input has the shape, or columns, rows or classes do not fit.
        KeyError: if `data` holds a label that is no datum's.
    """
    program, look = training.program, Look(shape, columns, rows, classes)
    labels = np.asarray(program.labels[: program.num_data])
    shown = _gather(program, program.args, program.kwargs, xr.DataArray(labels, dims="datum"), look)
    shown = _first(shown) if data is None else shown.sel(datum=list(data))
    asked = training.measure.asked
    queries = xr.DataArray(np.asarray(training.measure.queries), dims="query")
    found = {"data": shown, "queries": xr.Dataset(coords={"query": queries.values})}
    if asked is not None:
        args, kwargs = jax.tree.map(np.asarray, asked)
        found["queries"] = _gather(program, args, kwargs, queries, look)
    return xr.DataTree.from_dict(found)


def _first(shown: xr.Dataset) -> xr.Dataset:
    """Keep as many data, from the first one on, as there is room for."""
    number = shown.sizes["datum"]
    most = MOST_BYTES * number // max(shown.nbytes, MOST_BYTES)
    if most == number:
        return shown
    told = f"all but the first {most} of {number} data (name those to keep: data=)"
    return shown.isel(datum=slice(most)).assign_attrs(
        left_out="; ".join(filter(None, [shown.attrs["left_out"], told]))
    )


def _gather(
    program: Program, args: tuple, kwargs: dict[str, Any], labels: xr.DataArray, look: Look
) -> xr.Dataset:
    """Look at the arguments that have an entry for each label."""
    dim, number = str(labels.dims[0]), labels.size
    targets = _targets(program, args, kwargs, number)
    inputs = {
        name: leaf
        for name, leaf in _leaves(program, args, kwargs).items()
        if leaf.shape[:1] == (number,) and not any(_equal(leaf, target) for target in targets.values())
    }
    images = {name: found for name, leaf in inputs.items() if (found := _as_images(leaf, look.shape))}
    if look.shape is not None and not images:
        shapes = {name: leaf.shape for name, leaf in inputs.items()}
        raise ValueError(f"shape={look.shape} is that of no input: these have {shapes}")
    rest = {name: leaf for name, leaf in inputs.items() if name not in images}
    dataset, left_out = xr.Dataset(coords={dim: labels.values}), []
    for part in (
        _thumbnails(images, dim, left_out),
        _rows(rest, dim, look.columns, left_out) if look.rows is None else _of_table(look.rows, labels),
        _as_targets(targets, dim, look.classes, left_out),
    ):
        dataset = dataset.assign(part)
    return dataset.assign_attrs(left_out="; ".join(left_out))


def _leaves(program: Program, args: tuple, kwargs: dict[str, Any]) -> Arrays:
    bound = inspect.signature(program.model).bind(*args, **kwargs)
    leaves = jax.tree.leaves_with_path(dict(bound.arguments))
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    return {name: np.asarray(leaf) for name, leaf in named.items() if np.ndim(leaf)}


def _targets(program: Program, args: tuple, kwargs: dict[str, Any], number: int) -> Arrays:
    """Give what is observed at each site, an entry a datum."""
    model = handlers.seed(whole(program.model, plate=program.plate), jax.random.key(0))
    sites = handlers.trace(model).get_trace(*args, **kwargs)
    found = {}
    for name in program.observed:
        fn, value, axis = describe(sites[name], program.plate)
        if value is not None:
            array = np.moveaxis(np.asarray(value), len(fn.batch_shape) + axis, 0)
            found |= {name: array} if len(array) == number else {}
    return found


def _equal(leaf: np.ndarray, target: np.ndarray) -> bool:
    return leaf.shape == target.shape and np.array_equal(leaf, target)


def _as_images(leaf: np.ndarray, shape: Shape | None) -> tuple[np.ndarray, ...]:
    """Give the images that an input holds, if it does, `(number, height, width, channel)`."""
    if shape is not None and math.prod(leaf.shape[1:]) == math.prod(shape):
        leaf = leaf.reshape(len(leaf), *shape)
    if leaf.ndim == 3:
        leaf = leaf[..., None]
    fits = leaf.ndim == 4 and leaf.shape[3] in (1, 3) and min(leaf.shape[1:3]) >= 2
    return (leaf,) if fits and leaf.dtype.kind in "fiub" else ()


def _thumbnails(images: dict[str, tuple], dim: str, left_out: list[str]) -> dict[str, xr.DataArray]:
    """Give the thumbnails of the first input of images."""
    if not images:
        return {}
    (name, (array,)), *others = images.items()
    left_out += [f"images of {other!r}" for other, _ in others]
    dims = (dim, "pixel_row", "pixel_column", "channel")
    return {"thumbnail": xr.DataArray(_shrunk(array), dims=dims, attrs={"input": name})}


def _shrunk(array: np.ndarray) -> UInt8[np.ndarray, "number row column channel"]:
    """Average pixels down to a thumbnail; the darkest of all images is black, the brightest white."""
    step = max(1, math.ceil(max(array.shape[1:3]) / SIDE))
    small = _averaged(_averaged(array, 1, step), 2, step)
    low, high = float(np.nanmin(small)), float(np.nanmax(small))
    scale = 255 / (high - low) if high > low else 0.0
    return np.round((np.nan_to_num(small, nan=low) - low) * scale).astype(np.uint8)


def _averaged(array: np.ndarray, axis: int, step: int) -> np.ndarray:
    if step == 1:
        return array.astype(np.float32)
    starts = np.arange(0, array.shape[axis], step)
    counts = np.diff(np.r_[starts, array.shape[axis]])
    total = np.add.reduceat(array.astype(np.float32), starts, axis)
    return total / np.expand_dims(counts, tuple(i for i in range(array.ndim) if i != axis))


def _rows(
    inputs: Arrays, dim: str, columns: Sequence[str] | None, left_out: list[str]
) -> dict[str, xr.DataArray]:
    """Give the features as one table, where they are few and numbers."""
    named = [pair for name, leaf in inputs.items() for pair in _features(name, leaf)]
    if columns is not None and len(columns) != len(named):
        raise ValueError(f"columns={[*columns]} must name {len(named)} features")
    if not named:
        return {}
    if len(named) > MOST_COLUMNS:
        left_out.append(f"{len(named)} features of {[*inputs]} (shape= tells that they are an image)")
        return {}
    table = np.stack([values for _, values in named], axis=1)
    names = [name for name, _ in named] if columns is None else [str(name) for name in columns]
    return {"row": xr.DataArray(table, {"column": names}, (dim, "column"))}


def _of_table(rows: pd.DataFrame, labels: xr.DataArray) -> dict[str, xr.DataArray]:
    """Give the rows of a table by their labels, as numbers if all are."""
    missing = [label for label in labels.values.tolist() if label not in rows.index]
    if missing or rows.index.has_duplicates or rows.shape[1] > MOST_COLUMNS:
        raise ValueError(
            f"rows must have at most {MOST_COLUMNS} columns, and one row for the label of each datum "
            f"and query: there are {rows.shape[1]} columns and {len(rows)} rows, none for {missing[:3]}"
        )
    found = rows.loc[labels.values]
    numbers = all(pd.api.types.is_numeric_dtype(kind) for kind in found.dtypes)
    table = found.to_numpy(float) if numbers else found.astype(str).to_numpy(str)
    columns = [str(name) for name in found.columns]
    return {"row": xr.DataArray(table, {"column": columns}, (labels.dims[0], "column"))}


def _features(name: str, leaf: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if leaf.dtype.kind not in "fiub":
        return
    flat = leaf.reshape(len(leaf), -1).astype(float)
    for i in range(flat.shape[1]):
        yield (name if leaf.ndim == 1 else f"{name}[{i}]"), flat[:, i]


def _as_targets(
    targets: Arrays, dim: str, classes: Sequence[str] | None, left_out: list[str]
) -> dict[str, xr.DataArray]:
    """Give what is observed: the names of classes, or the numbers by site."""
    named = [pair for name, array in targets.items() for pair in _features(name, array)]
    if classes is not None:
        values = np.concatenate([array for _, array in named]) if named else np.zeros(0)
        if len(named) != 1 or not np.isin(values, np.arange(len(classes))).all():
            raise ValueError(f"classes={[*classes]} must name every value of one target")
        return {"target": xr.DataArray(np.asarray(classes)[values.astype(int)].astype(str), dims=dim)}
    if not named or len(named) > MOST_COLUMNS:
        left_out += [f"{len(named)} targets"] if named else []
        return {}
    table, names = np.stack([array for _, array in named], axis=1), [name for name, _ in named]
    return {"target": xr.DataArray(table, {"site": names}, (dim, "site"))}
