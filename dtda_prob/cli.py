"""The `dtda` command. It parses before it imports anything heavy."""

from pathlib import Path

import click


@click.group()
@click.version_option(package_name="dtda_prob")
def main() -> None:
    """Distributional training data attribution: how trained models move when the data move."""


@main.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to, or to go on in.  [default: the first free dtda-demo-N]",
)
@click.option("--draws", default=64, show_default=True, help="Models to train, a multiple of 4.")
@click.option("--seed", default=0, show_default=True, help="Seed of all randomness.")
def demo(output: Path | None, draws: int, seed: int) -> None:
    """Run the whole idea on handwritten digits, in about a minute."""
    if draws < 8 or draws % 4:
        raise click.BadParameter(f"{draws} is not a multiple of 4 from 8 on", param_hint="--draws")
    if output is not None and output.exists() and not (output / "study.zarr").exists():
        raise click.BadParameter(f"{output} exists; name a new folder", param_hint="--output")
    from dtda_prob.demo import run
    from dtda_prob.storage import StoreError

    try:
        run(output or _free_folder(), draws, seed, click.echo)
    except StoreError as error:
        raise click.ClickException(str(error)) from error


def _free_folder() -> Path:
    number = 1
    while (path := Path(f"dtda-demo-{number}")).exists():
        number += 1
    return path
