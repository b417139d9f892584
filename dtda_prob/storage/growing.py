"""A group of a store that grows: shards are written as they finish, and published when they fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import UInt64

from dtda_prob.storage.arrays import (
    Sizes,
    checksum,
    create_array,
    drop_unreadable,
    extents_of,
    grow_arrays,
    open_group,
    read_block,
    select,
    variables_of,
    write_array,
    write_arrays,
)
from dtda_prob.storage.nodes import (
    Metadata,
    about,
    dims_in,
    nodes_under,
    published,
    read_node,
    write_node,
)

RECORD = "shards/finished"
FACTS = ("num_diverging", "milliseconds")


class Growing(NamedTuple):
    """A group whose arrays grow, in blocks, along one or two dimensions.

    Its arrays are as large as what was asked for. What the root of the store says of them, which is
    what xarray opens, is as large as what is finished.

    Attributes:
        store: folder of the store.
        name: name of the group.
        blocks: by dimension that grows, the size of a block.
    """

    store: Path
    name: str
    blocks: dict[str, int]

    def lay_out(self, template: xr.DataTree, attributes: dict[str, Any], chunks: Sizes) -> None:
        """Make all arrays, empty along the dimensions that grow, and write those that do not.

        Args:
            template: a tree with all variables; only its sizes along other dimensions count.
            attributes: of the group.
            chunks: extents of a file along the dimensions that grow.
        """
        group = open_group(self.store, self.name)
        group.attrs.update({str(name): value for name, value in template.attrs.items()} | attributes)
        for path, variable in variables_of(template):
            create_array(group, path, variable, chunks)
            if not set(variable.dims) & set(self.blocks):
                write_array(group, path, variable, [0] * variable.ndim)
        for name, part in template.children.items():
            group.require_group(name).attrs.update(part.to_dataset().attrs)
        facts = ["checksum", *self.blocks, *FACTS]
        dims = [*(f"{dim}_block" for dim in self.blocks), "fact"]
        record = xr.Variable(dims, np.zeros([1] * len(self.blocks) + [len(facts)], np.uint64))
        create_array(group, RECORD, record, dict.fromkeys(dims[:-1], 1))
        names = xr.Variable("fact", np.asarray(facts))
        create_array(group, "shards/fact", names, {})
        write_array(group, "shards/fact", names, [0])

    def grow(self, extents: Sizes) -> None:
        """Make room for so much along the dimensions that grow."""
        grow_arrays(open_group(self.store, self.name), self._with_blocks(extents))

    def write(self, block: xr.DataTree, first: Sizes) -> None:
        """Write a block that starts there."""
        write_arrays(open_group(self.store, self.name), block, self.blocks, first)

    def read(self, path: str, place: Sequence[int], sizes: Sizes) -> np.ndarray:
        """Read a shard of an array."""
        return read_block(open_group(self.store, self.name), path, self._first(place), sizes)

    def select(self, path: str, where: dict[str, slice]) -> np.ndarray:
        """Read some of an array, all of it along the dimensions that are not named."""
        return select(open_group(self.store, self.name), path, where)

    def finish(self, place: Sequence[int], sizes: Sizes, facts: dict[str, int]) -> None:
        """Record that a shard is finished, in one file: from now on it counts."""
        group = open_group(self.store, self.name)
        total = checksum(group, self.blocks, self._first(place), sizes)
        row = [total, *(sizes[dim] for dim in self.blocks), *(facts[name] for name in FACTS)]
        values = np.asarray(row, np.uint64).reshape([1] * len(place) + [len(row)])
        dims = [*(f"{dim}_block" for dim in self.blocks), "fact"]
        write_array(group, RECORD, xr.Variable(dims, values), [*place, 0])

    def finished(self) -> UInt64[np.ndarray, "*block fact"]:
        """Give the record of all shards; a checksum of 0 says that a shard is not finished."""
        return self.select(RECORD, {})

    def record(self, place: tuple[int, ...]) -> list[int]:
        """Give the record of one shard."""
        return self.select(RECORD, self._where(place)).ravel().tolist()

    def num_diverging(self, place: tuple[int, ...], sizes: Sizes) -> int | None:
        """Give the number of diverging draws of a shard, if so much of it is finished; else None."""
        total, *rest = self.record(place)
        enough = all(n >= sizes[dim] for dim, n in zip(self.blocks, rest, strict=False))
        return rest[len(self.blocks)] if total and enough else None

    def sizes(self) -> UInt64[np.ndarray, "*block dimension"]:
        """Give how much of each shard is finished along each dimension that grows."""
        return self.finished()[..., 1 : 1 + len(self.blocks)]

    def facts(self, name: str) -> UInt64[np.ndarray, "*block"]:
        """Give one of the numbers that are recorded of each shard."""
        return self.finished()[..., 1 + len(self.blocks) + FACTS.index(name)]

    def is_damaged(self, place: tuple[int, ...]) -> bool:
        """Say whether a finished shard is not what was written."""
        group = open_group(self.store, self.name)
        try:
            total, *rest = self.record(place)
            sizes = dict(zip(self.blocks, rest, strict=False))
            return total != 0 and checksum(group, self.blocks, self._first(place), sizes) != total
        except (ValueError, OSError, RuntimeError):
            return True

    def forget(self, place: tuple[int, ...]) -> None:
        """Take a shard for not finished, and remove what cannot be read of it."""
        folder = self.store / self.name
        (folder / RECORD / "c").joinpath(*map(str, place), "0").unlink(missing_ok=True)
        group, first = open_group(self.store, self.name), self._first(place)
        extents = extents_of(group)
        sizes = {dim: min(size, extents[dim] - first[dim]) for dim, size in self.blocks.items()}
        drop_unreadable(group, folder, self.blocks, first, sizes)

    def publish(self, extents: Sizes) -> None:
        """Let readers see so much, all at once."""
        root, shown = read_node(self.store), self._with_blocks(extents)
        for key in self._listed(root) or self._there():
            published(root)[key] = _cut(read_node(self.store / key), shown)
        write_node(self.store, root)

    def _listed(self, root: Metadata) -> list[str]:
        """Give the paths of the group, and of what it holds, that readers see."""
        inside = f"{self.name}/"
        return [key for key in published(root) if key == self.name or key.startswith(inside)]

    def _there(self) -> list[str]:
        """Give the same of what is on disk, which takes a walk over all files."""
        folder = self.store / self.name
        return [f"{self.name}/{path}".removesuffix("/.") for path, _ in nodes_under(folder)]

    def shown(self) -> dict[str, int]:
        """Give how much readers see along the dimensions that grow."""
        listed = published(read_node(self.store))
        extents = dict.fromkeys(self.blocks, 0)
        for path, node in listed.items():
            if path.startswith(f"{self.name}/") and node["node_type"] == "array":
                sizes = zip(dims_in(node), node["shape"], strict=True)
                extents |= {dim: size for dim, size in sizes if dim in extents}
        return extents

    def ready(self, wanted: Sizes) -> dict[str, int]:
        """Give how much readers can be shown: all that is wanted, or what is finished from the start.

        Along the second dimension readers see what they saw before, or at first what is wanted, until
        all is finished; nothing while there is nothing along the first, since its labels are not there.
        """
        first, *others = self.blocks
        shown = self.shown()
        across = {dim: shown[dim] or wanted[dim] for dim in others}
        all_of_it = {dim: wanted[dim] for dim in others}
        if self._leading(all_of_it) >= wanted[first]:
            return dict(wanted)
        leading = min(self._leading(across), wanted[first])
        return {first: leading, **(across if leading else dict.fromkeys(others, 0))}

    def _leading(self, across: Sizes) -> int:
        """Count what is finished, without a gap, along the first dimension."""
        sizes = self.sizes().astype(int)
        first, *others = self.blocks
        enough = np.ones(sizes.shape[:-1], bool)
        for axis, dim in enumerate(others, 1):
            starts = np.arange(sizes.shape[axis]) * self.blocks[dim]
            needed = np.clip(across[dim] - starts, 0, self.blocks[dim])
            enough &= sizes[..., axis] >= needed
            sizes = sizes[:, needed > 0]
            enough = enough[:, needed > 0]
        rows = np.where(enough, sizes[..., 0], 0).reshape(len(sizes), -1).min(1)
        whole = np.cumprod(np.r_[1, rows >= self.blocks[first]])[: len(rows)]
        return int((rows * whole).sum())

    def _where(self, place: Sequence[int]) -> dict[str, slice]:
        return {f"{dim}_block": slice(n, n + 1) for dim, n in zip(self.blocks, place, strict=True)}

    def num_blocks(self) -> tuple[int, ...]:
        """Count the shards along each dimension that grows, finished or not."""
        extents = extents_of(open_group(self.store, self.name))
        return tuple(extents[f"{dim}_block"] for dim in self.blocks)

    def _first(self, place: Sequence[int]) -> dict[str, int]:
        return {dim: n * size for (dim, size), n in zip(self.blocks.items(), place, strict=True)}

    def _with_blocks(self, extents: Sizes) -> dict[str, int]:
        counts = {f"{dim}_block": -(-extents[dim] // size) for dim, size in self.blocks.items()}
        return {**extents, **counts}


def growing(store: Path, name: str) -> Growing:
    """Open a group that grows."""
    return Growing(store, name, description(store, name)["blocks"])


def description(store: Path, name: str = "") -> dict[str, Any]:
    """Read what a store, or a group of it, says of itself."""
    return about(read_node(store / name))


def _cut(node: Metadata, extents: Sizes) -> Metadata:
    if node["node_type"] != "array":
        return node
    named = zip(dims_in(node), node["shape"], strict=True)
    return node | {"shape": [extents.get(dim, size) for dim, size in named]}
