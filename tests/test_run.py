"""One task over a grid: the same in memory and in a store, here and on an engine."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import StringIO

import numpy as np
import pytest
import xarray as xr
from tqdm import tqdm

from dtda_prob.storage.errors import StoreError
from dtda_prob.studies import run as running
from dtda_prob.studies.run import Task, Where, run, unfinished

MIXED = {tuple, type(None), int}
"""Kinds of labels that stay objects."""


@dataclass(frozen=True)
class Toy(Task):
    """Sines on a grid, in groups that have both, one and none of its dimensions."""

    shape: tuple[int, ...] = (10, 5)
    block: tuple[int, ...] = (4, 2)
    dims: tuple[str, ...] = ("draw", "perturbation")
    stop: int = -1
    seed: int = 0
    labels: tuple = ()

    @property
    def coords(self):
        names = [f"p{i}" for i in range(self.shape[1])]
        if self.labels:
            names = np.empty(len(self.labels), object)
            names[:] = self.labels
            names = names if {type(x) for x in names} & MIXED else np.asarray(self.labels)
        draws = np.arange(self.shape[0])
        return xr.Dataset(coords={"draw": draws, "perturbation": names, "query": ["a", "bé"]})

    @property
    def identity(self):
        return {"kind": "toy", "seed": self.seed}

    def __call__(self, block):
        draws, several = (np.arange(part.start, part.stop) for part in block)
        if self.stop in draws:
            raise KeyboardInterrupt
        values = np.sin(self.seed + 7 * draws[:, None, None] + several[:, None] + np.arange(2))
        grid = ("draw", "perturbation")
        return xr.DataTree.from_dict(
            {
                "/values": xr.Dataset({"value": ((*grid, "query"), values.astype("f4"))}),
                "/stats": xr.Dataset({"flag": (grid, values[..., 0] > 0), "key": ("draw", 2 * draws)}),
                "/constant": xr.Dataset({"w": (("perturbation", "row"), np.ones((len(several), 3)))}),
            }
        )


def plain(values):
    dates = values.dtype.kind in "mM"
    return values.astype(f"{values.dtype.kind}8[ns]") if dates else values.astype(object)


def arrays(tree):
    return {
        f"{node.path}/{name}": plain(variable.values)
        for node in tree.subtree
        for name, variable in node.to_dataset(inherit=False).variables.items()
    }


def check_same(tree, expected):
    tree, expected = arrays(tree), arrays(expected)
    assert tree.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(tree[path], expected[path], err_msg=path)


def test_blocks_make_the_whole(tmp_path):
    whole = run(Toy(block=(10, 5)))
    check_same(run(Toy()), whole)
    for _ in range(2):
        check_same(run(Toy(), Where(tmp_path / "s.zarr")), whole)
    with ThreadPoolExecutor(2) as pool:
        check_same(run(Toy(), Where(tmp_path / "s.zarr", "threads", pool)), whole)
        check_same(run(Toy(), Where(engine=pool)), whole)


def test_an_interrupted_run_goes_on(tmp_path):
    where = Where(tmp_path / "s.zarr")
    with pytest.raises(KeyboardInterrupt) as caught:
        run(Toy(stop=5), where)
    assert "3 of 9 blocks are safe as name='result' in store=" in caught.value.__notes__[-1]
    assert len(unfinished(Toy(), where)) == 6
    check_same(run(Toy(), where), run(Toy()))


def test_more_draws_are_added_and_none_is_computed_twice(tmp_path):
    where = Where(tmp_path / "s.zarr")
    run(Toy(), where)
    more = Toy((15, 5))
    lacking = [block[0] for block in unfinished(more, where)]
    assert {(part.start, part.stop) for part in lacking} == {(10, 12), (12, 15)}
    check_same(run(more, where), run(more))
    check_same(run(Toy((7, 5)), where), run(Toy((7, 5))))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Toy((10, 6)), "there are 6 along 'perturbation', stored 5"),
        (Toy(seed=1), "seed is 1, stored 0"),
    ],
)
def test_something_else_is_refused(tmp_path, task, words):
    run(Toy(), Where(tmp_path / "s.zarr"))
    with pytest.raises(StoreError, match=words):
        run(task, Where(tmp_path / "s.zarr"))


def test_a_terminal_shows_that_the_first_block_is_compiled(monkeypatch):
    class Terminal(StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr(running, "tqdm", partial(tqdm, mininterval=0))
    run(Toy())
    first, rest = shown.getvalue().split("\r", 2)[1:]
    assert "compiling and computing the first of 9 blocks" in first
    assert "left" in rest
    assert "compiling" not in rest.rsplit("left", 1)[1]
