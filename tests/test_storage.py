"""Groups of a store: laid out, shown, and what interrupted that."""

import errno

import numpy as np
import pytest
import xarray as xr

from dtda_prob.storage import Growing, StoreError, add, names_in, writing

BLOCKS = {"draw": 2}
TREE = xr.DataTree(xr.Dataset({"loss": ("draw", np.zeros(2, np.float32))}))
FACTS = {"num_diverging": 0, "milliseconds": 0}


def begin(store):
    with writing(store, {}):
        return add(store, "full", TREE, BLOCKS, "{}")


def begin_in_vain(store, monkeypatch):
    """Lay a group out on a disk that is full as it is to be shown."""

    def full(group, extents):
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as disk:
        disk.setattr(Growing, "publish", full)
        with pytest.raises(OSError, match="the disk is full"):
            begin(store)
    assert names_in(store) == []


def test_a_group_that_could_not_be_shown_is_laid_out_again(tmp_path, monkeypatch):
    begin_in_vain(tmp_path / "store", monkeypatch)
    assert begin(tmp_path / "store").finished().sum() == 0
    assert names_in(tmp_path / "store") == ["full"]


def test_what_is_not_listed_and_holds_shards_is_not_removed(tmp_path, monkeypatch):
    store = tmp_path / "store"
    begin_in_vain(store, monkeypatch)
    group = Growing(store, "full", BLOCKS)
    group.grow({"draw": 2})
    group.write(TREE, {"draw": 0})
    group.finish((0,), {"draw": 2}, FACTS)
    with pytest.raises(StoreError, match="full' is not listed by its store; move it"):
        begin(store)
    assert group.finished().any()


def test_labels_are_not_shown_before_they_are_written(tmp_path):
    store, wanted = tmp_path / "store", {"run": 2, "query": 3}
    values = {"effect": (("run", "query"), np.ones((2, 3), np.float32))}
    tree = xr.DataTree(xr.Dataset(values, coords={"query": [7, 8, 9]}))
    with writing(store, {}):
        group = add(store, "effects", tree, {"run": 1, "query": 3}, "{}")
        group.grow(wanted)
        group.publish(group.ready(wanted))
    assert group.shown() == {"run": 0, "query": 0}
    group.write(tree.isel(run=[0]), {"run": 0, "query": 0})
    group.finish((0, 0), {"run": 1, "query": 3}, FACTS)
    group.publish(group.ready(wanted))
    with xr.open_datatree(store, engine="zarr") as shown:
        assert shown["effects"].sizes == {"run": 1, "query": 3}
        assert shown["effects/query"].values.tolist() == [7, 8, 9]
