"""The price of one step: counted exactly, by the call that the step then makes."""

import logging

import jax
import pytest
from tables import NUM_DATA, train

import dtda_prob as dtda
from dtda_prob import kernels
from dtda_prob.pricing import Price, calls, price_attribution, price_draws, together
from dtda_prob.pricing import price as pricing

KEY = jax.random.key(0)
CALLS = ("draw_chunk", "_pull_runs")


@pytest.fixture(scope="module")
def training():
    return train(kernels.exact())


def compiled_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Name the calls that XLA has compiled since the log was cleared."""
    messages = [record.getMessage() for record in caplog.records]
    found = [m for m in messages if "XLA compilation" in m]
    return [name for m in found for name in CALLS if f"jit({name})" in m]


def test_prices_count_trainings_and_each_call_is_compiled_once(training, caplog, tmp_path):
    caplog.set_level(logging.WARNING)
    with jax.log_compiles(True):
        price = price_draws(training, KEY, 8)
        assert compiled_in(caplog) == ["draw_chunk"]
        dtda.sample(training, KEY, 8)
        assert compiled_in(caplog) == ["draw_chunk"]
        caplog.clear()
        exact = dtda.retrain(training)
        scored = price_attribution(exact, KEY, 4, kept=True)
        assert compiled_in(caplog) == ["_pull_runs"]
        kept = {"store": tmp_path / "s.zarr", "effects": "effects", "check": False}
        dtda.attribute(exact, KEY, 4, ["mean"], num_resamples=0, **kept)
        assert compiled_in(caplog) == ["_pull_runs"]
    assert price.trainings == 8
    assert scored.trainings == 4 * (1 + exact.cost.pull) == 4 * (2 + NUM_DATA)
    assert min(price[1:] + scored[1:]) > 0


def test_prices_by_push_count_each_perturbation(training):
    pair = dtda.leave_one_out(training.program, [0, 1])
    assert price_attribution(training, KEY, 4, pair).trainings == 4 * (1 + 2)


def test_heavy_chunks_are_timed_by_a_small_call(training, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        calls, "seconds_of", lambda call, *arguments: sizes.append(len(arguments[0])) or 1.0
    )
    price_draws(training, KEY, 32)
    monkeypatch.setattr(pricing, "LIGHT", 0.0)
    heavy = price_draws(training, KEY, 32)
    assert sizes == [32, calls.PILOT_DRAWS]
    assert heavy.seconds == 32 / calls.PILOT_DRAWS


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (Price(1, 0.01, 900, 1e9), "1 training, about 0.1 s, 900 bytes of memory at a time"),
        (Price(2.5, 61, 5 * 2**20, 1e9), "2.5 trainings, about 61 s, 5 MiB of memory at a time"),
        (Price(1e6, 5400, 2**31, 1e9), "1e+06 trainings, about 1.5 hours, 2 GiB of memory at a time"),
        (Price(float("nan"), 6e5, 2048, 1e9), "about 6.9 days, 2 KiB of memory at a time"),
    ],
)
def test_prices_are_said_in_units_that_a_person_reads(price, text):
    assert str(price) == text


def test_steps_that_follow_each_other_add_up():
    assert together(Price(1, 2, 30, 5), Price(10, 20, 3, 5)) == Price(11, 22, 30, 5)
