"""How a command ends when it does not end well: what is said, and the exit code."""

import errno
import re
import sys
import traceback
import warnings
from typing import Any, TextIO

import click

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_SAFE = re.compile(r"\d+ of \d+ shards ")


class Guarded(click.Group):
    """A group that turns errors of the library into one line, and lists commands as they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands]

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning  # ty: ignore[invalid-assignment]
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as error:
                click.echo(_interrupted(error), err=True)
                ctx.exit(INTERRUPTED)
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except Exception as error:
                if ctx.params["traceback"] or not _is_told(error):
                    raise
                raise click.ClickException(_told(error)) from error


def _is_told(error: Exception) -> bool:
    """Say whether the message is enough: errors of other kinds are faults of ours, or of a model."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return False
    known = ValueError, NotImplementedError, OSError, ImportError
    return isinstance(error, known) or _is_engine_error(error) or _user_frame(error) is not None


def _is_engine_error(error: Exception) -> bool:
    return any(kind.__name__ == "EngineError" for kind in type(error).__mro__)


def _told(error: Exception) -> str:
    said = str(error) or type(error).__name__
    if not isinstance(error, ValueError | NotImplementedError | OSError | ImportError | RuntimeError):
        said = f"{type(error).__name__}: {said}"
    parts = [said.split("\n--------------------\n")[0], *_what_is_safe(error)]
    if (frame := _user_frame(error)) is not None:
        parts.insert(1, f'(raised in "{frame.filename}", line {frame.lineno}, in {frame.name})')
    return "\n".join(parts)


def _user_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Give the innermost line of the user's experiment that the error came through."""
    from dtda_prob.cli.experiment import loaded_files

    files = {str(file) for file in loaded_files()}
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame for frame in reversed(frames) if frame.filename in files), None)


def _interrupted(error: KeyboardInterrupt) -> str:
    safe = _what_is_safe(error) or ["What is in the store is safe; the same command goes on."]
    return "\n".join(["Interrupted.", *safe])


def _what_is_safe(error: BaseException) -> list[str]:
    """Give the notes of the library that say what has been finished."""
    notes = [note for note in getattr(error, "__notes__", []) if _SAFE.match(note)]
    return [note.replace("call the same again to go on", "the same command goes on") for note in notes]


def _say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    click.echo(f"Warning: {message}", err=True, file=sys.stderr)
