"""What stores keep: results that are replaced, read while they are written, damaged and repaired."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import xarray as xr
from test_run import Toy, check_same

from dtda_prob import storage
from dtda_prob.storage import StoreError, contents, load, repair, save, verify
from dtda_prob.storage.store import writing
from dtda_prob.studies.run import Where, run, unfinished

RESULT = xr.Dataset({"value": ("check", [1.0, np.nan])})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp("studies") / "drawn.zarr"
    run(Toy(), Where(path, "full"))
    save(RESULT.assign_coords(check=["é", "long name"]), path, "saved", "verdict")
    return path


@pytest.fixture
def study(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "study.zarr")


def chunks(study):
    """Return all files of chunks but how long blocks took."""
    files = (path for path in study.rglob("c/**/*") if path.is_file())
    return sorted(path for path in files if "seconds" not in path.parts)


def test_a_result_takes_the_place_of_the_one_before(study):
    before = {path: path.read_bytes() for path in study.glob("full/**/*") if path.is_file()}
    dated = RESULT.assign_coords(check=np.array(["2026-01-01", "2026-02-01"], "datetime64[ns]"))
    for result in (
        RESULT,
        dated.assign_attrs(text="words"),
        RESULT.assign_coords(check=np.array(["a", "bb"], np.dtypes.StringDType())),
    ):
        save(result, study, "saved", "verdict")
        found = load(study, "saved").to_dataset()
        xr.testing.assert_equal(found, result)
        xr.testing.assert_equal(xr.open_datatree(study, engine="zarr")["saved"].to_dataset(), result)
    assert {path: path.read_bytes() for path in before} == before
    assert not list(study.glob(".new-*"))
    assert contents(study).loc["saved", "kind"] == "verdict"


def test_a_store_of_its_own(tmp_path):
    tree = {"a": xr.DataTree(RESULT), "b": xr.DataTree.from_dict({"/c": RESULT + 1})}
    save(tree, tmp_path / "own.zarr")
    found = load(tmp_path / "own.zarr")
    xr.testing.assert_equal(found["b/c"].to_dataset(), RESULT + 1)
    xr.testing.assert_equal(xr.open_datatree(tmp_path / "own.zarr", engine="zarr"), found)
    with pytest.raises(FileExistsError, match="exists; choose another"):
        save(tree, tmp_path / "own.zarr")


class Died(Exception):  # noqa: N818
    """Raised in the place of a kill: an interruption would stop the threads of zarr."""


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_writer_that_dies_at_any_step_leaves_the_old_or_the_new(
    drawn, tmp_path, monkeypatch, in_one_step
):
    """Before each change of a file or a folder; the next writer shows the result again."""
    step, died = 0, True
    while died:
        step += 1
        study, died = shutil.copytree(drawn, tmp_path / f"{step}.zarr"), False
        with monkeypatch.context() as patch:
            dying(patch, step, in_one_step)
            try:
                save(RESULT + 1, study, "saved")
            except Died:
                died = True
        check_old_or_new(load(study), died)
        xr.open_datatree(study, engine="zarr").load()
        with writing(study, {}):
            pass
        assert "saved" in load(study).children
        check_old_or_new(load(study), died)
        assert not list(study.glob(".new-*"))
    assert step > 5


def dying(patch, last, in_one_step):
    """Let the process die before some change of a file or a folder."""
    steps = 0

    def counted(call):
        def counting(*arguments, **options):
            nonlocal steps
            # Files of a folder that readers do not see are all alike.
            steps += call is not replace or ".new-" not in str(arguments[-1])
            if steps >= last:
                raise Died
            return call(*arguments, **options)

        return counting

    replace = os.replace
    exchange = storage.store.exchange if in_one_step else lambda *_: False
    patch.setattr(storage.store, "exchange", counted(exchange))
    for name in ("rename", "replace", "rmdir", "mkdir"):
        patch.setattr(os, name, counted(getattr(os, name)))
    patch.setattr(shutil, "rmtree", counted(shutil.rmtree))


def check_old_or_new(tree, died):
    if "saved" in tree.children:
        old, new = (tree["saved/value"].equals(each["value"]) for each in (OLD, RESULT + 1))
        assert new or (old and died)


OLD = RESULT.assign_coords(check=["é", "long name"])
FAR = np.array(["1500-01-01", "2026-01-01"], "datetime64[s]")
REFUSED = [
    ("draws", {"name": "full"}, StoreError, "name='full' .* is the name of a toy"),
    ("bad name", {"name": "a/b"}, ValueError, "name='a/b' must consist of"),
    ("none", {"tree": RESULT.assign_coords(check=[None, "a"])}, ValueError, "'check' holds objects"),
    ("complex", {"tree": RESULT.assign_coords(check=[1j, 2])}, ValueError, "'check' is complex128"),
    (
        "far",
        {"tree": RESULT.assign_coords(check=FAR)},
        ValueError,
        "would not read back, such as years",
    ),
]


@pytest.mark.parametrize(("case", "given", "error", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_saved_is_refused(study, case, given, error, words):
    where = {"tree": RESULT, "path": study, "name": "new"} | given
    with pytest.raises(error, match=words):
        save(**where)
    assert "new" not in load(study).children


def test_the_contents_are_what_was_computed(study):
    table = contents(study)
    assert table["kind"].to_dict() == {"full": "toy", "saved": "verdict"}
    assert table.loc["full", ["draws", "perturbations", "queries", "finished"]].tolist() == [
        10,
        5,
        2,
        1,
    ]
    size = sum(path.stat().st_size for path in (study / "full").rglob("*") if path.is_file())
    assert table.loc["full", "bytes"] == size


def test_readers_see_the_draws_that_are_finished(tmp_path):
    where = Where(tmp_path / "s.zarr")
    with pytest.raises(KeyboardInterrupt):
        run(Toy(stop=5), where)  # a block of draws 0 to 3 for each of three pairs of perturbations
    with pytest.warns(
        RuntimeWarning, match="/result: 4 of 10 along 'draw' are finished; others are left"
    ):
        tree = load(tmp_path / "s.zarr", "result")
    expected = run(Toy()).isel(draw=slice(4))
    check_same(tree, expected)
    plain = xr.open_datatree(tmp_path / "s.zarr", engine="zarr")["result"]
    np.testing.assert_array_equal(plain["blocks/done"], [[4, 4, 4], [0, 0, 0], [0, 0, 0]])
    assert np.isnan(plain["values/value"][4:]).all()
    run(Toy(), where)
    (tmp_path / "s.zarr/result/blocks/done/c/1/0").unlink()
    with pytest.warns(RuntimeWarning, match="6 of 10 along 'draw'"):
        assert load(tmp_path / "s.zarr", "result")["values/draw"].values.tolist() == [0, 1, 2, 3, 8, 9]
    assert contents(tmp_path / "s.zarr").loc["result", "draws"] == 6


def test_every_file_is_covered(drawn, tmp_path):
    """A chunk that is missing is refused by name; one that is altered is found, and repaired."""
    expected = run(Toy())
    of_each_array = {file.relative_to(drawn).as_posix().split("/c/")[0]: file for file in chunks(drawn)}
    for number, file in enumerate(of_each_array.values()):
        place = file.relative_to(drawn)
        study = shutil.copytree(drawn, tmp_path / f"{number}.zarr")
        record = "blocks" in place.parts
        (study / place).unlink()
        if record:
            assert (verify(study)["status"] == "unfinished").sum() == 1
        else:
            with pytest.raises(StoreError, match=f"'{place}' is missing"):
                load(study)
            assert (verify(study)["status"] == "damaged").sum() == 1
        data = bytearray(file.read_bytes())
        data[number % len(data)] ^= 4
        (study / place).write_bytes(data)
        damaged = repair(study)
        assert damaged[damaged["status"] == "damaged"]["file"].tolist() == [str(place)]
        if place.parts[0] == "full":
            check_same(run(Toy(), Where(study, "full")), expected)
            assert (verify(study)["status"] == "finished").all()
            assert (study / place).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["2026-01-01", "2026-02-01"], "datetime64[D]"),
        np.array([3, 5], "timedelta64[s]"),
        [True, False],
        [0.5, np.inf],
        ["", "ü"],
        np.array([1, 2], np.uint8),
    ],
)
def test_labels_of_any_kind_can_be_resumed(tmp_path, labels):
    task, where = Toy((4, 2), labels=tuple(np.asarray(labels))), Where(tmp_path / "s.zarr")
    for _ in range(2):
        check_same(run(task, where), run(task))
    assert not unfinished(task, where)
    check_same(load(tmp_path / "s.zarr", "result"), run(task))
    with pytest.raises(StoreError, match="the labels of 'perturbation' are others"):
        run(Toy((4, 2), labels=tuple(np.asarray(labels)[::-1])), where)


@pytest.mark.parametrize("labels", [[1j, 2], [(1, 2), (3, 4)], [None, "a"], [0, "a"]])
def test_labels_that_cannot_be_kept_are_refused_at_once(tmp_path, labels):
    task = Toy((4, 2), labels=tuple(labels))
    with pytest.raises(ValueError, match=r"'perturbation' (holds objects|is complex128).*; use text"):
        run(task, Where(tmp_path / "s.zarr"))
    assert load(tmp_path / "s.zarr").children == {}


def test_a_home_is_a_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    run(Toy(), Where("~/s.zarr"))
    save(RESULT, "~/s.zarr", "saved")
    assert set(load("~/s.zarr").children) == {"result", "saved"}
    assert len(contents("~/s.zarr")) == len({name for name, _ in verify("~/s.zarr").index}) == 2
    assert (tmp_path / "s.zarr").is_dir()


def test_no_escapes_reach_a_terminal(study):
    about = json.loads((study / "saved/zarr.json").read_text())
    about["attributes"]["dtda_prob"] = json.dumps({"kind": "\x1b[2J", "transform": "\x9b1m" * 999})
    (study / "saved/zarr.json").write_text(json.dumps(about))
    root = json.loads((study / "zarr.json").read_text())
    root["consolidated_metadata"]["metadata"]["saved"] = about
    (study / "zarr.json").write_text(json.dumps(root))
    row = contents(study).loc["saved"]
    assert row["kind"] == r"\x1b[2J"
    assert row["transform"].isprintable()
    assert len(row["transform"]) < 2000


def declare(study, path, shape, chunks):
    """Let an array declare another shape, in its own description and in the list of the root."""
    fields = {
        "shape": shape,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
    }
    for file, inside in ((study / path / "zarr.json", False), (study / "zarr.json", True)):
        document = json.loads(file.read_text())
        (document["consolidated_metadata"]["metadata"][path] if inside else document).update(fields)
        file.write_text(json.dumps(document))


def test_flags_are_counted_by_file_whatever_they_declare(study):
    """Sixty-four terabytes are declared, and two flags are there."""
    flags = xr.Dataset({"diverging": ("draw", [True, False, True])})
    save(flags, study, "flags")
    assert contents(study).loc["flags", "diverging"] == 2
    declare(study, "flags/diverging", [2**46], [2**30])
    assert contents(study).loc["flags", "diverging"] == 2
    with pytest.raises(StoreError, match=r"diverging/c/0' is truncated"):
        load(study)


@pytest.mark.parametrize(("shape", "chunks"), [([2**44, 1], [2**26, 1]), ([5_000_000, 1], [1, 1])])
@pytest.mark.parametrize("record", ["done", "seconds"])
def test_records_of_blocks_are_bounded_before_they_are_read(study, shape, chunks, record):
    declare(study, f"full/blocks/{record}", shape, chunks)
    for call in (verify, contents):
        with pytest.raises(StoreError, match=f"blocks/{record}' is a coordinate"):
            call(study)
    with pytest.raises(StoreError, match=f"blocks/{record}"):
        load(study)


def test_what_is_no_study_is_not_written_to(tmp_path):
    for name, make, words in [
        ("file", lambda path: path.write_text("x"), "is not a folder"),
        ("folder", lambda path: (path / "a").mkdir(parents=True), "holds no zarr.json, but 'a'"),
        ("saved", lambda path: save(RESULT, path), "is no study, but what dtda.save .* another folder"),
    ]:
        make(tmp_path / name)
        with pytest.raises((StoreError, NotADirectoryError), match=words):
            run(Toy(), Where(tmp_path / name))
    assert not [path for path in (tmp_path / "folder").iterdir() if path.name != "a"]
    (tmp_path / ".new.0123.partial/x").mkdir(parents=True)  # of a writer that died as it made a store
    (tmp_path / "new").mkdir()
    run(Toy(), Where(tmp_path / "new"))
    assert not [*tmp_path.glob("*.partial")]


@pytest.mark.parametrize("name", ["a/b", "..", ".", ".x", "a b", "zarr.json", "a.partial", "ä"])
def test_bad_names_are_refused(name):
    with pytest.raises(
        ValueError, match=rf"name={re.escape(repr(name))} (must consist of|is reserved for)"
    ):
        Where("s.zarr", name)


def test_a_store_that_is_moved_while_it_is_written_loses_nothing(tmp_path, monkeypatch):
    path, moved = tmp_path / "s.zarr", tmp_path / "moved.zarr"
    compute = Toy.__call__

    def moving(self, block):
        if block[0].start == 4 and path.exists():
            path.rename(moved)
        return compute(self, block)

    monkeypatch.setattr(Toy, "__call__", moving)
    with pytest.raises(OSError, match=r"is gone; if it was moved.* finished is safe"):
        run(Toy(), Where(path))
    assert not path.exists()
    assert len(unfinished(Toy(), Where(moved))) == 6
    check_same(run(Toy(), Where(moved)), run(Toy()))
