"""Expand `::: dtda.name` and `::: dtda.room.*` on pages, and see that every public name is on one."""

import ast
import logging
import re
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[2] / "dtda_prob"
LINE = re.compile(r"^::: dtda\.(?P<name>\S+)$", re.MULTILINE)
log = logging.getLogger("mkdocs.plugins.reference")
shown: set[str] = set()


def on_page_markdown(markdown: str, **page: Any) -> str:
    """Replace each line by what mkdocstrings reads: where the object lives, and its public name."""
    return LINE.sub(lambda found: "\n".join(map(_block, _names(found["name"]))), markdown)


def on_post_build(**build: Any) -> None:
    """Warn of public names without a place in the reference, which a strict build refuses."""
    for name in sorted(set(_public()) - shown):
        log.warning(f"dtda.{name} is public, and no page of the reference has it")
    shown.clear()


def _names(name: str) -> list[str]:
    room, _, last = name.rpartition(".")
    return [each for each in _public() if each.rpartition(".")[0] == room] if last == "*" else [name]


def _block(name: str) -> str:
    shown.add(name)
    label = name.rpartition(".")[2]
    return f"::: {_public()[name]}\n    options: {{heading: dtda.{name}, toc_label: {label}}}\n"


def _public() -> dict[str, str]:
    """Give where each public name lives, rooms' by `room.name`."""
    root = _imports(PACKAGE / "__init__.py")
    rooms = [name for name, home in root.items() if home == f"dtda_prob.{name}"]
    own = {name: home for name, home in root.items() if name not in rooms}
    return own | {f"{room}.{name}": home for room in rooms for name, home in _room(room).items()}


def _room(room: str) -> dict[str, str]:
    package = PACKAGE / room / "__init__.py"
    return _imports(package) if package.exists() else _definitions(PACKAGE / f"{room}.py")


def _imports(path: Path) -> dict[str, str]:
    found = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    ours = (node for node in found if node.module and node.module.startswith("dtda_prob"))
    return {each.name: f"{node.module}.{each.name}" for node in ours for each in node.names}


def _definitions(path: Path) -> dict[str, str]:
    defined = (ast.FunctionDef, ast.ClassDef)
    names = (node.name for node in ast.parse(path.read_text()).body if isinstance(node, defined))
    return {name: f"dtda_prob.{path.stem}.{name}" for name in names if not name.startswith("_")}
