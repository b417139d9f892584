"""What the nodes of a store say of themselves, and the files of their chunks, in one walk."""

from pathlib import Path

from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.inspection.chunk_files import check_chunk, is_chunk
from dtda_prob.storage.inspection.coordinates import is_index
from dtda_prob.storage.inspection.documents import COPY_AGAIN, MAX_BYTES, MAX_ROOT_BYTES, read_document
from dtda_prob.storage.inspection.folders import Folder, folders, joined
from dtda_prob.storage.inspection.metadata_rules import Declared, check_node, refuse_inner_listing
from dtda_prob.storage.inspection.published import ZARR, Nodes, check_number


def written_nodes(root: Path, max_bytes: int, whole: bool) -> Nodes:
    """Check all folders; give what each array declares, by path, and None for each group."""
    nodes: Nodes = {}
    owners: dict[str, tuple[str, Declared]] = {}  # the arrays that folders belong to
    text = 0
    for folder in folders(root):
        owner = owners.get(folder.path.rpartition("/")[0]) if folder.path else None
        if ZARR in folder.files:
            _refuse_inside(folder.path, owner)
            nodes[folder.path] = node = _node(root, folder.path, max_bytes)
            owner = None if node is None else (folder.path, node)
            check_number(len(nodes))
        if owner is not None:
            owners[folder.path] = owner
            text += _check_chunks(root, folder, *owner, max_bytes, whole)
            _bound_text(owner[0], text, max_bytes)
    return nodes


def _refuse_inside(path: str, owner: tuple[str, Declared] | None) -> None:
    if owner is not None:
        place = joined(path, ZARR)
        raise StoreError(f"{place!r} is a node inside the array {owner[0]!r}; {COPY_AGAIN}")


def _node(root: Path, path: str, max_bytes: int) -> Declared | None:
    place = joined(path, ZARR)
    document = read_document(root / place, place, MAX_BYTES if path else MAX_ROOT_BYTES)
    if path:
        refuse_inner_listing(place, document)
    return check_node(place, document, max_bytes)


def _check_chunks(
    root: Path, folder: Folder, path: str, array: Declared, max_bytes: int, whole: bool
) -> int:
    """Check the chunks in a folder of an array; give their bytes if they are a coordinate's strings."""
    total = 0
    for name, size in folder.files.items():
        place = joined(folder.path, name)
        if is_chunk(array, place.removeprefix(f"{path}/")):
            check_chunk(root / place, place, array, size, max_bytes, whole)
            total += size
    return total if array.kind == "string" and is_index(path, array) else 0


def _bound_text(path: str, text: int, max_bytes: int) -> None:
    if text > max_bytes:
        raise StoreError(
            f"{path!r} is a coordinate, which opening loads: with those before it {text} bytes of "
            f"strings, more than max_bytes={max_bytes}; raise max_bytes if you trust the store"
        )
