"""A study: a store that belongs to one program and its data, and holds results by name."""

import json
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dtda_prob.storage.documents import ATTRIBUTE, FORMAT, description
from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.results import Result, encoded
from dtda_prob.storage.safe import inspect
from dtda_prob.storage.store import is_blank, writing
from dtda_prob.studies.differences import differences, other_versions
from dtda_prob.studies.identity import surroundings, versions


@contextmanager
def study(path: Path, program: dict[str, Any]) -> Generator[None]:
    """Open the store of a program's study for writing; make it if it does not exist.

    Raises:
        StoreError: if the store belongs to another program or other data, is damaged, or in use.
        OSError: if it cannot be written to.
    """
    here = surroundings() | program | {"versions": versions()}
    if path.exists() and not is_blank(path):
        inspect(path, complete=False)
    with writing(path, {ATTRIBUTE: json.dumps({"format": FORMAT} | here)}):
        stored = description(path)
        if "versions" not in stored:
            raise StoreError(
                f"store={str(path)!r} is no study, but what dtda.save or something else wrote; "
                "nothing can be added to it: name another folder"
            )
        if told := differences(stored, here if program else surroundings()):
            raise StoreError(
                f"store={str(path)!r} belongs to another program or other data: {'; '.join(told)}. "
                "Name another store, or go on with what it was begun with"
            )
        if told := other_versions(stored, here):
            warnings.warn(
                f"store={str(path)!r} was begun with others: {'; '.join(told)}. What is added "
                "may differ by rounding",
                RuntimeWarning,
                stacklevel=5,
            )
        yield


def check_same(where: Any, result: Result, task: Any) -> None:
    """Refuse a result that is computed from something else, or on another grid.

    Raises:
        StoreError: with a sentence for each difference.
    """
    identity = json.loads(json.dumps(task.identity))
    begun = {"versions": description(result.store).get("versions")}
    told = differences(result.about() | begun, identity | {"versions": versions()})
    if told := told or _other_grid(result, task) or _other_labels(result, task):
        raise StoreError(f"{where}: {'; '.join(told)}. Choose another name, or ask for the same")


def _other_grid(result: Result, task: Any) -> list[str]:
    shape = result.shape()
    if tuple(shape) != tuple(task.dims):
        return [f"it has dimensions {tuple(task.dims)}, stored {tuple(shape)}"]
    others = dict(zip(task.dims[1:], task.shape[1:], strict=True))
    return [
        f"there are {size} along {dim!r}, stored {shape[dim]} (only draws can be added)"
        for dim, size in others.items()
        if shape[dim] != size
    ]


def _other_labels(result: Result, task: Any) -> list[str]:
    """Compare labels of all dimensions but the first, which can grow; write again what is missing."""
    coords = {name: coord for name, coord in task.coords.coords.items() if coord.dims}
    for path, name in result.labels():
        if name in coords and task.dims[0] not in coords[name].dims:
            here = encoded(str(name), coords[name].variable)
            stored = result.label(path, here)
            if stored.shape != here.shape or not np.array_equal(
                stored, here.values.astype(stored.dtype)
            ):
                return [f"the labels of {name!r} are others than those stored"]
    return []
