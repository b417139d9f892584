"""Studies in stores: what is kept is what is drawn, whatever happens on the way."""

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
import zarr
from distributed import Client
from tables import blown_up, network, queries, regression, regression_data, train, train_network

import dtda_prob as dtda
from dtda_prob.attribution.keeping import Keeping
from dtda_prob.attribution.scoring import Scoring
from dtda_prob.outcomes import drawing, draws
from dtda_prob.outcomes.drawing import Drawing
from dtda_prob.outcomes.filling import Filling
from dtda_prob.storage import StoreError
from dtda_prob.storage.growing import Growing

KEY = jax.random.key(0)
EVERYTHING = ("parameters", "losses", "log_likelihood", "log_prior")
LATE = dtda.kernels.keep(dtda.kernels.sgd(optax.sgd(0.05), num_steps=4, batch_size=4), 3)
TASKS = (Filling, Scoring, Keeping)


def sample(store=None, num_draws=12, weights=None, source=None, **options) -> xr.DataTree:
    """Sample in shards of four pairs, two chains."""
    source = train("sgd by epoch") if source is None else source
    options = {"chunk_size": 4, "num_chains": 2, "check": False, "store": store} | options
    return dtda.sample(source, KEY, num_draws, weights, **options)


def score(store=None, source=None, **options) -> xr.Dataset:
    """Score the mean over four draws, a query at a time."""
    source = dtda.influence(train("exact"), at="old") if source is None else source
    options = {"num_permutations": 3, "num_resamples": 4, "check": False, "store": store} | options
    return dtda.attribute(source, KEY, options.pop("num_draws", 4), ["mean"], **options)


def left_out(data, labels=None, **options) -> xr.DataArray:
    return dtda.leave_one_out(train("sgd by epoch").program, data, **options)


def text(number: int) -> xr.DataArray:
    """Perturbations whose names are text of different length."""
    names = [f"without {'x' * i}{i}" for i in range(number)]
    return left_out(range(number)).assign_coords(perturbation=names)


def contents(tree: xr.DataTree | xr.Dataset) -> dict[str, np.ndarray]:
    """Give all arrays of what was sampled or scored, by path."""
    tree = tree if isinstance(tree, xr.DataTree) else xr.DataTree(tree)
    groups = [node for node in tree.subtree if not node.path.endswith("shards")]
    return {
        f"{node.path.removeprefix(tree.path)}/{name}".lstrip("/"): variable.values.astype(object)
        if variable.dtype.kind in "UTO"
        else variable.values
        for node in groups
        for name, variable in node.to_dataset(inherit=False).variables.items()
    }


def check_same(found, expected) -> None:
    """Compare all arrays bit for bit."""
    found, expected = contents(found), contents(expected)
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        assert found[path].dtype == values.dtype, path
        np.testing.assert_array_equal(found[path], values, err_msg=path)


def losses(tree: xr.DataTree) -> xr.DataArray:
    return tree["posterior_predictive"]["loss"]


def files(store: Path) -> dict[str, bytes]:
    """Give all files of chunks but the records, which hold times."""
    chunks = (file for file in store.rglob("c/**/*") if file.is_file())
    named = {file.relative_to(store).as_posix(): file.read_bytes() for file in chunks}
    return {name: data for name, data in named.items() if "/shards/" not in name}


@contextmanager
def counted(monkeypatch):
    """Count the pairs that are drawn."""
    drawn, draw = [], Drawing.__call__

    def call(self, block):
        drawn.append(block.num_pairs)
        return draw(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(Drawing, "__call__", call)
        yield drawn


@contextmanager
def interrupted(monkeypatch, after, error=KeyboardInterrupt, before=lambda: None):
    """Stop before shard number `after` of any task; give the shards that are done."""
    done = []

    def stopping(call):
        def stop(self, shard):
            before()
            if len(done) == after:
                raise error
            report = call(self, shard)
            done.append((self.group.name, shard.place))
            return report

        return stop

    with monkeypatch.context() as patch:
        for task in TASKS:
            patch.setattr(task, "__call__", stopping(task.__call__))
        yield done


# What is stored is what is drawn


def labelled():
    program = regression(labels=[f"row {i}" for i in range(12)])
    return train("exact", program, queries(queries=list("abcd")))


def vectors():
    measure = dtda.measures.prediction(jnp.ones((2, 3)))
    return dtda.Training(network(), train_network().kernel, measure)


SAMPLES = {
    "several": lambda: {"weights": text(3), "keep": EVERYTHING},
    "another dimension": lambda: {
        "weights": xr.DataArray(np.ones((2, 12), int), dims=("set", "datum")).assign_coords(
            datum=range(12)
        )
    },
    "several states": lambda: {
        "source": train(LATE),
        "num_chains": None,
        "keep": EVERYTHING,
        "weights": left_out([1, 2]),
    },
    "carried": lambda: {"source": dtda.influence(train("exact"), at="old"), "weights": text(3)},
    "dropped": lambda: {
        "weights": dtda.perturbations.groups(
            train("sgd by epoch").program, [0, 0, 0, 1] + [2] * 8, removal="drop"
        )
    },
    "labels of data": lambda: {"source": labelled()},
    "vectors": lambda: {"source": vectors()},
}


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_stored_is_what_is_drawn(name, tmp_path):
    given = SAMPLES[name]()
    expected = sample(**given)
    for _ in range(2):
        check_same(sample(tmp_path / "study.zarr", **given), expected)
    check_same(dtda.load(tmp_path / "study.zarr", "sample"), expected)
    plain = xr.open_datatree(tmp_path / "study.zarr")["sample"]
    check_same(plain, expected)
    summary = arviz_stats.summary(plain, group="posterior_predictive", round_to="none")
    assert len(summary) == np.prod(next(iter(plain["posterior_predictive"].values())).shape[2:])


def test_double_precision_is_stored_and_is_another_study(tmp_path, x64):
    check_same(sample(tmp_path / "study.zarr"), sample())
    assert losses(dtda.load(tmp_path / "study.zarr", "sample")).dtype == np.float64
    with jax.enable_x64(False), pytest.raises(StoreError, match=r"is float32 .*, stored float64"):
        sample(tmp_path / "study.zarr")


def test_ranges_are_checked_once(tmp_path):
    source = blown_up(train("sgd by epoch"), -10.0)
    given = {"weights": left_out([1, 2]), "source": source, "check": True}
    with pytest.warns(RuntimeWarning, match="are out of its range"):
        sample(tmp_path / "s.zarr", **given)
    sample(tmp_path / "s.zarr", **given)  # nothing is new, and nothing is said


# Interrupted runs


CALLS = {
    "sample": lambda store: sample(store),
    "perturbations": lambda store: sample(store, 4, text(6)),
    "pull": lambda store: score(store),
    "pull of effects": lambda store: score(store, effects="effects"),
    "push": lambda store: score(store, train("sgd by epoch"), perturbations=left_out([0, 3])),
}


@pytest.fixture
def one_query_at_a_time(monkeypatch):
    monkeypatch.setattr("dtda_prob.outcomes.pulling.NUMBERS", 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Give what a call gives that is not interrupted, and the shards that it finishes."""
    made = {}

    def of(name):
        if name not in made:
            with pytest.MonkeyPatch.context() as patch, interrupted(patch, -1) as done:
                patch.setattr("dtda_prob.outcomes.pulling.NUMBERS", 1)
                found = CALLS[name](tmp_path_factory.mktemp("whole") / "study.zarr")
            made[name] = found.load(), done
        return made[name]

    return of


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_call_goes_on(name, whole, tmp_path, monkeypatch, one_query_at_a_time):
    expected, shards = whole(name)
    finished = []
    for after in (0, 1):
        stop = pytest.raises(KeyboardInterrupt)
        with interrupted(monkeypatch, after) as done, stop as caught:
            CALLS[name](tmp_path / "study.zarr")
        assert re.search("are safe as name=.*; call the same again", caught.value.__notes__[-1])
        finished += done
        xr.open_datatree(tmp_path / "study.zarr").load()
    with interrupted(monkeypatch, -1) as done:
        check_same(CALLS[name](tmp_path / "study.zarr"), expected)
    assert sorted(finished + done) == sorted(shards)
    assert (dtda.verify(tmp_path / "study.zarr")["status"] == "finished").all()


def test_readers_see_the_draws_that_are_finished(whole, tmp_path, monkeypatch):
    expected, seen = losses(whole("sample")[0]), []

    def read():
        plain = xr.open_datatree(tmp_path / "s.zarr")["sample"]
        for tree in (plain, dtda.load(tmp_path / "s.zarr", "sample")):
            found = losses(tree)
            np.testing.assert_array_equal(found, expected[:, : found.sizes["draw"]])
        seen.append(found.sizes["draw"])

    monkeypatch.setattr("dtda_prob.outcomes.study._at_leisure", lambda show: show)
    with interrupted(monkeypatch, -1, before=read):
        sample(tmp_path / "s.zarr")
    assert seen == [0, 2, 4]


def test_finished_draws_after_a_gap_are_not_seen(tmp_path, monkeypatch):
    with interrupted(monkeypatch, 1), pytest.raises(KeyboardInterrupt):
        sample(tmp_path / "s.zarr")
    group = Growing(tmp_path / "s.zarr", "sample", {"draw": 2})
    group.finish((2,), {"draw": 2}, {"num_diverging": 0, "milliseconds": 0})
    assert group.ready({"draw": 6}) == {"draw": 2}


def test_a_killed_process_and_two_writers(tmp_path):
    """The parent may not write while a child does; it goes on where that was killed."""
    store = tmp_path / "study.zarr"
    child = subprocess.Popen([sys.executable, __file__, "write", store], stdin=subprocess.PIPE)
    records = store / "sample/shards/finished/c"
    try:
        while not (records.exists() and any(records.iterdir())):
            assert child.poll() is None
            time.sleep(0.01)
        with pytest.raises(StoreError, match="is being written by another process"):
            sample(store, 200)
        time.sleep(np.random.default_rng().uniform(0, 0.3))
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    before, seen = files(store), losses(xr.open_datatree(store)["sample"]).load()
    assert seen.sizes["draw"] < 100
    found = sample(store, 200)
    check_same(found, sample(num_draws=200))
    np.testing.assert_array_equal(losses(found)[:, : seen.sizes["draw"]], seen)
    assert not [*store.rglob("*.partial"), *store.glob(".new-*")]
    assert len(before) <= len(files(store))


def test_a_group_that_was_added_and_not_listed_is_taken_up(whole, tmp_path, monkeypatch):
    expected = whole("sample")[0]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Growing, "publish", stop)
    with pytest.raises(KeyboardInterrupt):
        sample(tmp_path / "s.zarr")
    monkeypatch.undo()
    assert dtda.verify(tmp_path / "s.zarr").empty
    check_same(sample(tmp_path / "s.zarr"), expected)


# Extensions


EXTENSIONS = {
    "more draws": ([(4, 2), (12, 2)], 16),
    "more perturbations": ([(4, 2), (4, 5)], 12),
    "both": ([(4, 2), (8, 5)], 32),
    "in three steps": ([(4, 2), (4, 3), (10, 3)], 22),
    "fewer": ([(8, 5), (4, 2)], 0),
    "shards that are not full": ([(6, 1), (10, 1), (10, 3)], 24),
    "more draws of fewer perturbations": ([(4, 3), (8, 2)], 12),
}


def first_bits(tree: xr.DataTree, num_draws: int, several: int) -> np.ndarray:
    return losses(tree)[:, : num_draws // 2, :several].values


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "retrained") for name in EXTENSIONS), ("both", "carried"), ("fewer", "carried")],
)
def test_extensions_add_and_draw_nothing_twice(name, kind, tmp_path, monkeypatch):
    steps, pairs = EXTENSIONS[name]
    source = dtda.influence(train("exact"), at="old") if kind == "carried" else train("sgd by epoch")
    first = sample(tmp_path / "s.zarr", steps[0][0], text(5)[: steps[0][1]], source).load()
    with counted(monkeypatch) as drawn:
        for num_draws, several in steps[1:]:
            found = sample(tmp_path / "s.zarr", num_draws, text(5)[:several], source)
    assert sum(drawn) == pairs
    both = [min(sizes) for sizes in zip(steps[0], steps[-1], strict=True)]
    np.testing.assert_array_equal(first_bits(found, *both), first_bits(first, *both))
    expected = sample(None, *steps[-1][:1], text(5)[: steps[-1][1]], source)
    assert losses(found).shape == losses(expected).shape
    np.testing.assert_allclose(losses(found), losses(expected), rtol=2e-5)
    np.testing.assert_array_equal(
        found["constant_data"]["weights"], expected["constant_data"]["weights"]
    )


def test_runs_that_are_chains_are_added(tmp_path, monkeypatch):
    given = {"source": train(LATE), "num_chains": None}
    sample(tmp_path / "s.zarr", 6, **given)
    with counted(monkeypatch) as drawn:
        found = sample(tmp_path / "s.zarr", 18, **given)
    assert sum(drawn) == 4
    assert losses(found).sizes["chain"] == 6
    np.testing.assert_allclose(losses(found), losses(sample(None, 18, **given)), rtol=2e-5)


def test_another_transform_is_added_under_another_name(whole, tmp_path):
    sample(tmp_path / "s.zarr")
    before = files(tmp_path / "s.zarr")
    sample(tmp_path / "s.zarr", 4, text(2), dtda.unroll(train("sgd by epoch")), name="unrolled")
    tree = dtda.load(tmp_path / "s.zarr")
    assert set(tree.children) == {"sample", "unrolled"}
    check_same(tree["sample"], whole("sample")[0])
    assert before.items() <= files(tmp_path / "s.zarr").items()


def test_a_shard_whose_report_was_lost_is_not_computed_again(
    tmp_path, monkeypatch, whole, one_query_at_a_time
):
    def again(task, shards, engine, *, done, describe):
        for shard in shards:
            done(shard, task(shard))
            assert task(shard) == 0

    expected = [whole(name)[0] for name in ("sample", "pull of effects")]
    monkeypatch.setattr(draws, "compute", again)
    with counted(monkeypatch) as drawn:
        check_same(sample(tmp_path / "s.zarr"), expected[0])
    assert sum(drawn) == 12
    check_same(score(tmp_path / "t.zarr", effects="effects").load(), expected[1])


def test_more_scores_take_up_the_effects_that_are_there(tmp_path, monkeypatch, one_query_at_a_time):
    score(tmp_path / "s.zarr", effects="effects")
    with interrupted(monkeypatch, -1) as done:
        more = score(tmp_path / "s.zarr", effects="effects", num_draws=6, name="more")
    assert sorted(place for name, place in done if name == "effects") == [
        (run, query) for run in (4, 5) for query in range(4)
    ]
    xr.testing.assert_allclose(more.load(), score(num_draws=6))


def test_an_interrupted_extension_is_not_taken_for_another(tmp_path, monkeypatch):
    """Perturbations of which some draws are there, which no reader sees, are not changed for others."""
    sample(tmp_path / "s.zarr", 8, text(2))
    with interrupted(monkeypatch, 1), pytest.raises(KeyboardInterrupt):
        sample(tmp_path / "s.zarr", 8, text(5))
    assert losses(dtda.load(tmp_path / "s.zarr", "sample")).shape == (2, 4, 2, 4)
    others = text(5)[[0, 1, 4, 2, 3]]
    with pytest.raises(StoreError, match=r"'without xxxx4' \(row 2\) is not the one stored"):
        sample(tmp_path / "s.zarr", 8, others)
    found = sample(tmp_path / "s.zarr", 8, text(5))
    np.testing.assert_allclose(losses(found), losses(sample(None, 8, text(5))), rtol=2e-5)


# What is refused


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Hold some samples and scores."""
    store = tmp_path_factory.mktemp("study") / "study.zarr"
    sample(store, 4, left_out([1, 2]))
    sample(store, 4, name="all")
    centred = dtda.influence(train("sgd by epoch"), dtda.curvature.dense(damping=1.0), at="centre")
    sample(store, 4, left_out([1, 2]), centred, name="centred")
    sample(store, 4, left_out([1]), dtda.retrain(train("sgd by epoch")), name="pushed")
    score(store, dtda.unroll(train("sgd by epoch")), effects="effects")
    return store


def changed(**options):
    """Train on changed data, or with another prior."""
    x, y = regression_data()
    given = {"y": y, "noise": 0.5, "prior": 2.0} | options
    program = dtda.Program(dtda.zoo.linear_regression, x, **given)
    return train("sgd by epoch", program, queries())


ANOTHER = dtda.kernels.sgd(optax.sgd(0.04, momentum=0.9), num_epochs=3, batch_size=4)
LONGER = dtda.kernels.sgd(optax.sgd(0.05, momentum=0.9), num_epochs=4, batch_size=4)
ONE = np.eye(12)[0]
TEN = "Choose another name, or ask for the same"
ELSE = "Name another store, or go on with what it was begun with"


def on(weights=None, num_draws=4, source=None, **options):
    return lambda store: sample(store, num_draws, weights, source() if source else None, **options)


def mean(old, new):
    return 2 * (old - new).mean(0)


def other_key(store):
    return dtda.sample(
        train("sgd by epoch"), jax.random.key(1), 4, store=store, name="all", num_chains=2
    )


REFUSED = [
    (
        "value",
        on(source=lambda: changed(y=regression_data()[1] + ONE)),
        f"argument y .* holds other values.*{ELSE}",
    ),
    (
        "size",
        on(source=lambda: train("sgd by epoch", regression(9), queries())),
        f"of shape .9.*{ELSE}",
    ),
    ("prior", on(source=lambda: changed(prior=3.0)), f"argument prior is 3.0, stored 2.0.*{ELSE}"),
    ("labels", on(source=labelled), f"the labels of the data differ.*{ELSE}"),
    ("model", on(source=train_network), f"the model is .*, stored linear_regression.*{ELSE}"),
    ("rate", on(source=lambda: train(ANOTHER), name="all"), f"learning rate.*{TEN}"),
    ("steps", on(source=lambda: train(LONGER), name="all"), r"num_steps is 12, stored 9"),
    ("kernel", on(source=lambda: train("exact"), name="all"), "kernel: "),
    (
        "measure",
        on(
            source=lambda: train(
                "sgd by epoch", train("sgd by epoch").program, dtda.measures.prediction(np.ones((4, 3)))
            ),
            name="all",
        ),
        "measure: name is prediction, stored loss",
    ),
    (
        "transform",
        on(left_out([1, 2]), source=lambda: dtda.unroll(train("sgd by epoch"))),
        r"transform: unroll\(.*\), stored training",
    ),
    ("key", other_key, r"key is \[0, 1\], stored \[0, 0\]"),
    ("chains", on(num_chains=4, name="all"), "num_chains is 4, stored 2"),
    ("keep", on(keep=["losses"], name="all"), r"keep: \['losses'\] were not kept"),
    ("order", on(left_out([2, 1])), r"perturbation '2' \(row 0\) is not the one stored"),
    ("renamed", on(left_out([1, 2]).assign_coords(perturbation=[1, 3])), r"perturbation '3' \(row 1\)"),
    ("changed", on(left_out([1, 2]) * 2), r"perturbation '1' \(row 0\)"),
    ("text", on(text(3)), "labelled by text, stored int64"),
    ("in front", on(left_out([0, 1, 2])), "add others behind them"),
    ("dropped", on(left_out([1, 2], removal="drop")), "removal is drop, stored reweight"),
    ("single", on(left_out([1])[0]), r"weights have dimensions \('datum',\), stored \('perturbation',"),
    ("all data", on(left_out([1]), name="all"), r"weights have dimensions \('perturbation',"),
    ("other weights", on(left_out([1])[0], name="all"), "weights are others than those stored"),
    (
        "centre",
        on(
            left_out([1, 2, 3]),
            source=lambda: dtda.influence(
                train("sgd by epoch"), dtda.curvature.dense(damping=1.0), at="centre"
            ),
            name="centred",
        ),
        "at the centre of the perturbations, which others move .*at=",
    ),
    (
        "old",
        on(
            left_out([1]),
            source=lambda: dtda.retrain(train("sgd by epoch")),
            old=1 - ONE,
            name="pushed",
        ),
        "old: the push starts at other weights",
    ),
    ("scores' name", on(name="scores"), "kind is sample set, stored scores"),
    ("effects' name", on(name="effects"), "kind is sample set, stored effects"),
    (
        "sample's name",
        lambda s: score(s, dtda.unroll(train("sgd by epoch")), name="all"),
        "kind is scores, stored sample set",
    ),
    (
        "draws of scores",
        lambda s: score(s, dtda.unroll(train("sgd by epoch")), num_draws=5),
        "num_draws is 5, stored 4",
    ),
    (
        "divergences",
        lambda s: dtda.attribute(
            dtda.unroll(train("sgd by epoch")), KEY, 4, ["variance"], store=s, check=False
        ),
        r"divergences is \['variance'\], stored \['mean'\]; options",
    ),
    (
        "a divergence of the same name",
        lambda s: dtda.attribute(
            dtda.unroll(train("sgd by epoch")), KEY, 4, [mean], store=s, check=False
        ),
        "divergences: one is another function, or has other settings",
    ),
    (
        "perturbations of scores",
        lambda s: score(s, dtda.unroll(train("sgd by epoch")), perturbations=left_out([1])),
        "perturbations are others than those stored",
    ),
]


@pytest.mark.parametrize(("name", "call", "words"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_something_else_is_refused_and_changes_nothing(study, name, call, words):
    before = files(study), (study / "zarr.json").read_bytes()
    with pytest.raises(StoreError, match=words):
        call(study)
    assert (files(study), (study / "zarr.json").read_bytes()) == before


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", ".x", "a b", "zarr.json", "a.partial", "ä"])
def test_bad_names_are_refused(name, tmp_path):
    with pytest.raises(
        ValueError, match=rf"name={re.escape(repr(name))} (must be made of|is taken by)"
    ):
        sample(tmp_path / "s.zarr", name=name)
    assert not (tmp_path / "s.zarr").exists()


ASKED_WRONGLY = [
    ("until", {"num_draws": dtda.until(lambda scores: scores)}, r"num_draws=until\(\.\.\.\).* number"),
    ("effects by push", {"direction": "push", "effects": "e"}, "effects='e' .* leave it out, or pull"),
    ("one name", {"effects": "scores"}, "effects='scores' have the name of the scores; choose another"),
    ("no store", {"store": None, "effects": "e"}, "effects='e' are kept in a store: name one"),
]


@pytest.mark.parametrize(
    ("name", "given", "words"), ASKED_WRONGLY, ids=[row[0] for row in ASKED_WRONGLY]
)
def test_bad_requests_of_scores_are_refused(name, given, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        score(**{"store": tmp_path / "s.zarr"} | given)
    assert not (tmp_path / "s.zarr").exists()


def saved(path):
    dtda.save(xr.DataTree(xr.Dataset({"a": ("b", np.arange(3.0))})), path)


NO_STUDIES = [
    ("file", lambda path: path.write_text("x"), NotADirectoryError, "is a file"),
    ("empty", lambda path: path.mkdir(), StoreError, "is empty"),
    (
        "folder",
        lambda path: (path / "a").mkdir(parents=True),
        StoreError,
        "holds no zarr.json, but 'a'",
    ),
    ("saved", saved, StoreError, "is no study, but what dtda.save .* name another folder"),
    ("zarr", lambda path: zarr.create_group(path), StoreError, r"zarr.json' .*; "),
]


@pytest.mark.parametrize(
    ("name", "make", "error", "words"), NO_STUDIES, ids=[row[0] for row in NO_STUDIES]
)
def test_what_is_no_study_is_not_written_to(tmp_path, name, make, error, words):
    make(tmp_path / "x.zarr")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=words):
        sample(tmp_path / "x.zarr")
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".lock"] == before


def test_a_name_that_is_not_there_is_said(study):
    with pytest.raises(StoreError, match=r"name='nothing' is none of those in .*'all', .*'centred'"):
        dtda.load(study, "nothing")


def test_other_versions_are_said(study, tmp_path):
    store = shutil.copytree(study, tmp_path / "s.zarr")
    root = json.loads((store / "zarr.json").read_text())
    about = json.loads(root["attributes"]["dtda_prob"])
    about["versions"]["jax"] = "0.0"
    root["attributes"]["dtda_prob"] = json.dumps(about)
    (store / "zarr.json").write_text(json.dumps(root))
    with pytest.warns(RuntimeWarning, match=r"begun with others: jax is .*, stored 0\.0.* rounding"):
        sample(store, 4, name="all")


# What breaks


VALUES = "sample/posterior_predictive/loss/c/0/1/0"
RECORD = "sample/shards/finished/c/1/0"


def flip(path):
    def change(store):
        data = bytearray((store / path).read_bytes())
        data[3] ^= 1
        (store / path).write_bytes(data)

    return change


def cut(path):
    return lambda store: os.truncate(store / path, (store / path).stat().st_size - 3)


def forge(store):
    """Make other values of a chunk, with a checksum of their own."""
    array = zarr.open_array(store / "sample/posterior_predictive/loss", mode="r+")
    array[0, 2, 0] += 1


def leave_behind(store):
    (store / ".new-0123/other/c").mkdir(parents=True)
    (store / ".new-0123/other/c/0").write_text("x")
    for path in (f"{VALUES}.0123.partial", ".zarr.json.0123.partial"):
        (store / path).write_text("x")


SAFE = None
DAMAGED = ["finished", "damaged", "finished"]
FAULTS = [
    ("short values", cut(VALUES), f"'{VALUES}' is truncated: .* dtda.repair", DAMAGED),
    ("flipped values", flip(VALUES), SAFE, DAMAGED),
    ("forged values", forge, SAFE, DAMAGED),
    ("missing values", lambda store: (store / VALUES).unlink(), SAFE, DAMAGED),
    ("flipped draws", flip("sample/sample_stats/draw/c/1"), "is damaged.*|match", DAMAGED),
    ("missing keys", lambda s: (s / "sample/sample_stats/key/c/0/1/0").unlink(), SAFE, DAMAGED),
    ("short record", cut(RECORD), f"'{RECORD}' is truncated: .* dtda.repair", DAMAGED),
    ("flipped record", flip(RECORD), "shards/finished' is damaged: .*dtda.repair", DAMAGED),
    ("missing record", lambda s: (s / RECORD).unlink(), SAFE, ["finished", "unfinished", "finished"]),
    ("killed writer", leave_behind, SAFE, ["finished"] * 3),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    store = tmp_path_factory.mktemp("finished") / "study.zarr"
    sample(store)
    return store


@pytest.mark.parametrize(
    ("name", "break_it", "words", "status"), FAULTS, ids=[row[0] for row in FAULTS]
)
def test_what_is_damaged_is_named_and_made_again(
    name, break_it, words, status, finished, whole, tmp_path, monkeypatch
):
    store, expected = shutil.copytree(finished, tmp_path / "s.zarr"), whole("sample")[0]
    before = files(store)
    break_it(store)
    if words:
        with pytest.raises(ValueError, match=words):
            sample(store)
    assert dtda.verify(store)["status"].tolist() == status
    assert dtda.repair(store)["status"].tolist() == status
    assert "damaged" not in dtda.verify(store)["status"].tolist()
    with counted(monkeypatch) as drawn:
        check_same(sample(store), expected)
    assert sum(drawn) == 4 * (3 - status.count("finished"))
    assert files(store) == before
    assert not [*store.rglob("*.partial"), *store.glob(".new-*")]


@pytest.mark.parametrize("path", ["zarr.json", "sample/zarr.json"])
def test_metadata_that_are_damaged_are_named(path, finished, tmp_path):
    store = shutil.copytree(finished, tmp_path / "s.zarr")
    cut(path)(store)
    for call in (sample, dtda.load, dtda.verify, dtda.repair):
        with pytest.raises(StoreError, match=f"'{path}' is damaged, no JSON.*; copy"):
            call(store)


def failing(code, path):
    """Fail to write files of a path, in zarr and in what is replaced as a whole."""
    put, replace = zarr.storage._local._put, os.replace

    def fail(target):
        if re.search(path, str(target)):
            raise OSError(code, os.strerror(code), str(target))

    def putting(target, *args, **options):
        fail(target)
        return put(target, *args, **options)

    def replacing(old, new):
        fail(new)
        return replace(old, new)

    return {"zarr.storage._local._put": putting, "os.replace": replacing}


def locked(code):
    def acquire(self, *args, **options):
        raise OSError(code, os.strerror(code))

    return {"filelock.FileLock.acquire": acquire, "filelock.FileLock.__enter__": acquire}


UNWRITABLE = [
    ("values", failing(errno.ENOSPC, "loss/c/0/1"), "the disk is full; free some space"),
    ("record", failing(errno.ENOSPC, "finished/c/1"), "the disk is full; free some space"),
    ("quota", failing(errno.EDQUOT, "loss/c/0/1"), "quota is used up; free"),
    ("root", failing(errno.ENOSPC, "s.zarr/zarr.json$"), "the disk is full; free some space"),
    ("read-only", locked(errno.EROFS), "read-only; name a store elsewhere"),
    ("permission", locked(errno.EACCES), "permission is denied; name a store elsewhere"),
    ("device", failing(errno.EIO, "loss/c/0/1"), "Input/output error"),
]


@pytest.mark.parametrize(("name", "faults", "words"), UNWRITABLE, ids=[row[0] for row in UNWRITABLE])
def test_what_cannot_be_written_leaves_what_is_finished(
    name, faults, words, whole, tmp_path, monkeypatch
):
    sample(tmp_path / "s.zarr", 4)
    before = files(tmp_path / "s.zarr")
    expected = whole("sample")[0]
    for target, function in faults.items():
        monkeypatch.setattr(target, function)
    with pytest.raises(OSError, match=words) as caught:
        sample(tmp_path / "s.zarr")
    monkeypatch.undo()
    assert name == "device" or "What is finished is safe: call again" in str(caught.value)
    assert before.items() <= files(tmp_path / "s.zarr").items()
    assert losses(dtda.load(tmp_path / "s.zarr", "sample")).sizes["draw"] in (2, 4)
    check_same(sample(tmp_path / "s.zarr"), expected)


def test_a_full_disk_where_a_study_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", failing(errno.ENOSPC, "zarr.json")["os.replace"])
    with pytest.raises(OSError, match="the disk is full"):
        sample(tmp_path / "s.zarr")
    assert [*tmp_path.iterdir()] == []


def test_two_threads_do_not_write_at_once(whole, tmp_path, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def wait():
        begun.set()
        assert go_on.wait(60)

    with interrupted(monkeypatch, -1, before=wait), ThreadPoolExecutor(1) as pool:
        first = pool.submit(sample, tmp_path / "s.zarr")
        assert begun.wait(60)
        try:
            for call in (sample, dtda.repair):
                with pytest.raises(
                    StoreError, match="is being written by another process; wait for it"
                ):
                    call(tmp_path / "s.zarr")
        finally:
            go_on.set()
        check_same(first.result(), whole("sample")[0])


# Draws that are not finite, and memory that is not enough


def test_draws_that_are_not_finite_are_kept_counted_and_reported(tmp_path):
    source = train(dtda.kernels.sgd(optax.sgd(1e6), num_steps=40))
    store, words = tmp_path / "s.zarr", "8 of 8 draws diverge"
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=rf"{words}.*; they are kept"):
            tree = sample(store, 8, source=source)
    assert tree["sample_stats"]["diverging"].all()
    with pytest.warns(RuntimeWarning, match=f"/sample_stats: {words}"):
        check_same(dtda.load(store, "sample"), tree)
    assert dtda.verify(store)["num_diverging"].tolist() == [4, 4]
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="4 of 4 draws diverge.*scores that they enter are NaN"):
            found = score(store, dtda.unroll(source))
    assert np.isnan(found["score"]).all()
    assert dtda.verify(store).loc["scores", "num_diverging"].tolist() == [4]


@pytest.mark.parametrize("fits", [2, 1])
def test_memory_that_is_not_enough_halves_the_chunk_once(fits, tmp_path, monkeypatch, whole):
    """Two trainings fit, or only one."""
    draw, expected = drawing.draw_chunk, losses(whole("sample")[0])

    def limited(push, read, keys, *others):
        if len(keys) > fits:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return draw(push, read, keys, *others)

    limited.eval_shape = draw.eval_shape
    monkeypatch.setattr(drawing, "draw_chunk", limited)
    warned = pytest.warns(RuntimeWarning, match="chunk_size=4 does not fit .* going on with 2")
    if fits == 2:
        with warned as caught:
            found = sample(tmp_path / "s.zarr")
        assert len(caught) == 1
        np.testing.assert_allclose(losses(found), expected, rtol=2e-5)
    else:
        with warned, pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
            sample(tmp_path / "s.zarr")


# Engines


@contextmanager
def dask():
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client:
        yield client


@contextmanager
def spawned():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@contextmanager
def meshed():
    yield jax.make_mesh((1,), ("draw",))


ENGINES = {"threads": lambda: ThreadPoolExecutor(2), "processes": spawned, "dask": dask, "mesh": meshed}


@pytest.mark.parametrize("name", ENGINES)
def test_engines_write_the_same_bytes(name, finished, whole, tmp_path, one_query_at_a_time):
    with ENGINES[name]() as engine:
        check_same(sample(tmp_path / "s.zarr", engine=engine), whole("sample")[0])
        scores = score(tmp_path / "t.zarr", effects="effects", engine=engine)
    assert files(tmp_path / "s.zarr") == files(finished)
    # A mesh of a single device is compiled as one of several, so that responses are rounded otherwise.
    same = xr.testing.assert_allclose if name == "mesh" else check_same
    same(scores.load(), whole("pull of effects")[0])


def test_eight_devices_give_the_draws_of_one(tmp_path, monkeypatch):
    """To float32 rounding; a study that eight began is taken up by one."""
    options = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    command = [sys.executable, __file__, "devices", tmp_path / "s.zarr"]
    subprocess.run(command, env=os.environ | {"XLA_FLAGS": options}, check=True)
    with counted(monkeypatch) as drawn, interrupted(monkeypatch, -1) as done:
        found, scores = on_devices(tmp_path / "s.zarr")
    assert drawn == done == []
    expected, expected_scores = on_devices(None)
    np.testing.assert_allclose(losses(found), losses(expected), rtol=1e-5)
    np.testing.assert_allclose(scores["score"], expected_scores["score"], rtol=1e-4, atol=1e-6)


def on_devices(store, engine=None):
    return sample(store, 16, text(3)), score(store, engine=engine)


if __name__ == "__main__":
    if sys.argv[1] == "devices":
        assert len(jax.devices()) == 8
        on_devices(Path(sys.argv[2]), jax.make_mesh((4, 2), ("draw", "query")))
    else:
        sample(Path(sys.argv[2]), 200)
