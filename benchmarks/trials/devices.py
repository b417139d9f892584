"""Draw on many devices of one process: the same numbers, and how much sooner."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trials.outcome import Outcome
from trials.processes import ONE_THREAD, finish, folder, start

SEED = 0
NUM_DRAWS, NUM_PULLED = 256, 8
REPEATS = 3
TIMES = 4.0
"""Training enlarges what float32 rounds: differences are held against those that threads make."""
SPEED_UP = 1.7
COUNTS = (1, 2, 4, 8)


def devices() -> Outcome:
    """Sample and attribute in one process with 1, 2, 4 and 8 devices, forced on the available cores.

    256 draws in chunks of 64, and scores of all examples by pull of 8 draws, each in its own
    process. Seconds are the least of three, after a call that compiles; "speed-up" is relative to
    one device with one thread (`NPROC=1`), and "cores" is the average number of busy cores. "same
    bits" is the share of numbers (the losses; the mean scores) that equal the results of one device
    with all threads. "difference" is the largest difference relative to the largest number of that
    kind for the same query.
    """
    with folder() as place:
        rows = [_measured(place, 1, "one", ONE_THREAD)]
        for count in COUNTS:
            rows.append(_measured(place, count, "all", {"XLA_FLAGS": _forced(count)}))
        found = {name: np.load(place / f"{name}.npz") for name in _names()}
    table = pd.DataFrame(rows)
    for what in ("sample", "attribute"):
        table[f"{what} speed-up"] = table[f"{what} seconds"][0] / table[f"{what} seconds"]
        reference = found["1 all"][what]
        table[f"{what} same bits"] = [(each[what] == reference).mean() for each in found.values()]
        table[f"{what} difference"] = [_difference(each[what], reference) for each in found.values()]
    return Outcome(table, _claims(table))


def _claims(table: pd.DataFrame) -> dict[str, bool]:
    several, differences = table["devices"] > 1, ["sample difference", "attribute difference"]
    most = table[several][differences].max().max()
    own = table[~several][differences].max().max()
    several = table[several]
    best = {what: several[f"{what} speed-up"].max() for what in ("sample", "attribute")}
    return {
        f"Several devices give the numbers of one but for rounding, {most:.1e} at most; one device "
        f"with one thread differs from itself by {own:.1e}.": most < TIMES * own,
        **{
            f"Devices make {what} {gain:.2f} times as fast as one thread, at best.": gain > SPEED_UP
            for what, gain in best.items()
        },
    }


def _names() -> list[str]:
    return ["1 one", *(f"{count} all" for count in COUNTS)]


def _forced(count: int) -> str:
    return f"--xla_force_host_platform_device_count={count}"


def _measured(place: Path, count: int, threads: str, settings: dict[str, str]) -> dict[str, Any]:
    file = place / f"{count} {threads}.npz"
    finish(start("devices", count, file, PYTHONPATH=str(Path(__file__).parents[1]), **settings))
    with np.load(file) as found:
        measured = {name: float(found[name]) for name in found.files if " " in name}
    row = {"devices": count, "threads": threads, **measured}
    print(row, flush=True)
    return row


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Compare arrays `(query, ...)`."""
    rows = ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
    return float((np.abs(rows[0] - rows[1]).max(1) / np.abs(rows[1]).max(1)).max())


def _least(call: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """Return the result of a call, the least seconds of several, and the average busy cores."""
    call()
    times = []
    for _ in range(REPEATS):
        start, used = time.perf_counter(), time.process_time()
        found = call()
        seconds = time.perf_counter() - start
        times.append((seconds, (time.process_time() - used) / seconds))
    return found, *min(times)


def _job(count: int, file: Path) -> None:
    """Measure in this process, which has so many devices."""
    import jax

    import dtda_prob as dtda
    from trials.study import training

    assert jax.device_count() == count
    source, key = training(), jax.random.key(SEED)
    options, where = dtda.Options(check=False), dtda.Where(progress=False)
    transform = dtda.unroll(source)

    def sample() -> np.ndarray:
        tree = dtda.sample(source, key, NUM_DRAWS, options=options, where=where)
        return tree["posterior_predictive"]["loss"].transpose("query", ...).values

    def attribute() -> np.ndarray:
        scores = dtda.attribute(transform, key, NUM_PULLED, ["mean"], options=options, where=where)
        return scores["score"].transpose("query", ...).values

    found = {}
    for call in (sample, attribute):
        name, (numbers, seconds, cores) = call.__name__, _least(call)
        found |= {name: numbers, f"{name} seconds": seconds, f"{name} cores": cores}
    np.savez(file, **found)


if __name__ == "__main__":
    _job(int(sys.argv[1]), Path(sys.argv[2]))
