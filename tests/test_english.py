"""The English of the library: how docstrings begin, and phrases that no reader should meet."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

VAGUE = re.compile(r"(Be|Bring|Deal|Do|Give|Go|Have|Head|Hold|Know|Lay|Let|Of|Put|Say|Stand|Tell)\b")
"""First words that do not say what a function does; Return, Compute, Build, Sample, Check, Raise do."""

PHRASES = {
    r"told from none": "significant (FDR <= 10 %)",
    r"\btold (apart|of)\b": "distinguished, described",
    r"\bsturd(y|ier)\b": "reliable, robust",
    r"\bdear(er|est|ly)?\b": "expensive",
    r"\bthe house\b": "the architecture",
    r"\brooms\b|\b(a|each|every|its|own|this) room\b": "package",
    r"\bdatum('s)?\b": "example; row, for tables",
    r"\b(that|those) of\b": "repeat the noun, or `its`",
    r"\b(is|are) none\b(?!-)": "there is no ..., is not ...",
    r"\bnone of those\b": "not one of ...",
    r"\bwants? to be\b": "should be, must be",
    r"\bleave it out\b": "omit it",
}
"""What no prose says, and what it says instead."""


def units() -> dict[str, list[Path]]:
    """Return the files of each package or module, page, and notebook."""
    code = {f"dtda_prob/{path.name}": _files(path) for path in (ROOT / "dtda_prob").glob("[a-z_]*")}
    pages = [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("notebooks/*.py"),
    ]
    pages += [path for path in ROOT.glob("benchmarks/**/*.py") if "cache" not in path.parts]
    files = code | {str(path.relative_to(ROOT)): [path] for path in pages}
    return {name: paths for name, paths in sorted(files.items()) if paths}


def _files(path: Path) -> list[Path]:
    files = [path] if path.suffix == ".py" else [*path.glob("**/*.py")]
    return [file for file in files if "templates" not in file.parts]


def functions(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the docstring of each function that has one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and (docstring := ast.get_docstring(node)):
            yield node.lineno, docstring


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of whatever a file says to readers, without code."""
    source = path.read_text()
    if path.suffix == ".md":
        yield from enumerate(_without_code(source).splitlines(), 1)
    elif path.parent.name == "notebooks" and path.stem[0].isdigit():
        yield from ((n, line) for n, line in enumerate(source.splitlines(), 1) if line[:1] == "#")
    else:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.lineno, re.sub(r"`[^`]*`", "", node.value)
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def _without_code(text: str) -> str:
    """Blank out fenced code, code spans, addresses and quoted titles, so that line numbers stay."""
    spans = r"```.*?```|`[^`\n]*`|\]\([^)]*\)|^\*Asked of .*?$"
    return re.sub(spans, lambda found: "\n" * found[0].count("\n"), text, flags=re.S | re.M)


def faults(paths: list[Path]) -> list[str]:
    """List what reads badly in some files, with the remedy."""
    listed = []
    for path in paths:
        where = path.relative_to(ROOT)
        if path.suffix == ".py":
            firsts = ((line, VAGUE.match(text)) for line, text in functions(path.read_text()))
            listed += [f"{where}:{line}: begins with {word[0]!r}" for line, word in firsts if word]
        for line, text in prose(path):
            found = [(p, re.search(p, text.replace("None", ""), re.I)) for p in PHRASES]
            listed += [f"{where}:{line}: {match[0]!r}: {PHRASES[p]}" for p, match in found if match]
    return listed


@pytest.mark.parametrize("name", units())
def test_what_readers_read_is_in_the_words_of_the_field(name):
    assert not (listed := faults(units()[name])), "\n".join(listed)
