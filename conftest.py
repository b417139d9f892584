"""Run the Python of the README and the docs as tests, in a folder of their own.

Tests compile far more than they run, so XLA is told to optimise less, unless the environment says how.
"""

import os
import tempfile
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def _enter(namespace: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    namespace["_home"], namespace["_folder"] = os.getcwd(), tempfile.TemporaryDirectory()
    os.chdir(namespace["_folder"].name)


def _leave(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_home"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["*.md"], setup=_enter, teardown=_leave
).pytest()
