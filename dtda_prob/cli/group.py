"""The command itself: its subcommands, in the order in which they are used."""

import click

from dtda_prob.cli.attributing import attribute
from dtda_prob.cli.checking import diagnose, evaluate
from dtda_prob.cli.drawing import push, sample
from dtda_prob.cli.failures import Guarded
from dtda_prob.cli.reading import info, report
from dtda_prob.cli.starting import completion, demo, new

COMMANDS = (demo, new, sample, push, attribute, evaluate, diagnose, report, info, completion)


@click.group(
    "dtda",
    cls=Guarded,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: dtda new --csv data.csv --target COLUMN   (or see it all: dtda demo)",
)
@click.version_option(package_name="dtda_prob")
@click.option(
    "--traceback", is_flag=True, envvar="DTDA_TRACEBACK", help="Show where an error was raised."
)
def main(traceback: bool) -> None:
    """Distributional training data attribution: how trained models move when the data move."""


for command in COMMANDS:
    main.add_command(command)
