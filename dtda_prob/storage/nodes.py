"""The JSON that describes groups and arrays on disk, read and replaced as a whole."""

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NODE = "zarr.json"
ATTRIBUTE = "dtda_prob"
"""Name of the attribute that holds our own description, as JSON."""

FORMAT = 2
"""Of stores that this version writes and reads."""

Metadata = dict[str, Any]


def read_node(folder: Path) -> Metadata:
    """Read what describes a group or an array."""
    return json.loads((folder / NODE).read_bytes())


def write_node(folder: Path, metadata: Metadata) -> None:
    """Replace what describes a group or an array; whoever reads sees the old or the new."""
    partial = folder / f".{NODE}.{uuid.uuid4().hex}.partial"
    try:
        partial.write_text(json.dumps(metadata))
        os.replace(partial, folder / NODE)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def description(store: Path, name: str = "") -> dict[str, Any]:
    """Read what a store, or a result in it, says of itself."""
    return about(read_node(store / name))


def nodes_under(folder: Path, path: str = ".") -> Iterator[tuple[str, Metadata]]:
    """Return the path, relative to a folder, and the description of all groups and arrays in it."""
    node = read_node(folder / path)
    yield path, node
    # The folders of an array hold its chunks, however many there are.
    if node["node_type"] == "group":
        inner = (file.parent for file in (folder / path).glob(f"*/{NODE}"))
        for child in sorted(inner):
            yield from nodes_under(folder, child.relative_to(folder).as_posix())


def published(root: Metadata) -> dict[str, Metadata]:
    """Return the root's description of all groups and arrays, which xarray opens."""
    return root["consolidated_metadata"]["metadata"]


def root_node(attributes: dict[str, str]) -> Metadata:
    """Describe a store without groups."""
    listed = {"kind": "inline", "must_understand": False, "metadata": {}}
    return group_node(attributes) | {"consolidated_metadata": listed}


def group_node(attributes: dict[str, str]) -> Metadata:
    """Describe a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def dims_in(metadata: Metadata) -> list[str]:
    """Name the dimensions of an array; one that has none does not list them."""
    return metadata.get("dimension_names") or []


def about(metadata: Metadata) -> dict[str, Any]:
    """Read our own description of a store or a group."""
    return json.loads(metadata["attributes"].get(ATTRIBUTE, "{}"))
