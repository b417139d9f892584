"""Is a study what was written: every shard read again, and those that are damaged given up."""

from pathlib import Path

import numpy as np
import pandas as pd

from dtda_prob.storage.growing import FACTS, Growing, description, growing
from dtda_prob.storage.inspection import inspect
from dtda_prob.storage.store import names_in, writing


def verify(path: str | Path) -> pd.DataFrame:
    """Read all shards of a study, and compare them with what was recorded as they were finished.

    Args:
        path: folder of the study.

    Returns:
        A table by name and shard with `status` ("finished", "unfinished" or "damaged"), what it holds
        along the dimensions that grow, `num_diverging`, and `milliseconds` that it took.

    Raises:
        StoreError: if it is no store, or is not safe to open.
    """
    path = Path(path)
    inspect(path)
    rows = [row for name in names_in(path) if _grows(path, name) for row in _rows(growing(path, name))]
    return pd.DataFrame(rows).set_index(["name", "shard"]) if rows else pd.DataFrame(rows)


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


def _grows(path: Path, name: str) -> bool:
    return "blocks" in description(path, name)


def _rows(group: Growing) -> list[dict]:
    record = group.finished()
    names = [*group.blocks, *FACTS]
    return [
        {"name": group.name, "shard": place, "status": _status(group, place, record[place][0])}
        | dict(zip(names, map(int, record[place][1:]), strict=True))
        for place in np.ndindex(*record.shape[:-1])
    ]


def _status(group: Growing, place: tuple[int, ...], checksum: int) -> str:
    if checksum == 0:
        return "unfinished"
    return "damaged" if group.damaged(place) else "finished"
