"""A study: a store that belongs to one program and its data."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dtda_prob.fingerprints import differences, of_program, versions
from dtda_prob.program import Program
from dtda_prob.storage import ATTRIBUTE, FORMAT, StoreError, description, inspect, writing


@contextmanager
def study(path: Path, program: Program) -> Generator[None]:
    """Hold the store of a program's study for writing; make it if it does not exist.

    Raises:
        StoreError: if the store belongs to another program or other data, is damaged, or in use.
        OSError: if it cannot be written to.
    """
    here = of_program(program)
    about = {"format": FORMAT, "program": here, "versions": versions()}
    if path.exists():
        inspect(path)
    with writing(path, {ATTRIBUTE: json.dumps(about)}):
        found = differences(description(path, "").get("program", {}), here)
        if found:
            raise StoreError(
                f"store={str(path)!r} is that of another program or other data: {'; '.join(found)}. "
                "Name another store, or go on with the program that it was begun with"
            )
        yield
