"""The command itself: its subcommands, in the order of use, and how it ends when they fail."""

import errno
import re
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

import click

from dtda_prob.cli.attribute import attribute
from dtda_prob.cli.check import check
from dtda_prob.cli.evaluate import diagnose, evaluate
from dtda_prob.cli.experiment import user_frame
from dtda_prob.cli.new import new
from dtda_prob.cli.output import INTERRUPTED, printable
from dtda_prob.cli.sample import push, sample
from dtda_prob.cli.store import info, report

SHELLS = ("bash", "zsh", "fish")
RESUME = "Finished results are in the store; run the same command again to resume."
KNOWN = ValueError, NotImplementedError, OSError, ImportError, RuntimeError
"""Errors whose message is enough without their type."""

_STORED = re.compile(r"\d+ of \d+ blocks are safe as name='([^']*)' in store='([^']*)'")


class Guarded(click.Group):
    """A group that prints errors of the library on one line, and lists commands in order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands]

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning  # ty: ignore[invalid-assignment]
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as error:
                safe = _what_is_safe(error) or [RESUME]
                click.echo("\n".join(["Interrupted.", *safe]), err=True)
                ctx.exit(INTERRUPTED)
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except BaseException as error:
                if ctx.params["traceback"] or not _is_clear(error):
                    raise
                raise click.ClickException(printable(_message(error))) from error


def _is_clear(error: BaseException) -> bool:
    """Return whether the message is enough: other errors are bugs, of ours or of a model."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return False
    clear = ValueError, NotImplementedError, OSError, ImportError
    return isinstance(error, clear) or _is_engine_error(error) or user_frame(error) is not None


def _is_engine_error(error: BaseException) -> bool:
    return any(kind.__name__ == "EngineError" for kind in type(error).__mro__)


def _message(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    text = text if isinstance(error, KNOWN) else f"{type(error).__name__}: {text}"
    parts = [text.split("\n--------------------\n")[0], *_what_is_safe(error)]
    if (frame := user_frame(error)) is not None:
        parts.insert(1, f'(raised in "{frame.filename}", line {frame.lineno}, in {frame.name})')
    return "\n".join(parts)


def _what_is_safe(error: BaseException) -> list[str]:
    """Return what the library kept of the results that it was computing."""
    found = [_STORED.match(note) for note in getattr(error, "__notes__", [])]
    return [
        f"{_saved(*match.groups())} in {match[2]}; run the same command again to resume."
        for match in found
        if match is not None
    ]


def _saved(name: str, store: str) -> str:
    """Return how much of a result is saved: draws of a sample set, a share of anything else."""
    from dtda_prob.storage import contents

    try:
        row = contents(store).loc[name]
    except (KeyError, OSError, ValueError):
        return f"What is finished of {name} is saved"
    if row["kind"] == "sample set":
        return f"{int(row['draws']):,} draws of {name} are saved"
    return f"{row['finished']:.0%} of {name} is saved"


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    click.echo(printable(f"Warning: {message}"), err=True, file=sys.stderr)


@click.command(epilog="Example: dtda demo --draws 16")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to, or to resume in.  [default: the first free dtda-demo-N]",
)
@click.option("--draws", default=64, show_default=True, help="Models to train, a multiple of 4.")
@click.option("--seed", default=0, show_default=True, help="Seed of all randomness.")
def demo(output: Path | None, draws: int, seed: int) -> None:
    """Run the whole idea on handwritten digits, in about a minute."""
    if draws < 8 or draws % 4:
        raise click.BadParameter(
            f"{draws} must be a multiple of 4, and 8 or more", param_hint="--draws"
        )
    if output is not None and output.exists() and not (output / "study.zarr").exists():
        raise click.BadParameter(f"{output} exists; name a new folder", param_hint="--output")
    from dtda_prob.demo import run

    run(output or free_folder(), draws, seed, click.echo)


def free_folder() -> Path:
    """Return the first folder for a demonstration that does not exist."""
    number = 1
    while (path := Path(f"dtda-demo-{number}")).exists():
        number += 1
    return path


@click.command(
    epilog="Example: dtda completion bash >> ~/.bashrc   or: dtda completion fish > "
    "~/.config/fish/completions/dtda.fish"
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script that makes a SHELL complete commands, options and files."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "dtda", "_DTDA_COMPLETE").source())


COMMANDS = (demo, check, new, sample, push, attribute, evaluate, diagnose, report, info, completion)


@click.group(
    "dtda",
    cls=Guarded,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: dtda new --csv data.csv --target COLUMN   (or see everything: dtda demo)",
)
@click.version_option(package_name="dtda_prob")
@click.option(
    "--traceback", is_flag=True, envvar="DTDA_TRACEBACK", help="Show where an error was raised."
)
def main(traceback: bool) -> None:
    """Distributional training data attribution: how trained models change when the data change."""


for command in COMMANDS:
    main.add_command(command)
