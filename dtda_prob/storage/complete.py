"""Check which parts of a store are finished, missing or damaged."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from google_crc32c import value as crc32c

from dtda_prob.storage.documents import about, refuse, root_of
from dtda_prob.storage.errors import printable
from dtda_prob.storage.results import DONE, SECONDS
from dtda_prob.storage.safe import GIVE_UP, Array, Nodes, inspect, is_label
from dtda_prob.storage.store import writing

MAX_SIZE = 2**27
"""Largest size of a dimension for which finished positions are listed."""
COLUMNS = ("status", "file", "seconds")


def verify(path: str | Path) -> pd.DataFrame:
    """Read all files of a store, and compare them with their checksums.

    Args:
        path: folder of the store.

    Returns:
        A table by name and part: the index of a block on the grid of a result, or the path of an array
        without blocks (labels, weights, saved results). Columns are `status` ("finished", "unfinished"
        or "damaged"), the first damaged or missing `file`, and the `seconds` that the block took.

    Raises:
        StoreError: if it is not a store, or is not safe to open.
    """
    root = root_of(path)
    nodes = inspect(root, complete=False, chunks=False)
    rows = [row for name in names_of(nodes) for row in _rows(root, name, nodes)]
    return pd.DataFrame(rows, columns=["name", "part", *COLUMNS]).set_index(["name", "part"])


def repair(path: str | Path) -> pd.DataFrame:
    """Discard damaged blocks and labels of a study, so that the next call computes them again.

    Finished blocks stay. Results that `save` wrote must be saved again.

    Args:
        path: folder of the study.

    Returns:
        The table of `verify` before the repair.

    Raises:
        StoreError: if it is not a store, is not safe to open, or is being written by another process.
        OSError: if it cannot be written to.
    """
    root = root_of(path)
    with writing(root, {}):
        table = verify(root)
        for (name, part), row in table[table["status"] == "damaged"].iterrows():
            if isinstance(part, tuple):
                for record in (DONE, SECONDS):
                    (root / name / record / "c").joinpath(*map(str, part)).unlink(missing_ok=True)
            if isinstance(part, tuple) or is_grid(root, str(name)):
                (root / str(row["file"])).unlink(missing_ok=True)
    return table


def names_of(nodes: Nodes) -> list[str]:
    """Return the names of the results that a store lists."""
    root = nodes[""]
    assert isinstance(root, dict)
    return sorted(path for path in root["consolidated_metadata"]["metadata"] if "/" not in path)


def check_complete(root: Path, name: str, nodes: Nodes) -> None:
    """Raise StoreError if files of finished blocks or of labels are missing."""
    for file, _ in files_of(root, name, nodes):
        if not (root / file).exists():
            refuse(file, "is missing", GIVE_UP)


def done_counts(root: Path, name: str, nodes: Nodes) -> np.ndarray:
    """Read how much of each block is done, from the existing files."""
    record = nodes[f"{name}/{DONE}"]
    assert isinstance(record, Array)
    counts = np.zeros(record.shape, np.int64)
    for place, data in _records(root / name / DONE, record):
        counts[place] = int.from_bytes(data[:4], "little")
    return counts


def finished(name: str, counts: np.ndarray, block: Mapping[str, int], size: int) -> np.ndarray:
    """Return which of `size` positions of the first dimension are done along all others."""
    step = next(iter(block.values()))
    number = -(-size // step)
    if size > MAX_SIZE or number > len(counts):
        refuse(f"{name}/{DONE}", f"is a record of {len(counts)} blocks of {step}, for {size} positions")
    each = counts.reshape(len(counts), -1).min(1, initial=step)[:number]
    place = np.arange(size)
    return place % step < each[place // step]


def files_of(root: Path, name: str, nodes: Nodes) -> Iterator[tuple[str, tuple[int, ...] | str]]:
    """Yield the files of chunks that should exist, each with its block or the path of its array."""
    grid = [dim.removesuffix("_block") for dim in _record_dims(name, nodes)]
    counts = done_counts(root, name, nodes) if grid else np.zeros(())
    for path, array in nodes.items():
        if not isinstance(array, Array) or path.partition("/")[0] != name or "/blocks/" in path:
            continue
        axes = {dim: axis for axis, dim in enumerate(array.dims) if dim in grid}
        whole = not axes or is_label(path, array)
        for chunk in np.ndindex(array.counts):
            file = "/".join([path, "c", *map(str, chunk)])
            if whole:
                yield file, path
                continue
            where = tuple(
                slice(chunk[axes[dim]], chunk[axes[dim]] + 1) if dim in axes else slice(None)
                for dim in grid
            )
            done = np.argwhere(counts[where] > 0)
            if len(done):  # reported for the first of the blocks that share the file
                yield (
                    file,
                    tuple(int(i + (part.start or 0)) for i, part in zip(done[0], where, strict=True)),
                )


def is_whole(data: bytes) -> bool:
    """Return whether the bytes of a chunk match their checksum."""
    return len(data) >= 4 and crc32c(data[:-4]) == int.from_bytes(data[-4:], "little")


def is_grid(root: Path, name: str) -> bool:
    """Return whether a name is a result in blocks, rather than one that `save` wrote."""
    return (root / name / DONE).exists()


def _record_dims(name: str, nodes: Nodes) -> tuple[str, ...]:
    record = nodes.get(f"{name}/{DONE}")
    return record.dims if isinstance(record, Array) else ()


def _rows(root: Path, name: str, nodes: Nodes) -> Iterator[tuple]:
    """Yield the row of each block, and of each array without blocks."""
    damaged: dict[tuple[int, ...] | str, str] = {}
    parts: dict[tuple[int, ...] | str, None] = {}
    for file, part in files_of(root, name, nodes):
        parts[part] = None
        path = root / file
        if part not in damaged and not (path.is_file() and is_whole(path.read_bytes())):
            damaged[part] = file
    for part in [part for part in parts if isinstance(part, str)]:
        status = "damaged" if part in damaged else "finished"
        yield printable(name), part, status, damaged.get(part, ""), float("nan")
    if not _record_dims(name, nodes):
        return
    done, seconds = done_counts(root, name, nodes), seconds_of(root, name, nodes)
    record = nodes[f"{name}/{DONE}"]
    assert isinstance(record, Array)
    for place in np.ndindex(done.shape):
        file = "/".join(["c", *map(str, place)])
        broken = file in record.files and not done[place]
        bad = f"{name}/{DONE}/{file}" if broken else damaged.get(place, "")
        status = "damaged" if bad else "finished" if done[place] else "unfinished"
        inside = all(i < n for i, n in zip(place, seconds.shape, strict=True))
        yield name, place, status, bad, float(seconds[place]) if inside else float("nan")


def seconds_of(root: Path, name: str, nodes: Nodes) -> np.ndarray:
    """Read how many seconds each block took, NaN if unknown."""
    record = nodes[f"{name}/{SECONDS}"]
    assert isinstance(record, Array)
    seconds = np.full(record.shape, np.nan)
    for place, data in _records(root / name / SECONDS, record):
        seconds[place] = np.frombuffer(data[:4], "<f4")[0]
    return seconds


def _records(folder: Path, record: Array) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Yield the intact files of a record, each with the index of its block."""
    for file in record.files:
        place, data = tuple(map(int, file.split("/")[1:])), (folder / file).read_bytes()
        if is_whole(data) and all(i < n for i, n in zip(place, record.shape, strict=True)):
            yield place, data


def description(nodes: Nodes, name: str = "") -> dict:
    """Return our own description of a store, or of a result in it."""
    node = nodes[name]
    return about(node) if isinstance(node, dict) else {}
