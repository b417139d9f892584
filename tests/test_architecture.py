"""The code keeps to the table of packages in docs/design.md, in small modules with few arguments."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = "dtda_prob"
LIKE_USERS = {"cli", "demo"}
"""What imports the whole library, as its users do."""
MOST_LINES, MANY_PARAMETERS, MOST_FUNCTIONS = 400, 8, 5


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in sorted((ROOT / LIBRARY).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}


def table() -> dict[str, int]:
    """Return the row of each package in the table of docs/design.md."""
    section = (ROOT / "docs/design.md").read_text().split("\n## Packages\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")][2:]
    cells = [re.findall(r"`(\w+)(?:/|\.py)`", row) for row in rows]
    return {name: row for row, names in enumerate(cells) for name in names}


def package(module: str) -> str:
    """Return the package or module right under the library; empty for the library itself."""
    return module.partition(".")[2].partition(".")[0]


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a module that run, which what is there for type checkers only does not."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from running(node)


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield the modules of the library that nodes import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name.split(".")[0] == LIBRARY)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: import by the full name"
            source = node.module or ""
            if source.split(".")[0] == LIBRARY:
                names = (f"{source}.{one.name}" for one in node.names)
                yield from (name if name in TREES else source for name in names)


EDGES = {module: {*imports(ast.walk(tree))} for module, tree in TREES.items() if module != LIBRARY}


def test_every_package_stands_in_the_table():
    assert {*table()} == {package(module) for module in EDGES}


def test_imports_point_down_the_table():
    rows = table()
    up = [
        f"{module} imports {target}"
        for module, targets in EDGES.items()
        for target in targets
        if target != LIBRARY and rows[package(target)] < rows[package(module)]
    ]
    assert not up


def test_only_what_runs_the_library_imports_all_of_it():
    whole = {module for module, targets in EDGES.items() if LIBRARY in targets}
    assert {package(module) for module in whole} <= LIKE_USERS


def test_no_imports_go_round_in_circles():
    graph = {module: {*imports(running(tree))} - {LIBRARY} for module, tree in TREES.items()}
    TopologicalSorter(graph).prepare()


def test_packages_of_a_row_do_not_import_each_other_both_ways():
    pairs = {(package(m), package(t)) for m, targets in EDGES.items() for t in targets}
    assert not [pair for pair in pairs if pair[0] != pair[1] and pair[::-1] in pairs]


def test_modules_are_small():
    lines = {module: len(path.read_text().splitlines()) for module, path in PATHS.items()}
    assert not {module: number for module, number in lines.items() if number > MOST_LINES}


def num_parameters(arguments: ast.arguments) -> int:
    """Count what a caller may pass; all that a star takes counts as one."""
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    stars = [one for one in (arguments.vararg, arguments.kwarg) if one]
    return len([one for one in named if one.arg not in ("self", "cls")]) + len(stars)


def test_few_functions_have_many_parameters():
    wide = [
        f"{module}.{node.name}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and num_parameters(node.args) >= MANY_PARAMETERS
    ]
    assert len(wide) <= MOST_FUNCTIONS, wide


def test_modules_of_tests_have_names_of_their_own():
    """Collected together they are imported by name, and one would be found for another."""
    names = [path.stem for path in (ROOT / "tests").rglob("*.py")]
    assert sorted(names) == sorted({*names})
