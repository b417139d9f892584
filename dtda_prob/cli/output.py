"""What a command prints: costs to stderr before it starts, its result to stdout, the next command."""

import json
import math
import shlex
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import click

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""
MOST_ROWS = 5
"""Rows that are listed of a table; --json has them all."""
LONGEST, LONGEST_NAME = 60, 24
"""Characters of a word in a table, and of a name beside its description."""
WIDTH = 79
"""Columns of a plain terminal that are used."""


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; all else goes to stderr."
)


def completed_by(words: Sequence[str]) -> Callable[..., list[str]]:
    """Return what makes shells complete an option by some words."""
    return lambda context, option, begun: [word for word in words if word.startswith(begun)]


class Result(NamedTuple):
    """The result of a command: lines for people, data for programs, the words of the next command."""

    lines: Sequence[str]
    data: dict[str, Any]
    then: Sequence[str] = ()


def say(message: str) -> None:
    """Print progress to stderr."""
    click.echo(printable(message), err=True)


@contextmanager
def waiting() -> Generator[None]:
    """Show on a terminal how many seconds pass inside."""
    done, start, is_shown = threading.Event(), time.monotonic(), sys.stderr.isatty()

    def count() -> None:
        while not done.wait(1):
            click.echo(f"\r  {time.monotonic() - start:.0f} s", nl=False, err=True)
        click.echo("\r        \r", nl=False, err=True)

    counting = threading.Thread(target=count, daemon=True)
    if is_shown:
        counting.start()
    try:
        yield
    finally:
        done.set()
        if is_shown:
            counting.join()


def emit(as_json: bool, result: Result) -> None:
    """Print a result for programs, where what is not finite becomes null, or for people."""
    if as_json:
        click.echo(json.dumps(_plain(result.data), allow_nan=False))
        return
    for line in result.lines:
        click.echo(printable(line))
    if result.then:
        click.echo(printable(f"Next: {shlex.join(result.then)}"))


def printable(text: str) -> str:
    r"""Return text that a terminal shows and does not act on: control characters are escaped.

    >>> print(printable("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def aligned(rows: Sequence[Sequence[Any]], most: int | None = None) -> list[str]:
    """Return rows of words in columns, with a line for those beyond `most`."""
    shown = [[_word(word) for word in row] for row in rows[:most]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = [
        "  " + "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    left = len(rows) - len(shown)
    return [*lines, f"  ... and {left} more"] if left else lines


def definitions(pairs: Sequence[tuple[str, str]], longest: int = LONGEST_NAME) -> list[str]:
    """Return names and what they are in two columns, wrapped to the width of a plain terminal."""
    names = [_word(name, longest) for name, _ in pairs]
    indent = 4 + max(map(len, names))
    return [
        line
        for name, (_, text) in zip(names, pairs, strict=True)
        for line in textwrap.wrap(
            printable(text).replace("\n", "\\n"),
            WIDTH,
            initial_indent=f"  {name}".ljust(indent),
            subsequent_indent=" " * indent,
        )
    ]


def _word(value: Any, longest: int = LONGEST) -> str:
    text = printable(str(value)).replace("\n", "\\n")
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _plain(value: Any) -> Any:
    """Return what JSON has: numbers of NumPy become Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
