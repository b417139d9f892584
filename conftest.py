"""Run the Python of the README and the docs as tests, in a folder of their own.

Tests compile far more than they run, so XLA is told to optimise less, and what is compiled is kept for
the next run, unless the environment says how.
"""

import gc
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


_DAYS = 3
"""How long compiled code is kept: programs that have changed leave theirs behind."""


def _compiled() -> str:
    """Return the folder of compiled code, of this machine alone, without what is old.

    Where the user has no cache folder that can be written, it is a temporary one.
    """
    try:
        cache = platformdirs.user_cache_path("dtda_prob", appauthor=False)
        folder = cache / "tests" / platform.node()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no HOME, and no entry for the user
        return tempfile.mkdtemp(prefix="compiled-")
    for path in folder.iterdir():
        if time.time() - path.stat().st_mtime > _DAYS * 86_400:
            path.unlink(missing_ok=True)
    return str(folder)


if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Workers are started with this environment, so that they find the folder.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Tracing makes many objects that live on: the collector would go through all of them again and again.
gc.set_threshold(20_000, 20, 20)

# Doctests are looked for by importing: each example would run in each worker, before its test does.
_root = Path(__file__).parent
_examples = [*_root.glob("docs/examples/*.py"), *_root.glob("notebooks/[0-9]*.py")]
collect_ignore = [str(path) for path in _examples if not path.name.startswith("test_")]


_MAPPED = 30_000
"""Pieces of code that may stay when a file is done; a process may map 65,530, and no file maps half."""


def _forget() -> None:
    """Free what is compiled when a file is done, where it is much: the next would not fit beside."""
    import jax

    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > _MAPPED:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def forget_what_was_compiled():
    """Free what a file has compiled, where it is much."""
    yield
    _forget()


def _enter(namespace: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    namespace["_home"], namespace["_folder"] = os.getcwd(), tempfile.TemporaryDirectory()
    os.chdir(namespace["_folder"].name)


def _leave(namespace: dict[str, Any]) -> None:
    _forget()
    os.chdir(namespace["_home"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["*.md"], setup=_enter, teardown=_leave
).pytest()
