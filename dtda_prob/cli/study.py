"""What a command finds in a study, and what it adds beside its result."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dtda_prob.cli.experiment import Experiment
from dtda_prob.cli.options import Request
from dtda_prob.cli.output import say

if TYPE_CHECKING:
    import pandas as pd

    from dtda_prob.studies.price import Price

EXAMPLES = "examples"


def begin(request: Request, name: str) -> "pd.Series | None":
    """Say what the study has under a name, None if nothing.

    Raises:
        click.ClickException: if it has something, and is not to go on with it.
    """
    if not request.store.exists():
        return None
    from dtda_prob.storage import contents

    table = contents(request.store)
    found = table.loc[name] if name in table.index else None
    if found is not None and not request.resume:
        raise click.ClickException(
            f"{str(request.store)!r} has {name!r} already; leave out --no-resume to go on with it, "
            "or choose another --name"
        )
    return found


def announce(task: str, price: Callable[[], "Price"] | None, engine: str = "here") -> "Price | None":
    """Say what a step will cost, before it starts; nothing, if what is there is what is asked for."""
    if price is None:
        say(f"{task}: looking up what the study has.")
        return None
    say(f"{task}: compiling, and trying a few draws ...")
    found = price()
    where = "" if engine in ("here", "devices") else f", if it were computed here and not by {engine}"
    say(f"{task}: {found}{where}.")
    if found.bytes > found.memory:
        say("Warning: that is more memory than a device has; expect it to fail, or to be slow.")
    return found


def as_numbers(price: "Price | None") -> dict[str, Any]:
    """Give a price as part of a result for programs."""
    return {"cost": None if price is None else price._asdict()}


def keep_examples(experiment: Experiment, store: Path) -> None:
    """Keep what a person can look at of each datum, for the report, unless that is there.

    A variable `show` of the experiment's file may hold options of `report.examples`.
    """
    from dtda_prob.report import examples
    from dtda_prob.storage import contents, save

    if EXAMPLES in contents(store).index:
        return
    options = getattr(experiment.module, "show", {})
    save(examples(experiment.training, **options), store, name=EXAMPLES, kind="examples")
