"""Whether a store can be opened without harm, told from its metadata and the sizes of its files."""

from pathlib import Path

from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.inspection.coordinates import check_alignment, check_coordinates
from dtda_prob.storage.inspection.documents import COPY_AGAIN, MAX_ROOT_BYTES, read_document
from dtda_prob.storage.inspection.folders import joined, root_of
from dtda_prob.storage.inspection.metadata_rules import Declared
from dtda_prob.storage.inspection.published import ZARR, Nodes, published_nodes
from dtda_prob.storage.inspection.written import written_nodes


def inspect(path: str | Path, *, max_bytes: int = 2**30, whole: bool = True) -> None:
    """Refuse a store that could run code, leave its folder or exhaust memory when xarray opens it.

    Reads metadata, names and sizes of files, and the first four bytes of chunks of strings. Then
    `xarray.open_datatree(path, engine="zarr")` opens the store as it stood at the time, in up to about
    five times `max_bytes` of memory. Whoever can write to the store while it is open can still do harm.

    Args:
        path: the folder of a store; it may be a link, nothing inside it may.
        max_bytes: most bytes that a chunk may have, and that all coordinates, which opening loads, may
            have together.
        whole: whether files of numbers that are truncated are refused, too.

    Raises:
        StoreError: if the store is damaged, foreign or dangerous; names the place inside the store.
        FileNotFoundError: if there is nothing at `path`.
        NotADirectoryError: if there is a file at `path`.
    """
    root = root_of(path)
    published = published_nodes(read_document(root / ZARR, ZARR, MAX_ROOT_BYTES), max_bytes)
    check_coordinates(_arrays(published), max_bytes)
    check_alignment(_arrays(published))
    written = written_nodes(root, max_bytes, whole)
    check_coordinates(_arrays(written), max_bytes)
    for node in published:
        _compare(node, published[node], written)


def _arrays(nodes: Nodes) -> dict[str, Declared]:
    return {path: node for path, node in nodes.items() if node is not None}


def _compare(path: str, published: Declared | None, written: Nodes) -> None:
    place = joined(path, ZARR)
    if path not in written:
        raise StoreError(f"{place!r} is missing, though {ZARR!r} lists it; {COPY_AGAIN}")
    if not _agree(published, written[path]):
        raise StoreError(
            f"{place!r} and {ZARR!r} disagree: {_shown(written[path])}, and {_shown(published)}; "
            f"{COPY_AGAIN}"
        )


def _agree(published: Declared | None, own: Declared | None) -> bool:
    """Allow an array to be larger than what is published of it: more of it is being written."""
    if published is None or own is None:
        return published is own
    larger = all(theirs <= mine for theirs, mine in zip(published.shape, own.shape, strict=False))
    return larger and published == own._replace(shape=published.shape)


def _shown(node: Declared | None) -> str:
    return "a group" if node is None else str(node)
