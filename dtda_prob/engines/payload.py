"""Take a task to other processes: serialised once, deserialised once in each of them.

Compiled code is kept by the identity of the function it was compiled from: a task that was
deserialised for each of its items would be compiled for each of them. Processes therefore keep tasks,
by their content.
"""

import hashlib
import traceback
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple

import cloudpickle

KEPT = 2
"""How many tasks a process keeps: each holds its data."""

_tasks: dict[str, Callable] = {}
_delivered: dict[str, bytes] = {}
_lock = Lock()


class Packed(NamedTuple):
    """A task on its way.

    Attributes:
        digest: of its content.
        content: of which the task is made; None where the process is thought to have it.
    """

    digest: str
    content: bytes | None


class Report(NamedTuple):
    """What the task said of an item."""

    value: Any


class Raised(NamedTuple):
    """The task raised, or could not be brought to where it was to run."""

    error: Exception


class Missing(NamedTuple):
    """The process does not have the task yet."""


class Lost(NamedTuple):
    """Those who compute have lost the item; the task is not to blame."""

    error: BaseException


Answer = Report | Raised | Missing | Lost


def pack(task: Callable) -> Packed:
    """Serialise a task."""
    content = cloudpickle.dumps(task)
    return Packed(hashlib.blake2b(content, digest_size=16).hexdigest(), content)


def deliver(packed: Packed) -> None:
    """Leave the content of a task in this process, for when the task is first needed."""
    with _lock:
        if packed.content is not None and packed.digest not in _tasks:
            _delivered[packed.digest] = packed.content


def take_back(packed: Packed) -> None:
    """Forget a content that was delivered and not needed."""
    with _lock:
        _delivered.pop(packed.digest, None)


def attempt(task: Callable, item: Any) -> Report | Raised:
    """Compute an item in this process; an error of the task is an answer, unlike one of the engine."""
    try:
        return Report(task(item))
    except Exception as error:
        return Raised(error)


def attempt_packed(packed: Packed, item: Any) -> Report | Raised | Missing:
    """Compute an item in a process that may or may not have the task."""
    try:
        task = _unpack(packed)
    except Exception as error:
        return Raised(_portable(error))
    if task is None:
        return Missing()
    answer = attempt(task, item)
    return Raised(_portable(answer.error)) if isinstance(answer, Raised) else answer


def _unpack(packed: Packed) -> Callable | None:
    with _lock:
        if packed.digest not in _tasks:
            content = packed.content or _delivered.pop(packed.digest, None)
            if content is None:
                return None
            while len(_tasks) >= KEPT:
                del _tasks[next(iter(_tasks))]
            _tasks[packed.digest] = cloudpickle.loads(content)
        return _tasks[packed.digest]


def _portable(error: Exception) -> Exception:
    """Make an error survive the way back; one that cannot be deserialised would break a whole pool."""
    where = "".join(traceback.format_exception(error))
    try:
        error = cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"where it was computed:\n{where}")
    return error
