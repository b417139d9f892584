"""The price of tasks: counted exactly, by the calls that the tasks then make."""

import logging

import jax
import numpy as np
import pytest
from tables import NUM_DATA, train

import dtda_prob as dtda
from dtda_prob import kernels
from dtda_prob.attribution import comparison, price_of_scores
from dtda_prob.sampling import price_of_sample
from dtda_prob.studies import price as pricing
from dtda_prob.studies.price import Price, price

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def training():
    return train(kernels.exact())


def compiled_in(caplog: pytest.LogCaptureFixture) -> int:
    """Count the calls that draw or pull and that XLA has compiled since the log was cleared."""
    messages = [record.getMessage() for record in caplog.records if "XLA" in record.getMessage()]
    return sum(any(f"jit({call})" in m for call in ("push_pairs", "pull_runs")) for m in messages)


def test_prices_count_trainings_and_each_call_is_compiled_once(training, caplog, tmp_path):
    caplog.set_level(logging.WARNING)
    with jax.log_compiles(True):
        sampled = price_of_sample(training, KEY, 4)
        assert compiled_in(caplog) == 1
        dtda.sample(training, KEY, 4)
        assert compiled_in(caplog) == 1
        caplog.clear()
        exact, where = dtda.retrain(training), dtda.Where(tmp_path / "s.zarr", effects="effects")
        scored = price_of_scores(exact, KEY, 4, where=where)
        assert compiled_in(caplog) == 1
        options = dtda.Options(check=False, num_resamples=0)
        dtda.attribute(exact, KEY, 4, ["mean"], options=options, where=where)
        assert compiled_in(caplog) == 1
    assert sampled.trainings == 4
    assert scored.trainings == 4 * (1 + exact.cost.pull) == 4 * (2 + NUM_DATA)
    assert min(sampled[1:] + scored[1:]) > 0


def test_prices_by_push_count_each_perturbation(training):
    pair = dtda.leave_one_out(training.program, [0, 1])
    whole = price_of_scores(training, KEY, 4, pair)
    assert whole.trainings == 4 * (1 + 2)
    parts = [price(task) for task in comparison(training, KEY, pair).tasks(4)]
    assert [part.trainings for part in parts] == [4, 8]
    assert whole.bytes == max(part.bytes for part in parts)


def test_heavy_chunks_are_timed_by_a_small_call(training, monkeypatch):
    sizes = []

    def seconds_of(call, arguments):
        sizes.append(len(arguments[3]))
        return 1.0

    monkeypatch.setattr(pricing, "seconds_of", seconds_of)
    price_of_sample(training, KEY, 32)
    monkeypatch.setattr(pricing, "LIGHT", 0.0)
    heavy = price_of_sample(training, KEY, 32)
    assert sizes == [32, pricing.PILOT_DRAWS]
    assert heavy.seconds == 32 / pricing.PILOT_DRAWS + pricing.WRITING


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ((1, 0.01, 900), "1 training, about 0.1 s, 900 bytes of memory at a time"),
        ((2.5, 61, 5 * 2**20), "2.5 trainings, about 61 s, 5 MiB of memory at a time"),
        ((1e6, 5400, 2**31), "1e+06 trainings, about 1.5 hours, 2 GiB of memory at a time"),
        ((float("nan"), 6e5, 2048), "about 6.9 days, 2 KiB of memory at a time"),
    ],
)
def test_prices_are_written_in_units_that_a_person_reads(number, text):
    assert str(Price(*number, memory=1e9, fitting=1)) == text


def test_a_plan_compares_the_ways_to_a_study(monkeypatch):
    training = train("sgd by epoch")
    group = dtda.remove(training.program, [0, 1])
    table = dtda.plan(dtda.unroll(training), KEY, num_draws=4, perturbations=group).table
    assert table["trainings"].tolist() == [8, 4 * (1 + 3), 4 * (1 + 2.5 * 4)]
    monkeypatch.setattr(pricing, "memory_of_device", lambda: 60_000.0)
    plan = dtda.plan(dtda.cosine(training), KEY, num_draws=160, chunk_size=160)
    assert plan.table["trainings"]["retrain"] == 160 * (NUM_DATA + 1)
    assert np.isnan(plan.table["seconds"]["push"])
    assert "160 draws of 12 perturbations and all 4 queries" in plan.advice
    fitting = int(plan.table["fitting"]["retrain"])
    assert 0 < fitting < 160
    assert f"does not fit: give chunk_size={fitting} at most" in str(plan)
