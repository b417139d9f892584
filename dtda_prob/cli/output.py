"""What a command prints: costs to stderr before it starts, its result to stdout, what comes next."""

import json
import math
import shlex
from collections.abc import Sequence
from typing import Any

import click


def say(message: str) -> None:
    """Tell how it goes, beside the result."""
    click.echo(message, err=True)


def emit(as_json: bool, lines: Sequence[str], result: dict[str, Any], then: Sequence[str] = ()) -> None:
    """Print the result.

    Args:
        as_json: whether it is printed for programs.
        lines: for people.
        result: for programs; what is not finite becomes null.
        then: the words of the command to type next, if there is one.
    """
    if as_json:
        click.echo(json.dumps(_plain(result), allow_nan=False))
        return
    for line in lines:
        click.echo(line)
    if then:
        click.echo(f"Next: {shlex.join(then)}")


def _plain(value: Any) -> Any:
    """Give what JSON has: numbers of NumPy become Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
