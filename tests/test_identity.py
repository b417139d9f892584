"""Identities: the same for the same study wherever it is made, and a sentence for each change."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import init_to_sample
from numpyro.infer.autoguide import AutoNormal
from tables import regression_data

import dtda_prob as dtda
from dtda_prob import kernels
from dtda_prob.studies.differences import differences, other_versions
from dtda_prob.studies.digests import of_function, of_labels
from dtda_prob.studies.identity import of_program, of_source, surroundings, versions

X, Y = (array.astype(np.float32) for array in regression_data())
LABELS = [f"row {i}" for i in range(len(Y))]


def model_of(prior=2.0, activation=jnp.tanh, family=dist.Normal, extra=False, shift=0.0):
    def model(x, y, noise):
        slopes = numpyro.sample("slopes", dist.Normal(0.0, prior).expand([3]).to_event(1))
        level = numpyro.sample("level", family(0.0, 1.0)) if extra else 0.0
        with numpyro.plate("data", len(x)) as i:
            means = activation(x[i] @ slopes) + level + jnp.asarray(shift)
            numpyro.sample("y", dist.Normal(means, noise), obs=y[i])

    return model


def program(
    *, model=None, x=X, y=Y, noise=0.5, labels=LABELS, vary=(), drop=0, **options
) -> dtda.Program:
    made = dtda.Program(model or model_of(), x, y, noise=noise, labels=labels, **options)
    made = dtda.vary(made, *vary) if vary else made
    return made.drop(drop) if drop else made


usual = cache(program)


def descent(rate=0.05, momentum=0.9, batch_size=4, num_steps=6, num_states=1):
    optimizer = optax.sgd(rate, momentum=momentum)
    kernel = kernels.sgd(optimizer, num_steps=num_steps, batch_size=batch_size)
    return kernels.keep(kernel, num_states)


def study(*, kernel=None, measure=None, transform=lambda training: training, **options):
    bound = program(**options) if options else usual()
    return transform(dtda.Training(bound, kernel or descent(), measure or queries()))


def queries(num=2, shift=0.0, **options):
    return dtda.measures.loss(X[:num] + shift, Y[:num], noise=0.5, **options)


def identity(source) -> dict:
    training = source if isinstance(source, dtda.Training) else source.training
    return of_program(training.program) | of_source(source)


def influence(damping=0.1, factorization="eigen", **options):
    curvature = dtda.curvature.dense(damping=damping, factorization=factorization)
    return lambda training: dtda.influence(training, curvature, **options)


def other(array, place=(0,)):
    """Change one number of an array."""
    changed = array.copy()
    changed[place] += 1e-3
    return changed


CHANGES = {
    "an example": (
        {"x": other(X, (3, 1))},
        "data: argument x (float32 of shape (12, 3)) holds other values",
    ),
    "a label": ({"y": other(Y)}, "data: argument y (float32 of shape (12,)) holds other values"),
    "precision": (
        {"x": X.astype(np.float16)},
        "data: argument x is float16 of shape (12, 3), stored",
    ),
    "an argument": ({"noise": 0.25}, "data: argument noise is 0.25, stored 0.5"),
    "kind of an argument": ({"noise": 1}, "data: argument noise is int, stored float"),
    "name of an example": ({"labels": ["new", *LABELS[1:]]}, "data: the labels of the examples differ"),
    "prior": ({"model": model_of(prior=1.0)}, "program: the objective differs"),
    "activation": ({"model": model_of(activation=jax.nn.relu)}, "program: the objective differs"),
    "a constant": ({"model": model_of(shift=np.ones(1))}, "program: the objective differs"),
    "new site": ({"model": model_of(extra=True)}, "program: site level is new"),
    "drop": ({"drop": 3}, "program: num_rows is 9, stored 12"),
    "settings": ({"vary": ["noise"]}, "program: what varies is [noise ()], stored []"),
    "start": ({"init_strategy": init_to_sample}, "program: the initialisation differs"),
    "number of steps": ({"kernel": descent(num_steps=9)}, "kernel: num_steps is 9, stored 6"),
    "number of states": ({"kernel": descent(num_states=2)}, "kernel: num_states is 2, stored 1"),
    "temperature": (
        {"kernel": kernels.sgld(1e-3, num_steps=6, batch_size=4)},
        "kernel: temperature is 1.0, stored None",
    ),
    "learning rate": ({"kernel": descent(rate=0.06)}, "kernel: the training algorithm differs"),
    "batch size": ({"kernel": descent(batch_size=3)}, "kernel: the training algorithm differs"),
    "momentum": ({"kernel": descent(momentum=0.8)}, "kernel: the training algorithm differs"),
    "number of queries": ({"measure": queries(3)}, "measure: num_queries is 3, stored 2"),
    "names of queries": (
        {"measure": queries(queries=["a", "b"])},
        "measure: the labels of the queries",
    ),
    "inputs of queries": ({"measure": queries(shift=0.1)}, "measure: what is measured differs"),
    "measure": (
        {"measure": dtda.measures.squared_error(X[:2], Y[:2], noise=0.5)},
        "measure: name is squared_error, stored loss",
    ),
    "transform": ({"transform": dtda.unroll}, "transform: unroll(), stored"),
}
"""Options of the study, and what is said of each."""


def shared_discrete() -> dtda.Training:
    def model(y):
        side = numpyro.sample("side", dist.Bernoulli(0.5))
        level = numpyro.sample("level", dist.Normal())
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(level + side), obs=y)

    bound = dtda.Program(model, Y)
    kernel = kernels.sgd(optax.sgd(0.1), num_steps=2)
    return dtda.Training(bound, kernel, dtda.measures.parameters())


STUDIES = {
    "training": study,
    "influence": lambda: study(transform=influence()),
    "at weights": lambda: study(transform=influence(at=np.ones(12))),
    "variational": lambda: study(kernel=kernels.svi(AutoNormal, optax.adam(0.1), num_steps=3)),
    "shared discrete": shared_discrete,
    "no push": lambda: study(transform=dtda.cosine),
}


ELSEWHERE = ("influence", "variational")


@cache
def stored(name: str = "training") -> dict:
    return identity(STUDIES[name]())


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_named_and_nothing_else(change):
    options, words = CHANGES[change]
    here = identity(study(**options))
    (said,) = differences(stored(), here)
    assert said.startswith(words.split(":")[0] + ":")
    assert words in said
    assert len(differences(here, stored())) == 1


@pytest.mark.parametrize(
    ("name", "transform", "words"),
    [
        ("influence", dtda.unroll, "transform: unroll(), stored influence("),
        ("influence", influence(damping=0.2), "transform: influence(curvature=dense(damping=0.2))"),
        ("influence", influence(at="old"), "dense(damping=0.1), at='old'), stored"),
        ("influence", influence(factorization="cholesky"), "factorization='cholesky')), stored"),
        ("at weights", influence(at=np.full(12, 0.5)), "transform: it is expanded at other weights"),
    ],
)
def test_another_push_forward_is_named(name, transform, words):
    (said,) = differences(stored(name), identity(study(transform=transform)))
    assert words in said


def test_consequences_are_left_out_and_causes_are_not():
    options = {"x": X[:9], "y": Y[:9], "labels": LABELS[:9], "model": model_of(prior=1.0)}
    here = identity(study(kernel=descent(rate=0.1), measure=queries(3), **options))
    assert differences(stored(), here) == [
        "data: argument x is float32 of shape (9, 3), stored float32 of shape (12, 3)",
        "data: argument y is float32 of shape (9,), stored float32 of shape (12,)",
        "measure: num_queries is 3, stored 2",
    ]


def test_other_versions_are_no_difference_and_may_be_why_there_is_one():
    here = stored() | {"versions": versions()}
    old = stored() | {"versions": versions() | {"jax": "0.1"}}
    assert differences(old, here) == []
    assert other_versions(old, here) == [f"jax is {jax.__version__}, stored 0.1"]
    (said,) = differences(old | {"objective": "blake2b:0"}, here)
    assert said.endswith(f"; or it is traced otherwise, as jax is {jax.__version__}, stored 0.1")


@pytest.mark.parametrize("junk", [None, 3, "text", [1], {"x": [None]}, {"x" * 999: "y" * 999}])
def test_a_foreign_identity_is_told_in_few_words(junk):
    foreign = dict.fromkeys(stored(), junk)
    said = differences(foreign, stored())
    assert 5 < len(said) < 40
    assert max(map(len, said)) < 300


def test_long_lists_are_cut():
    sites = {f"layer{i}": "a parameter" for i in range(30)}
    said = differences(stored(), stored() | {"sites": stored()["sites"] | sites})
    assert said[4:] == ["program: site layer4 is new", "program: 25 more like these"]


def test_an_identity_survives_pickle_and_json():
    for name in ("training", "influence"):
        again = identity(cloudpickle.loads(cloudpickle.dumps(STUDIES[name]())))
        assert json.loads(json.dumps(again)) == stored(name)


def test_another_process_with_another_order_of_sets_gives_the_same():
    code = "import json, test_identity as t; print(json.dumps({n: t.stored(n) for n in t.ELSEWHERE}))"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {name: stored(name) for name in ELSEWHERE}


@pytest.mark.parametrize("name", ["training", "no push"])
def test_a_study_made_twice_is_the_same(name):
    usual.cache_clear()
    assert identity(STUDIES[name]()) == stored(name)


ROW = np.arange(3, dtype=np.float32)
CLOSURES = {
    "plain": lambda array: lambda x: x + array,
    "compiled": lambda array: jax.jit(lambda x: x * jnp.sin(array)),
    "compiled in a scan": lambda array: (
        lambda x: jax.lax.scan(jax.jit(lambda c, _: (c * array, c)), x, length=2)[0]
    ),
    "branch": lambda array: lambda x: jax.lax.cond(x[0] > 0, lambda: x + array, lambda: x),
    "derivative": lambda array: jax.grad(lambda x: jnp.sum(jax.nn.relu(x * array))),
}


@pytest.mark.parametrize("closure", CLOSURES)
def test_arrays_that_are_closed_over_count_at_any_depth(closure):
    def digest(array):
        return of_function(CLOSURES[closure](array), jax.ShapeDtypeStruct((3,), "float32"))

    assert digest(ROW) == digest(ROW.copy())
    assert digest(ROW) != digest(other(ROW, (1,)))


def test_a_digest_is_of_what_is_computed():
    def digest(function, *args):
        return of_function(function, *(args or (1.0, 2.0)))

    named = jax.jit(lambda x, y: x + y)
    assert digest(lambda x, y: (x + y) * 2.0) == digest(lambda a, b: (a + b) * 2.0)
    assert digest(lambda x, y: (x + y) * 2.0) != digest(lambda x, y: (x + y) * 2.000001)
    assert digest(lambda x, y: x - y) != digest(lambda x, y: y - x)
    assert digest(lambda x, y: (x + 1, y * 2)) != digest(lambda x, y: (y * 2, x + 1))
    assert digest(named) == digest(jax.jit(lambda a, b: a + b))
    assert digest(lambda x, y: x) != digest(lambda x, y: x, np.ones(2), 2.0)
    keys = (jax.random.key(seed) for seed in (0, 0, 1))
    first, same, new = (digest(lambda x, y, k=k: x * jax.random.normal(k)) for k in keys)
    assert first == same != new


def test_arguments_are_told_by_name_whatever_they_are():
    def model(x, key, options):
        jitter = jax.random.normal(key) * options["size"]
        level = numpyro.sample("level", dist.Normal())
        with numpyro.plate("data", len(x)) as i:
            numpyro.sample("y", options["family"](level + jitter), obs=x[i])

    def made(seed=0, family=dist.Normal, size=2):
        options = {"family": family, "size": np.float32(size)}
        return of_program(dtda.Program(model, Y, jax.random.key(seed), options=options))

    base = made()
    assert differences(base, made()) == []
    for changed, words in [
        (made(seed=1), "data: argument key (key<fry> of shape ()) holds other values"),
        (made(size=3), "data: argument options.size (float32 of shape ()) holds other"),
        (made(family=dist.Cauchy), "data: argument options.family is Cauchy, stored Normal"),
    ]:
        assert differences(base, changed)[0].startswith(words)


def test_labels_are_told_apart_whatever_their_type():
    kinds = (np.arange(3), np.arange(3) + 1, np.array(["0", "1", "2"]), np.array([0, 1, "x"], object))
    assert len({of_labels(labels) for labels in kinds}) == 4
    assert of_labels(np.arange(3)) == of_labels(np.arange(3, dtype=np.int16))


def test_another_stream_of_random_numbers_or_precision_is_another_study():
    here = surroundings() | stored()
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        (said,) = differences(here, surroundings() | identity(study()))
    assert said.startswith("random numbers: the stream is threefry, ")
    with jax.enable_x64(True):
        (said,) = differences(here, surroundings() | identity(study()))
    assert said == "numbers: floats are float64, stored float32 (jax_enable_x64)"


def test_flags_and_processors_are_told_of(monkeypatch):
    here = versions()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    told = other_versions({"versions": here | {"processor": "A"}}, {"versions": versions()})
    assert told[0] == f"processor is {here['processor']}, stored A"
    assert told[1].startswith("XLA_FLAGS is --xla_cpu_enable_fast_math=true, stored ")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    assert versions()["XLA_FLAGS"] == "none"
