"""What is saved beside the draws of a study, and what a study says that it holds."""

import shutil

import jax
import numpy as np
import pytest
import xarray as xr
from tables import train

import dtda_prob as dtda
from dtda_prob.storage import StoreError, saving, writing

KEY = jax.random.key(0)
RESULT = xr.Dataset({"value": ("check", [1.0, np.nan])})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp("studies") / "drawn.zarr"
    training = train("exact")
    dtda.sample(training, KEY, 8, where=dtda.Where(path, "full", progress=False))
    two = dtda.leave_one_out(training.program, [0, 3])
    dtda.sample(training, KEY, 4, two, where=dtda.Where(path, "two", progress=False))
    return path


@pytest.fixture
def study(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "study.zarr")


def test_a_result_takes_the_place_of_the_one_before(study):
    files = {path: path.read_bytes() for path in study.glob("[!z]*/**/*") if path.is_file()}
    labelled = RESULT.assign_coords(check=["é", "long name"]).assign_attrs(text="words")
    for result in (RESULT, labelled):
        dtda.save(result, study, "verdict", "verdict")
        found = dtda.load(study, "verdict").to_dataset()
        assert found.drop_attrs().equals(result.drop_attrs())
    assert found.attrs["text"] == "words"
    assert {path: path.read_bytes() for path in files} == files
    assert "/full/posterior_predictive" in xr.open_datatree(study).groups
    assert not list(study.glob(".new-*"))
    assert len(dtda.verify(study)) == 2


@pytest.mark.parametrize("steps", [1, 2])
def test_a_writer_that_dies_leaves_a_study(study, steps, monkeypatch):
    dtda.save(RESULT, study, "verdict")
    calls = []

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == steps:
            raise KeyboardInterrupt
        return list_as(*arguments)

    list_as = saving.list_as
    monkeypatch.setattr(saving, "list_as", dying)
    with pytest.raises(KeyboardInterrupt):
        dtda.save(RESULT + 1, study, "verdict")
    dtda.load(study)
    with writing(study, {}):
        pass
    expected = RESULT + (1 if steps == 2 else 0)
    assert dtda.load(study, "verdict").to_dataset().drop_attrs().equals(expected)


REFUSED = [
    ("draws", {"name": "full"}, StoreError, "name='full' .* that of a sample set that grows; choose"),
    ("bad name", {"name": "a/b"}, ValueError, "name='a/b' must be made of"),
    ("no study", {"path": "none.zarr"}, StoreError, "none.zarr' is not there: sample into a study"),
]


@pytest.mark.parametrize(("case", "given", "error", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_saved_is_refused(study, case, given, error, words):
    where = {"path": study, "name": "verdict"} | given
    with pytest.raises(error, match=words):
        dtda.save(RESULT, **where)


def test_the_contents_are_what_was_drawn(study):
    dtda.save(RESULT, study, "verdict", "verdict")
    table = dtda.contents(study)
    counts = table[["draws", "perturbations", "queries", "data"]]
    assert table["kind"].to_dict() == {
        "full": "sample set",
        "two": "sample set",
        "verdict": "verdict",
    }
    num_data, num_queries = train("exact").program.num_data, len(train("exact").measure.queries)
    assert counts.loc["full"].tolist() == [8, 0, num_queries, num_data]
    assert counts.loc["two"].tolist() == [4, 2, num_queries, num_data]
    assert (table["finished"] == 1).all()
    assert not table["diverging"].any()
    size = sum(path.stat().st_size for path in (study / "full").rglob("*") if path.is_file())
    assert table.loc["full", "bytes"] == size
