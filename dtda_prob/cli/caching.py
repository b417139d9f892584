"""Keep what JAX compiles from one command to the next."""

import os
import platform
from pathlib import Path

MOST_BYTES = 2**30


def keep_compilations() -> None:
    """Let JAX keep compiled code in the user's cache folder, unless the environment says where.

    Each machine has a folder of its own, since code for one processor may not run on another. It holds
    a GiB at most. To be called before JAX is imported, and inherited by processes that are started.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = _folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(MOST_BYTES))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("dtda_prob", appauthor=False) / "jax" / platform.node()
