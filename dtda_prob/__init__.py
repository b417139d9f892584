"""Distributional training data attribution.

How does the distribution of trained models move when the data move? See `docs/design.md`.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text())
_HOMES = {
    each.name: node.module
    for node in _STUB.body
    if isinstance(node, ast.ImportFrom) and node.module
    for each in node.names
}
"""The module of each public name; type checkers read the same file."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dtda_prob' has no attribute {name!r}")
    if _HOMES[name] == __name__:
        return import_module(f"{__name__}.{name}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
