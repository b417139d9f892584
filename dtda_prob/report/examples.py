"""What a person can look at of each example and query: a thumbnail, a row, a target, a label."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import UInt8
from numpyro import handlers

from dtda_prob.program import Program
from dtda_prob.report.predictions import predictions
from dtda_prob.training import Training

SIDE = 32
"""Pixels on each side of a thumbnail, at most."""
MOST_COLUMNS = 16
"""Features of a row that are shown."""
MOST_BYTES = 2**25
"""Of all examples, in memory; only the first are kept if there are more."""

NAMED = {"file", "target", "model"}
"""What a page can call by a name."""

Shape = tuple[int, ...]
Arrays = dict[str, np.ndarray]


class Look(NamedTuple):
    """Options of `examples`."""

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
    about: Mapping[str, str] | None = None,
    num_predictions: int = 0,
) -> xr.DataTree:
    """Return what a person can look at of each training example and query, for the report of a study.

    Inputs of shape `(height, width)`, with 1 or 3 channels or none, become thumbnails of at most 32 x
    32 pixels; up to 16 numeric features become a row of a table; observed values become the target. Any
    other example is shown by its label and target alone. Save the result by
    `dtda.save(examples(training), study, name="examples", kind="examples")`.

    Args:
        training: its program holds the examples, its measure the queries.
        shape: of inputs that are flattened images, `(height, width)` or `(height, width, channel)`.
        columns: names of the features, in the order of the arguments.
        rows: a table to show instead of the inputs, such as the raw data; its index holds the labels of
            all examples and queries.
        classes: names of the classes, if targets are integers.
        about: what the page calls the "file" that the examples are rows of, the "target" and the
            "model", such as "linear regression".
        num_predictions: models to train, whose mean prediction for each training example is kept
            beside its target; none if 0.

    Returns:
        A tree with `data` (dimension `example`) and `queries` (dimension `query`, empty if the measure
        has no inputs), each with as many as exist of `thumbnail` (uint8: pixels by row, column and
        channel), `row` (by `column`; text if any column of `rows` is), `target` (text, or numbers by
        `site`) and `predicted`. The attribute `left_out` says what is not shown and why.

    Raises:
        ValueError: if no input has the shape, columns, rows or classes do not fit, or `about` holds
            anything else.
    """
    program, look = training.program, Look(shape, columns, rows, classes)
    labels = np.asarray(program.labels[: program.num_data])
    names = dict(about or {})
    if unknown := {*names} - NAMED:
        raise ValueError(f"about={names}: {sorted(unknown)} must be among {sorted(NAMED)}")
    shown = _gather(program, program.args, program.kwargs, xr.DataArray(labels, dims="example"), look)
    if num_predictions:
        shown = shown.assign(predictions(training, num_predictions, "example", classes))
    shown = shown.assign_attrs(names)
    shown = _first(shown)
    queries = xr.DataArray(np.asarray(training.measure.queries), dims="query")
    parts = {"data": shown, "queries": xr.Dataset(coords={"query": queries.values})}
    if training.measure.asked is not None:
        args, kwargs = jax.tree.map(np.asarray, training.measure.asked)
        parts["queries"] = _gather(program, args, kwargs, queries, look)
    return xr.DataTree.from_dict(parts)


def _first(shown: xr.Dataset) -> xr.Dataset:
    """Keep as many of the first examples as there is room for."""
    number = shown.sizes["example"]
    most = MOST_BYTES * number // max(shown.nbytes, MOST_BYTES)
    if most == number:
        return shown
    text = f"all but the first {most} of {number} examples"
    texts = filter(None, [shown.attrs["left_out"], text])
    return shown.isel(example=slice(most)).assign_attrs(left_out="; ".join(texts))


def _gather(
    program: Program, args: tuple, kwargs: dict[str, Any], labels: xr.DataArray, look: Look
) -> xr.Dataset:
    """Return the looks of all arguments that have an entry for each label."""
    dim, number = str(labels.dims[0]), labels.size
    targets = _targets(program, args, kwargs, number)
    inputs = {
        name: leaf
        for name, leaf in _leaves(program, args, kwargs).items()
        if leaf.shape[:1] == (number,)
        and not any(np.array_equal(leaf, target) for target in targets.values())
    }
    images = {name: _as_images(leaf, look.shape) for name, leaf in inputs.items()}
    images = {name: array for name, array in images.items() if array is not None}
    if look.shape is not None and not images:
        shapes = {name: leaf.shape for name, leaf in inputs.items()}
        raise ValueError(f"shape={look.shape} fits no input: inputs have the shapes {shapes}")
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
    """Return the observed values of each site, with one entry per example."""
    model = handlers.seed(program.joint, jax.random.key(0))
    sites = handlers.trace(model).get_trace(*args, **kwargs)
    targets = {}
    for name in program.observed:
        fn, value, axis = program.layout.describe(sites[name])
        if value is not None:
            array = np.moveaxis(np.asarray(value), len(fn.batch_shape) + axis, 0)
            targets |= {name: array} if len(array) == number else {}
    return targets


def _as_images(leaf: np.ndarray, shape: Shape | None) -> np.ndarray | None:
    """Return the images that an input holds, if any, `(number, height, width, channel)`."""
    if shape is not None and math.prod(leaf.shape[1:]) == math.prod(shape):
        leaf = leaf.reshape(len(leaf), *shape)
    if leaf.ndim == 3:
        leaf = leaf[..., None]
    fits = leaf.ndim == 4 and leaf.shape[3] in (1, 3) and min(leaf.shape[1:3]) >= 2
    return leaf if fits and leaf.dtype.kind in "fiub" else None


def _thumbnails(images: Arrays, dim: str, left_out: list[str]) -> dict[str, xr.DataArray]:
    """Return thumbnails of the first input that holds images."""
    if not images:
        return {}
    (name, array), *others = images.items()
    left_out += [f"images of {other!r}" for other, _ in others]
    dims = (dim, "pixel_row", "pixel_column", "channel")
    return {"thumbnail": xr.DataArray(_shrunk(array), dims=dims, attrs={"input": name})}


def _shrunk(array: np.ndarray) -> UInt8[np.ndarray, "number row column channel"]:
    """Average pixels down to thumbnails; the darkest pixel of all is black, the brightest white."""
    step = max(1, math.ceil(max(array.shape[1:3]) / SIDE))
    pixels = xr.DataArray(array.astype(np.float32), dims=("number", "row", "column", "channel"))
    small = pixels.coarsen(row=step, column=step, boundary="pad").mean().values
    low, high = float(np.nanmin(small)), float(np.nanmax(small))
    scale = 255 / (high - low) if high > low else 0.0
    return np.round((np.nan_to_num(small, nan=low) - low) * scale).astype(np.uint8)


def _rows(
    inputs: Arrays, dim: str, columns: Sequence[str] | None, left_out: list[str]
) -> dict[str, xr.DataArray]:
    """Return the features as one table, if they are few and numeric."""
    named = [pair for name, leaf in inputs.items() for pair in _features(name, leaf)]
    if columns is not None and len(columns) != len(named):
        raise ValueError(f"columns={[*columns]} must name {len(named)} features")
    if not named:
        return {}
    if len(named) > MOST_COLUMNS:
        left_out.append(f"{len(named)} features of {[*inputs]} (if they are an image, pass shape=)")
        return {}
    table = np.stack([values for _, values in named], axis=1)
    names = [name for name, _ in named] if columns is None else [str(name) for name in columns]
    return {"row": xr.DataArray(table, {"column": names}, (dim, "column"))}


def _of_table(rows: pd.DataFrame, labels: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return the rows of a table by their labels, as numbers if all are."""
    missing = [label for label in labels.values.tolist() if label not in rows.index]
    if rows.shape[1] > MOST_COLUMNS:
        raise ValueError(f"rows has {rows.shape[1]} columns; pass {MOST_COLUMNS} or fewer of them")
    if missing or rows.index.has_duplicates:
        what = f"no row for {missing[:3]}" if missing else "two rows with the same label"
        raise ValueError(f"rows has {what}: its index must hold the label of each example and query")
    chosen = rows.loc[labels.values]
    numbers = all(pd.api.types.is_numeric_dtype(kind) for kind in chosen.dtypes)
    table = chosen.to_numpy(float) if numbers else chosen.astype(str).to_numpy(str)
    columns = [str(name) for name in chosen.columns]
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
    """Return the observed values: names of classes, or numbers by site."""
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
