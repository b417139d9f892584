"""Studies in stores: what is kept is what is drawn, however often it was interrupted."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
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
from tables import blown_up, network, queries, regression, regression_data, train, train_network

import dtda_prob as dtda
from dtda_prob.attribution.scores import Scores
from dtda_prob.storage import StoreError
from dtda_prob.studies import draw
from dtda_prob.studies.draw import Draws
from dtda_prob.studies.pull import Responses

KEY = jax.random.key(0)
EVERYTHING = ("parameters", "losses", "log_likelihood", "log_prior")
LATE = dtda.kernels.keep(dtda.kernels.sgd(optax.sgd(0.05), num_steps=4, batch_size=4), 3)
TASKS = (Draws, Responses, Scores)


def sample(store=None, num_draws=12, weights=None, source=None, **given) -> xr.DataTree:
    """Sample in blocks of four pairs, two chains."""
    source = train("sgd by epoch") if source is None else source
    name, engine = given.pop("name", ""), given.pop("engine", None)
    own = {"chunk_size": 4, "num_chains": 2, "check": False}
    options = dtda.Options(**{option: given.pop(option, own[option]) for option in own})
    where = dtda.Where(store, name, engine)
    return dtda.sample(source, KEY, num_draws, weights, options=options, where=where, **given)


def score(store=None, source=None, num_draws=4, divergences=("mean",), **given) -> xr.Dataset:
    """Score the mean over four draws, a query at a time."""
    source = dtda.influence(train("exact"), at="old") if source is None else source
    places = ("name", "engine", "effects")
    where = dtda.Where(store, **{place: given.pop(place) for place in places if place in given})
    options = dtda.Options(num_permutations=3, num_resamples=4, check=False)
    return dtda.attribute(source, KEY, num_draws, divergences, options=options, where=where, **given)


def left_out(data, **options) -> xr.DataArray:
    return dtda.leave_one_out(train("sgd by epoch").program, data, **options)


def text(number: int) -> xr.DataArray:
    """Perturbations whose names are text of different length."""
    names = [f"without {'x' * i}{i}" for i in range(number)]
    return left_out(range(number)).assign_coords(perturbation=names)


def contents(tree: xr.DataTree | xr.Dataset) -> dict[str, np.ndarray]:
    """Return all arrays of what was sampled or scored, by path."""
    tree = tree if isinstance(tree, xr.DataTree) else xr.DataTree(tree)
    return {
        f"{node.path.removeprefix(tree.path)}/{name}".lstrip("/"): variable.values.astype(object)
        if variable.dtype.kind in "UTO"
        else variable.values
        for node in tree.subtree
        for name, variable in node.to_dataset(inherit=False).variables.items()
        if "blocks" not in node.path
    }


def check_same(tree, expected) -> None:
    """Compare all arrays bit for bit."""
    tree, expected = contents(tree), contents(expected)
    assert tree.keys() == expected.keys()
    for path, values in expected.items():
        assert tree[path].dtype == values.dtype, path
        np.testing.assert_array_equal(tree[path], values, err_msg=path)


def losses(tree: xr.DataTree) -> xr.DataArray:
    return tree["posterior_predictive"]["loss"]


@contextmanager
def interrupted(monkeypatch, after):
    """Stop before block number `after` of any task; give the blocks that are computed."""
    computed = []

    def stopping(call):
        def stop(self, block):
            if len(computed) == after:
                raise KeyboardInterrupt
            part = call(self, block)
            computed.append((type(self).__name__, block))
            return part

        return stop

    with monkeypatch.context() as patch:
        for task in TASKS:
            patch.setattr(task, "__call__", stopping(task.__call__))
        yield computed


# What is stored is what is drawn


def labelled():
    program = regression(labels=[f"row {i}" for i in range(12)])
    return train("exact", program, queries(queries=list("abcd")))


def vectors():
    measure = dtda.measures.prediction(jnp.ones((2, 3)))
    return dtda.Training(network(), train_network().kernel, measure)


SAMPLES = {
    "several": lambda: {"weights": text(3), "keep": EVERYTHING},
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
    "vectors": lambda: {"source": vectors()},
}


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_stored_is_what_is_drawn(name, tmp_path):
    given = SAMPLES[name]()
    expected = sample(**given)
    for _ in range(2):
        check_same(sample(tmp_path / "study.zarr", **given), expected)
    check_same(dtda.load(tmp_path / "study.zarr", "sample"), expected)
    plain = xr.open_datatree(tmp_path / "study.zarr", engine="zarr")["sample"]
    check_same(plain, expected)
    summary = arviz_stats.summary(plain, group="posterior_predictive", round_to="none")
    assert len(summary) == np.prod(next(iter(plain["posterior_predictive"].values())).shape[2:])


def test_ranges_are_checked_once(tmp_path):
    source = blown_up(train("sgd by epoch"), -10.0)
    given = {"weights": left_out([1, 2]), "source": source, "check": True}
    with pytest.warns(RuntimeWarning, match="are out of its range"):
        sample(tmp_path / "s.zarr", **given)
    sample(tmp_path / "s.zarr", **given)  # nothing is new, and nothing is said


CALLS = {
    "sample": lambda store, **where: sample(store, **where),
    "perturbations": lambda store, **where: sample(store, 4, text(6), **where),
    "pull of effects": lambda store, **where: score(store, effects="effects" if store else "", **where),
    "push": lambda store, **where: score(
        store, train("sgd by epoch"), perturbations=left_out([0, 3]), **where
    ),
}


@pytest.fixture
def one_query_at_a_time(monkeypatch):
    monkeypatch.setattr("dtda_prob.studies.pull.MOST_ELEMENTS", 1)


@pytest.fixture(scope="module")
def whole():
    """Return what a call gives in memory."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = CALLS[name](None)
        return made[name]

    return of


@pytest.mark.parametrize("name", [name for name in CALLS if name != "sample"])
def test_an_interrupted_call_goes_on_and_gives_what_memory_does(
    name, whole, tmp_path, monkeypatch, one_query_at_a_time
):
    expected, computed = whole(name), []
    for after in (0, 2):
        stop = pytest.raises(KeyboardInterrupt)
        with interrupted(monkeypatch, after) as some, stop as caught:
            CALLS[name](tmp_path / "study.zarr")
        assert re.search("are safe as name=.*; call the same again", caught.value.__notes__[-1])
        computed += some
    with interrupted(monkeypatch, -1) as some:
        check_same(CALLS[name](tmp_path / "study.zarr"), expected)
    once = [str(block) for block in computed + some if name != "push"]
    assert len({*once}) == len(once)
    assert (dtda.verify(tmp_path / "study.zarr")["status"] == "finished").all()


def test_a_killed_process_is_taken_up(tmp_path):
    store = tmp_path / "study.zarr"
    child = subprocess.Popen([sys.executable, __file__, "write", store], stdin=subprocess.PIPE)
    try:
        while not [*store.glob("sample/posterior_predictive/loss/c/0/1/*")]:
            assert child.poll() is None
            time.sleep(0.01)
        with pytest.raises(StoreError, match="another process"):
            sample(store, 200)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    check_same(sample(store, 200), sample(num_draws=200))


EXTENSIONS = {
    "blocks that are not full": (6, 10, {"chunk_size": 8}),
    "several perturbations": (4, 8, {"weights": text(3)}),
    "runs that are chains": (6, 18, {"source": train(LATE), "num_chains": None}),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_what_is_extended_is_what_is_larger(name, tmp_path, monkeypatch):
    few, many, given = EXTENSIONS[name]
    first = contents(sample(tmp_path / "s.zarr", few, **given))
    with interrupted(monkeypatch, -1) as computed:
        extended = sample(tmp_path / "s.zarr", many, **given)
    whole, along = sample(None, many, **given), 3 if "chains" in name else 2
    assert sum(block[0].stop - block[0].start for _, block in computed) == (many - few) // along
    np.testing.assert_allclose(losses(extended), losses(whole), rtol=2e-5)
    loss = first["posterior_predictive/loss"]
    there = tuple(slice(size) for size in loss.shape)
    np.testing.assert_array_equal(losses(extended).values[there], loss)
    fewer = sample(tmp_path / "s.zarr", few, **given)
    np.testing.assert_array_equal(losses(fewer), loss)


def test_more_scores_take_up_the_effects_that_are_there(tmp_path, monkeypatch, one_query_at_a_time):
    score(tmp_path / "s.zarr", effects="effects")
    with interrupted(monkeypatch, -1) as computed:
        more = score(tmp_path / "s.zarr", effects="effects", num_draws=6, name="more")
    assert len([kind for kind, _ in computed if kind == "Responses"]) == 2 * 4
    check_same(more, score(num_draws=6))


# What is refused


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Hold some samples and scores."""
    store = tmp_path_factory.mktemp("study") / "study.zarr"
    sample(store, 4, left_out([1, 2]))
    sample(store, 4, name="all")
    sample(store, 4, left_out([1]), dtda.retrain(train("sgd by epoch")), name="pushed")
    score(store, dtda.unroll(train("sgd by epoch")), effects="effects")
    return store


def files(store: Path) -> dict[str, bytes]:
    chunks = (file for file in store.rglob("c/**/*") if file.is_file())
    return {file.relative_to(store).as_posix(): file.read_bytes() for file in chunks}


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
OTHERS = "perturbations are others than those stored"


def on(weights=None, num_draws=4, source=None, **options):
    return lambda store: sample(store, num_draws, weights, source() if source else None, **options)


def mean(old, new):
    return 2 * (old - new).mean(0)


def other_key(store):
    options, where = dtda.Options(num_chains=2), dtda.Where(store, "all")
    return dtda.sample(train("sgd by epoch"), jax.random.key(1), 4, options=options, where=where)


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
    ("labels", on(source=labelled), f"the labels of the examples differ.*{ELSE}"),
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
    ("key", other_key, "key is 0, 1, stored 0, 0"),
    ("chains", on(num_chains=4, name="all"), "num_chains is 4, stored 2"),
    ("keep", on(keep=["losses"], name="all"), "keep is "),
    ("order", on(left_out([2, 1])), OTHERS),
    ("renamed", on(left_out([1, 2]).assign_coords(perturbation=[1, 3])), "names of the perturbations"),
    ("changed", on(left_out([1, 2]) * 2), OTHERS),
    ("more", on(left_out([1, 2, 3])), OTHERS),
    ("dropped", on(left_out([1, 2], removal="drop")), "removal is drop, stored reweight"),
    ("single", on(left_out([1])[0]), OTHERS),
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
        lambda s: score(s, dtda.unroll(train("sgd by epoch")), divergences=["variance"]),
        r"divergences are \[.*variance.*\], stored",
    ),
    (
        "a divergence of the same name",
        lambda s: score(s, dtda.unroll(train("sgd by epoch")), divergences=[mean]),
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


@pytest.mark.parametrize("name", ["a/b", "..", ".", ".x", "a b", "zarr.json", "ä"])
def test_bad_names_are_refused(name):
    with pytest.raises(ValueError, match=rf"name={re.escape(repr(name))} "):
        dtda.Where("s.zarr", name)


ASKED_WRONGLY = [
    (
        {"num_draws": dtda.until(lambda scores: scores)},
        r"num_draws=until\(\.\.\.\).* number",
    ),
    ({"direction": "push", "effects": "e"}, "effects='e' come from a pull: omit them"),
    ({"effects": "scores"}, "effects='scores' have the name of the scores; choose another"),
    ({"store": None, "effects": "e"}, "effects='e' are kept in a store: name one"),
]


@pytest.mark.parametrize(("given", "words"), ASKED_WRONGLY)
def test_bad_requests_of_scores_are_refused(given, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        score(**{"store": tmp_path / "s.zarr"} | given)
    assert not (tmp_path / "s.zarr").exists()


# Draws that are not finite, memory that is not enough, devices and engines


def test_draws_that_are_not_finite_are_kept_counted_and_reported(tmp_path):
    source = train(dtda.kernels.sgd(optax.sgd(1e6), num_steps=40))
    store, words = tmp_path / "s.zarr", "8 of 8 draws diverge"
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=rf"{words}.*; they are kept"):
            tree = sample(store, 8, source=source)
    assert tree["sample_stats"]["diverging"].all()
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="4 of 4 draws diverge.*scores that they enter are NaN"):
            scores = score(store, dtda.unroll(source))
    assert np.isnan(scores["score"]).all()
    assert (scores["num_not_finite"] == 4).all()


@pytest.mark.parametrize("fits", [2, 1])
def test_memory_that_is_not_enough_halves_the_chunk_once(fits, monkeypatch, whole):
    """Two trainings fit, or only one."""
    push, expected = draw.push_pairs, losses(whole("sample"))

    def limited(source, keep, mesh, keys, *others):
        if len(keys) > fits:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return push(source, keep, mesh, keys, *others)

    monkeypatch.setattr(draw, "push_pairs", limited)
    warned = pytest.warns(RuntimeWarning, match="chunk_size=4 does not fit .* going on with 2")
    if fits == 2:
        with warned as caught:
            tree = sample()
        assert len(caught) == 1
        np.testing.assert_allclose(losses(tree), expected, rtol=2e-5)
    else:
        with warned, pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
            sample()


@contextmanager
def spawned():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@contextmanager
def meshed():
    yield jax.make_mesh((1,), ("draw",))


ENGINES = {"threads": lambda: ThreadPoolExecutor(2), "processes": spawned, "mesh": meshed}


@pytest.mark.parametrize("name", ENGINES)
def test_engines_give_the_same_bits(name, whole, tmp_path, one_query_at_a_time):
    with ENGINES[name]() as engine:
        check_same(sample(tmp_path / "s.zarr", engine=engine), whole("sample"))
        scores = score(tmp_path / "t.zarr", effects="effects", engine=engine)
    # A mesh of a single device is compiled as one of several, so that responses are rounded otherwise.
    same = xr.testing.assert_allclose if name == "mesh" else check_same
    same(scores.load(), whole("pull of effects"))


def test_four_devices_give_the_draws_of_one(tmp_path, monkeypatch):
    """To float32 rounding; a study that four began is taken up by one.

    The second study splits each training over the devices, its parameters and its batches, in double
    precision.
    """
    options = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    command = [sys.executable, __file__, "devices", tmp_path / "s.zarr"]
    subprocess.run(command, env=os.environ | {"XLA_FLAGS": options}, check=True)
    with interrupted(monkeypatch, 0):
        tree, scores = on_devices(tmp_path / "s.zarr")
    expected, expected_scores = on_devices(None)
    np.testing.assert_allclose(losses(tree), losses(expected), rtol=1e-5)
    np.testing.assert_allclose(scores["score"], expected_scores["score"], rtol=1e-4, atol=1e-6)
    inside = dtda.load(tmp_path / "inside.zarr", "scores")
    np.testing.assert_allclose(inside["score"], inside_training()["score"], rtol=1e-9, atol=1e-14)


def on_devices(store, engine=None):
    return sample(store, 16, text(3)), score(store, engine=engine)


def inside_training(store=None, engine=None):
    with jax.enable_x64(True):
        return score(store, dtda.unroll(train_network(), at="old"), 3, engine=engine)


if __name__ == "__main__":
    if sys.argv[1] == "devices":
        assert len(jax.devices()) == 4
        store = Path(sys.argv[2])
        on_devices(store, jax.make_mesh((2, 2), ("draw", "query")))
        inside_training(store.with_name("inside.zarr"), jax.make_mesh((2, 2), ("parameter", "example")))
    else:
        sample(Path(sys.argv[2]), 200)
