import dataclasses

import jax
import matplotlib as mpl
import pytest

from dtda_prob.studies.options import Options

mpl.use("agg")

CHUNK = 4
"""Trainings per compiled call: calls of one size share what is compiled, however many draws."""


def _set_default(name: str, value: int) -> None:
    own = [each.name for each in dataclasses.fields(Options)]
    defaults = list(Options.__init__.__defaults__)
    defaults[own.index(name)] = Options.__dataclass_fields__[name].default = value
    Options.__init__.__defaults__ = tuple(defaults)


_set_default("chunk_size", CHUNK)


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield
