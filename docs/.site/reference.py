"""Expand `::: dtda.name`, `::: dtda.package.*` and `::: summary`; every public name has a place."""

import ast
import logging
import re
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[2] / "dtda_prob"
LINE = re.compile(r"^::: dtda\.(?P<name>\S+)$", re.MULTILINE)
SUMMARY = "::: summary"
log = logging.getLogger("mkdocs.plugins.reference")
shown: set[str] = set()


def on_page_markdown(markdown: str, **page: Any) -> str:
    """Replace each line by what mkdocstrings reads, and `::: summary` by a table of names."""
    names = [name for line in LINE.finditer(markdown) for name in _names(line["name"])]
    markdown = markdown.replace(SUMMARY, "\n".join(["| name | |", "| --- | --- |", *map(_row, names)]))
    return LINE.sub(lambda found: "\n".join(map(_block, _names(found["name"]))), markdown)


def on_post_build(**build: Any) -> None:
    """Warn of public names without a place in the reference, which a strict build refuses."""
    for name in sorted(set(_public()) - shown):
        log.warning(f"dtda.{name} is public, and no page of the reference has it")
    shown.clear()


def _names(name: str) -> list[str]:
    package, _, last = name.rpartition(".")
    if last != "*":
        return [name]
    public, inside = _public(), f"dtda_prob.{package}."
    own = [each for each in public if each.rpartition(".")[0] == package]
    return own or [each for each, home in public.items() if home.startswith(inside)]


def _row(name: str) -> str:
    """Return the row of a name: a link, and the first sentence of its docstring."""
    return f"| [`{name.rpartition('.')[2]}`](#{_public()[name]}) | {_summary(_public()[name])} |"


def _summary(home: str) -> str:
    module, _, name = home.rpartition(".")
    path = PACKAGE.parent.joinpath(*module.split("."))
    package = path / "__init__.py"
    path = package if package.exists() else path.with_suffix(".py")
    if (deeper := _imports(path).get(name, home)) != home:
        return _summary(deeper)
    body = ast.parse(path.read_text()).body
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return _first_sentence(ast.get_docstring(node) or "")
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            return _first_sentence(ast.literal_eval(after.value) if isinstance(after, ast.Expr) else "")
    return ""


def _first_sentence(docstring: str) -> str:
    text = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=\w\w[.`)])\s+(?=[A-Z])", text)[0].replace("|", r"\|")


def _block(name: str) -> str:
    shown.add(name)
    label = name.rpartition(".")[2]
    return f"::: {_public()[name]}\n    options: {{heading: dtda.{name}, toc_label: {label}}}\n"


def _public() -> dict[str, str]:
    """Return the home of each public name; names of packages are `package.name`."""
    root = _imports(PACKAGE / "__init__.pyi")
    packages = [name for name, home in root.items() if home == f"dtda_prob.{name}"]
    own = {name: home for name, home in root.items() if name not in packages}
    return own | {f"{one}.{name}": home for one in packages for name, home in _package(one).items()}


def _package(name: str) -> dict[str, str]:
    package = PACKAGE / name / "__init__.py"
    return _imports(package) if package.exists() else _definitions(PACKAGE / f"{name}.py")


def _imports(path: Path) -> dict[str, str]:
    found = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    ours = (node for node in found if node.module and node.module.startswith("dtda_prob"))
    return {each.name: f"{node.module}.{each.name}" for node in ours for each in node.names}


def _definitions(path: Path) -> dict[str, str]:
    defined = (ast.FunctionDef, ast.ClassDef)
    names = (node.name for node in ast.parse(path.read_text()).body if isinstance(node, defined))
    return {name: f"dtda_prob.{path.stem}.{name}" for name in names if not name.startswith("_")}
