"""What the root of a store says of all its nodes, which is what readers go by."""

from dtda_prob.storage.errors import StoreError
from dtda_prob.storage.inspection.documents import COPY_AGAIN, Document
from dtda_prob.storage.inspection.folders import RE_SAVE
from dtda_prob.storage.inspection.metadata_rules import Declared, check_node, refuse_inner_listing

ZARR = "zarr.json"
MAX_NODES = 10_000
MAX_LEVELS = 32
LISTING_FIELDS = {"kind", "must_understand", "metadata"}

type Nodes = dict[str, Declared | None]


def published_nodes(document: Document, max_bytes: int) -> Nodes:
    """Check the root's metadata; give what each array declares, by path, and None for each group."""
    if check_node(ZARR, document, max_bytes) is not None:
        raise StoreError(f"{ZARR!r} is that of an array, not of a group; give the whole store's folder")
    listing = _listing(document.get("consolidated_metadata"))
    check_number(len(listing))
    nodes: Nodes = {"": None}
    for path in sorted(listing, key=lambda path: path.count("/")):
        _check_name(path, nodes)
        nodes[path] = _node(f"{ZARR}: {path}", listing[path], max_bytes)
    return nodes


def check_number(num_nodes: int) -> None:
    """Bound the number of nodes, for each of which zarr and xarray make objects."""
    if num_nodes > MAX_NODES:
        raise StoreError(
            f"{ZARR!r}: the store has {num_nodes} nodes, more than {MAX_NODES}; split it up"
        )


def _listing(consolidated: object) -> Document:
    if consolidated is None:
        then = f"run zarr.consolidate_metadata, or {RE_SAVE}"
        raise StoreError(f"{ZARR!r} has no consolidated metadata; {then}")
    if not isinstance(consolidated, dict) or consolidated.get("kind") != "inline":
        raise StoreError(f"{ZARR!r} has consolidated metadata that are not inline; {RE_SAVE}")
    listing = consolidated.get("metadata")
    if consolidated.keys() - LISTING_FIELDS or not isinstance(listing, dict):
        raise StoreError(f"{ZARR!r} has consolidated metadata without a list of nodes; {COPY_AGAIN}")
    return listing


def _check_name(path: str, nodes: Nodes) -> None:
    """Allow names that are one folder each, below a group that is there."""
    parts, parent = path.split("/"), path.rpartition("/")[0]
    if not all(map(_is_name, parts)) or len(parts) > MAX_LEVELS:
        raise StoreError(
            f"{ZARR!r} lists a node {path!r}, whose name is no path inside the store; {COPY_AGAIN}"
        )
    if parent not in nodes or nodes[parent] is not None:
        raise StoreError(f"{ZARR!r} lists a node {path!r} that is in no group; {COPY_AGAIN}")


def _is_name(name: str) -> bool:
    return name.isprintable() and "\\" not in name and name not in ("", ".", "..", ZARR)


def _node(place: str, document: object, max_bytes: int) -> Declared | None:
    if not isinstance(document, dict):
        raise StoreError(f"{place!r} is a {type(document).__name__}, not a JSON object; {COPY_AGAIN}")
    refuse_inner_listing(place, document)
    return check_node(place, document, max_bytes)
