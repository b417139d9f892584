"""Keep a bounded number of items in flight, report those that land, and resubmit what is lost."""

import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from time import sleep
from typing import Any, NamedTuple

from dtda_prob.engines.errors import EngineError
from dtda_prob.engines.payload import Answer, Lost, Missing, Raised, Report

IN_FLIGHT = 2
"""Items submitted for each that can be computed at once: the next one waits beside its worker."""

RESUBMISSIONS = 3
"""How often an item is submitted again after it was lost."""

_GLANCE = 1.0  # seconds between looks at whether the engine is still there, when nothing lands
_MOMENT = 0.1  # seconds in which what one event took arrives


class Crew(NamedTuple):
    """Those who compute, as a flight sees them.

    Attributes:
        submit: gives them an item, and the task with it if asked to; a future with `add_done_callback`.
        collect: the answer of a future that is done, of which they then keep nothing.
        withdraw: takes an item back unless it has begun, and says whether it did.
        abandon: takes an item back whether it has begun or not, as far as they can.
        size: how many items they compute at once.
        watch: raises `EngineError` if they cannot be reached any more.
        recover: gets them ready after a loss; raises as `watch` does.
    """

    submit: Callable[[Any, bool], Any]
    collect: Callable[[Any], Answer]
    withdraw: Callable[[Any], bool]
    abandon: Callable[[Any], Any]
    size: Callable[[], int]
    watch: Callable[[], None]
    recover: Callable[[], None]


class _Flight(NamedTuple):
    items: Sequence[Any]
    crew: Crew
    done: Callable[[Any, Any], None]
    waiting: deque[int]
    flying: dict[Any, int]
    landed: SimpleQueue
    losses: Counter[int]
    failures: list[Exception]


def fly(items: Sequence[Any], crew: Crew, done: Callable[[Any, Any], None]) -> None:
    """Have all items computed.

    Raises:
        EngineError: if the crew cannot go on, or loses an item more than `RESUBMISSIONS` times.
        Exception: that of the task, once the items that were in flight have finished.
    """
    waiting = deque(range(len(items)))
    flight = _Flight(items, crew, done, waiting, {}, SimpleQueue(), Counter(), [])
    try:
        while flight.waiting or flight.flying:
            _fill(flight)
            _settle(flight, _land(flight))
    except (KeyboardInterrupt, EngineError):
        _report_the_finished(flight)
        raise
    finally:
        for future in flight.flying:
            crew.abandon(future)
    if flight.failures:
        raise flight.failures[0]


def _fill(flight: _Flight) -> None:
    if flight.waiting:
        room = max(1, flight.crew.size()) * IN_FLIGHT - len(flight.flying)
        for _ in range(min(room, len(flight.waiting))):
            _launch(flight, flight.waiting.popleft(), with_task=False)


def _launch(flight: _Flight, index: int, with_task: bool) -> None:
    future = flight.crew.submit(flight.items[index], with_task)
    flight.flying[future] = index
    future.add_done_callback(flight.landed.put)


def _land(flight: _Flight) -> list[Any]:
    """Wait for a future that is done, and take all others that are."""
    try:
        landed = [flight.landed.get(timeout=_GLANCE)]
    except Empty:
        flight.crew.watch()
        return []
    while not flight.landed.empty():
        landed.append(flight.landed.get())
    return landed


def _settle(flight: _Flight, landed: Sequence[Any]) -> None:
    lost = _take(flight, landed)
    if lost:
        sleep(_MOMENT)
        while not flight.landed.empty():
            lost += _take(flight, [flight.landed.get()])
        _again(flight, lost)


def _take(flight: _Flight, landed: Sequence[Any]) -> list[tuple[int, BaseException]]:
    """Deal with answers, and give the items that were lost, each with what it was lost by."""
    lost = []
    for future in landed:
        if future not in flight.flying:  # taken back
            continue
        index = flight.flying.pop(future)
        match flight.crew.collect(future):
            case Report(value):
                flight.done(flight.items[index], value)
            case Missing() if not flight.failures:
                _launch(flight, index, with_task=True)
            case Raised(error):
                _stop(flight, index, error)
            case Lost(error):
                lost.append((index, error))
    return lost


def _stop(flight: _Flight, index: int, error: Exception) -> None:
    error.add_note(f"raised by {flight.items[index]}")
    flight.failures.append(error)
    flight.waiting.clear()
    for future in [*flight.flying]:
        if flight.crew.withdraw(future):
            flight.flying.pop(future)


def _again(flight: _Flight, lost: Sequence[tuple[int, BaseException]]) -> None:
    flight.crew.recover()
    if flight.failures:
        return
    index, error = lost[0]
    warnings.warn(
        f"{len(lost)} of the items in flight were lost and are computed again ({_said(error)})",
        RuntimeWarning,
        stacklevel=2,
    )
    flight.losses.update(index for index, _ in lost)
    for index, error in lost:
        if flight.losses[index] > RESUBMISSIONS:
            raise EngineError(
                f"{flight.items[index]} was lost {RESUBMISSIONS + 1} times, the last time by "
                f"{_said(error)}: see the logs of the workers, whose memory may not be enough for it"
            ) from error
        flight.waiting.appendleft(index)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _report_the_finished(flight: _Flight) -> None:
    for future, index in [*flight.flying.items()]:
        if future.done():
            flight.flying.pop(future)
            try:
                answer = flight.crew.collect(future)
            except EngineError:
                continue
            if isinstance(answer, Report):
                flight.done(flight.items[index], answer.value)
