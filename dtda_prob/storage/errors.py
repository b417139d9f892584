"""Errors of stores, and untrusted text in them."""

import errno
from pathlib import Path
from typing import Any

WHY = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; name a store elsewhere",
    errno.EACCES: "permission is denied; name a store elsewhere, or change its permissions",
    errno.EPERM: "permission is denied; name a store elsewhere, or change its permissions",
    errno.ENOENT: "a file or folder of it is gone; if it was moved, pass its new path",
}


class StoreError(ValueError):
    """A store is damaged, in use, of another program, or not safe to open."""


def explained(error: OSError, path: Path) -> OSError:
    """Return an error that explains why a store cannot be written, and what is safe."""
    why = WHY.get(error.errno or 0, error.strerror or str(error))
    message = f"store={str(path)!r} cannot be written: {why}. What is finished is safe: call again"
    return OSError(error.errno, message)


def printable(text: Any) -> str:
    """Return a text from a store with control characters escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))
