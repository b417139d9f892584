"""A study: a store that belongs to one program and its data, and holds what was drawn of it by name."""

import json
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from dtda_prob.fingerprints import differences, of_program, other_versions, versions
from dtda_prob.fingerprints.digests import of_labels
from dtda_prob.outcomes.draws import finish
from dtda_prob.outcomes.shards import Shard
from dtda_prob.program import Program
from dtda_prob.storage import (
    ATTRIBUTE,
    FORMAT,
    Growing,
    StoreError,
    add,
    check_name,
    description,
    growing,
    inspect,
    names_in,
    writing,
)
from dtda_prob.typing import PRNGKey


class Place(NamedTuple):
    """Where something of a study is kept, and where it is computed.

    Attributes:
        store: folder of the store.
        name: of the sample set, or scores, in it.
        engine: see `sample`.
        progress: whether to show a bar.
    """

    store: Path
    name: str
    engine: Any
    progress: bool

    def __str__(self) -> str:
        return f"name={self.name!r} in store={str(self.store)!r}"


@contextmanager
def study(place: Place, program: Program) -> Generator[None]:
    """Hold the store of a program's study for writing; make it if it does not exist.

    Raises:
        ValueError: for a bad name.
        StoreError: if the store belongs to another program or other data, is damaged, or in use.
        OSError: if it cannot be written to.
    """
    check_name(place.name)
    path, here = place.store, of_program(program) | {"versions": versions()}
    if path.exists():
        inspect(path)
    with writing(path, {ATTRIBUTE: json.dumps({"format": FORMAT} | here)}):
        stored = description(path)
        if "model" not in stored:
            raise StoreError(
                f"store={str(path)!r} is no study, but what dtda.save or something else wrote; "
                "nothing can be added to it: name another folder"
            )
        if found := differences(stored, here):
            raise StoreError(
                f"store={str(path)!r} is that of another program or other data: {'; '.join(found)}. "
                "Name another store, or go on with what it was begun with"
            )
        _warn_of_versions(path, stored, here)
        yield


def group_of(
    place: Place,
    here: dict[str, Any],
    template: Callable[[], xr.DataTree],
    blocks: dict[str, int],
    chunks: dict[str, int] | None = None,
) -> Growing:
    """Open a group of a study, or add it.

    Args:
        place: where it is.
        here: what identifies it, such as JSON can hold.
        template: makes a tree with all variables, which are laid out so if it is new.
        blocks: by dimension that grows, the size of a shard.
        chunks: the same of a file, where a shard is several.

    Raises:
        StoreError: if something else has this name.
    """
    if is_there(place, here):
        return growing(place.store, place.name)
    tree = template()
    about = json.loads(tree.attrs.get(ATTRIBUTE, "{}")) | here | {"blocks": blocks}
    return add(place.store, place.name, tree, blocks, json.dumps(about), chunks)


def is_there(place: Place, here: dict[str, Any]) -> bool:
    """Say whether a study has a group of this name, which must be identified alike.

    Raises:
        StoreError: if something else has this name.
    """
    if place.name not in names_in(place.store):
        return False
    stored = description(place.store, place.name)
    begun = description(place.store).get("versions")
    found = differences(stored | {"versions": begun}, here | {"versions": versions()})
    refuse(place, found + _others(stored, here))
    return True


def refuse(place: Place, found: Sequence[str]) -> None:
    """Say what differs, if anything does.

    Raises:
        StoreError: with what was found.
    """
    if found:
        raise StoreError(f"{place}: {'; '.join(found)}. Choose another name, or ask for the same")


def finish_group(
    place: Place,
    task: Callable[[Shard], int],
    shards: Sequence[Shard],
    group: Growing,
    wanted: dict[str, int],
) -> None:
    """Have shards of a group finished, and let readers see them as they are."""

    def show() -> None:
        group.publish(group.ready(wanted))

    show_at_leisure = _at_leisure(show)

    def done(shard: Shard, num_diverging: int) -> int:
        show_at_leisure()
        return num_diverging

    so_far = f"are safe as {place}; call the same again to go on"
    try:
        finish(task, shards, done, so_far, place.engine, place.progress)
    finally:
        show()


def _at_leisure(action: Callable[[], None]) -> Callable[[], None]:
    """Give what does it when it is called, but spends no more than a twentieth of the time on it."""
    due = 0.0

    def act() -> None:
        nonlocal due
        start = time.monotonic()
        if start >= due:
            action()
            due = start + 20 * (time.monotonic() - start)

    return act


def key_words(key: PRNGKey | None) -> list[int] | None:
    """Give a key as JSON can hold it."""
    return None if key is None else np.asarray(jax.random.key_data(key)).tolist()


def weights_words(weights: xr.DataArray) -> dict[str, Any]:
    """Identify perturbations, with their names and what weight 0 means, as JSON can hold it."""
    values, labels = weights.values, weights[str(weights.dims[0])].values
    return {"perturbations": [digest(values), of_labels(labels)], "removal": removal_of(weights)}


def removal_of(weights: xr.DataArray) -> str:
    """Give what weight 0 means in a retraining."""
    return weights.attrs.get("removal", "reweight")


def digest(array: Any) -> str | None:
    """Give the bytes of an array as a short text, None for None."""
    if array is None:
        return None
    return blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()


FIXED = (
    "kind",
    "key",
    "new_key",
    "shared",
    "num_chains",
    "num_draws",
    "direction",
    "divergences",
    "trials",
    "options",
    "old",
    "centre",
    "perturbations",
    "removal",
)
"""What must be the same in a group, beside the program and the source."""
WORDS = {
    "trials": "divergences: one is another function, or has other settings, than that of its name",
    "old": "old: the push starts at other weights",
    "centre": (
        "the response is taken at the centre of the perturbations, which others move (to add "
        "perturbations later, expand it at weights of your own, at=...)"
    ),
    "perturbations": "perturbations are others than those stored",
}


def _others(stored: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Name what differs beside the program and the source."""
    other = [field for field in FIXED if stored.get(field) != here.get(field)]
    # Things of two kinds have little in common that could differ.
    named = other[:1] if "kind" in other else other
    return [
        WORDS.get(field, f"{field} is {here.get(field)}, stored {stored.get(field)}")
        for field in named
        if field != "trials" or "divergences" not in named
    ]


def _warn_of_versions(path: Path, stored: dict[str, Any], here: dict[str, Any]) -> None:
    if found := other_versions(stored, here):
        warnings.warn(
            f"store={str(path)!r} was begun with others: {'; '.join(found)}. What is added "
            "may differ by rounding",
            RuntimeWarning,
            stacklevel=4,
        )
