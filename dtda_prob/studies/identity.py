"""What identifies a study and its results, and how differences are told."""

import json
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dtda_prob.fingerprints import differences, other_versions, versions
from dtda_prob.fingerprints import of_program as of_program
from dtda_prob.fingerprints import of_source as of_source
from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.growing import description
from dtda_prob.storage.inspection import inspect
from dtda_prob.storage.nodes import ATTRIBUTE, FORMAT
from dtda_prob.storage.results import Result, encoded
from dtda_prob.storage.store import writing


@contextmanager
def study(path: Path, program: dict[str, Any]) -> Generator[None]:
    """Hold the store of a program's study for writing; make it if it does not exist.

    Raises:
        StoreError: if the store belongs to another program or other data, is damaged, or in use.
        OSError: if it cannot be written to.
    """
    here = program | {"versions": versions()}
    if path.exists():
        inspect(path)
    with writing(path, {ATTRIBUTE: json.dumps({"format": FORMAT} | here)}):
        stored = description(path)
        if "versions" not in stored:
            raise StoreError(
                f"store={str(path)!r} is no study, but what dtda.save or something else wrote; "
                "nothing can be added to it: name another folder"
            )
        if program and (told := differences(stored, here)):
            raise StoreError(
                f"store={str(path)!r} is that of another program or other data: {'; '.join(told)}. "
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


def refuse_others(where: Any, result: Result, identity: dict[str, Any], task: Any) -> None:
    """Refuse a result that is computed from something else, or on another grid.

    Raises:
        StoreError: with a sentence for each difference.
    """
    about = result.about()
    begun = {"versions": description(result.store).get("versions")}
    told = differences(about | begun, identity | {"versions": versions()})
    told += [
        f"{part} is {identity[part]}, stored {about.get(part)}"
        for part in identity
        if part not in TRACED and about.get(part) != identity[part]
    ]
    told = told or _other_grid(result, task)
    if told:
        raise StoreError(f"{where}: {'; '.join(told)}. Choose another name, or ask for the same")


TRACED = ("transform", "at", "measure", "queries", "observe", "kernel", "training", "push")


def _other_grid(result: Result, task: Any) -> list[str]:
    shape = result.shape()
    if tuple(shape) != tuple(task.dims):
        return [f"it has dimensions {tuple(task.dims)}, stored {tuple(shape)}"]
    others = dict(zip(task.dims[1:], task.shape[1:], strict=True))
    told = [
        f"there are {size} along {dim!r}, stored {shape[dim]}"
        for dim, size in others.items()
        if shape[dim] != size
    ]
    return told or _other_labels(result, task)


def _other_labels(result: Result, task: Any) -> list[str]:
    """Compare the labels of all dimensions but the first, which can grow."""
    for path, values in result.fixed():
        name = path.rpartition("/")[2]
        if name in task.coords.coords and task.dims[0] not in task.coords[name].dims:
            here = encoded(name, task.coords[name].variable).values
            if values.shape != here.shape or not np.array_equal(values.astype(here.dtype), here):
                return [f"the labels of {name!r} are others than those stored"]
    return []
