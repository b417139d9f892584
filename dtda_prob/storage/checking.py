"""Is a study what was written: every shard read again, and those that are damaged given up."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from dtda_prob.storage.growing import FACTS, Growing, description, growing
from dtda_prob.storage.inspection import inspect
from dtda_prob.storage.store import names_in, writing

COLUMNS = ("status", "holds", *FACTS)


def verify(path: str | Path) -> pd.DataFrame:
    """Read all shards of a study, and compare them with what was recorded as they were finished.

    Args:
        path: folder of the study.

    Returns:
        A table by name and shard with `status` ("finished", "unfinished" or "damaged"), what it `holds`
        along the dimensions that grow, `num_diverging`, and the `milliseconds` that it took.

    Raises:
        StoreError: if it is no store, or is not safe to open.
    """
    path = Path(path)
    inspect(path, whole=False)
    names = [name for name in names_in(path) if "blocks" in description(path, name)]
    rows = [_row(growing(path, name), place) for name in names for place in _places(path, name)]
    return pd.DataFrame(rows, columns=["name", "shard", *COLUMNS]).set_index(["name", "shard"])


def repair(path: str | Path) -> pd.DataFrame:
    """Take damaged shards of a study for not finished, so that the next call draws them again.

    What is finished stays. Readers see what is finished from the start on; what comes after a damaged
    shard is seen again when that has been drawn.

    Args:
        path: folder of the study.

    Returns:
        What `verify` gave before.

    Raises:
        StoreError: if it is no store, is not safe to open, or is being written by another process.
        OSError: if it cannot be written to.
    """
    path = Path(path)
    found = verify(path)
    with writing(path, {}):
        for name, place in found.index[found["status"] == "damaged"]:
            growing(path, name).forget(place)
        for name in found.index.unique("name"):
            group = growing(path, name)
            group.publish(group.ready(group.shown()))
    return found


def _places(path: Path, name: str) -> Iterator[tuple[int, ...]]:
    return np.ndindex(*growing(path, name).num_blocks())


def _row(group: Growing, place: tuple[int, ...]) -> tuple:
    """Read a shard, and say what became of it."""
    if group.is_damaged(place):
        return group.name, place, "damaged", "", 0, 0
    checksum, *rest = group.record(place)
    sizes = zip(group.blocks, rest, strict=False)
    holds = ", ".join(f"{dim}: {size}" for dim, size in sizes)
    status = "finished" if checksum else "unfinished"
    return group.name, place, status, holds, *rest[len(group.blocks) :]
