"""Where arms are kept and computed: options that all of this room share."""

from pathlib import Path
from typing import Any, TypedDict

from dtda_prob.outcomes.study import Place


class Where(TypedDict, total=False):
    """Options of whatever trains.

    Attributes:
        store: the folder of a study that keeps all draws as they are made; the same call goes on where
            one was interrupted. Nothing is kept if it is left out.
        name: of what is kept in the store.
        engine: where draws are computed; see `sample`.
        progress: whether to show a progress bar on a terminal; it is shown if this is left out.
    """

    store: str | Path | None
    name: str
    engine: Any
    progress: bool


def check_where(where: Where) -> None:
    """Refuse options that there are not.

    Raises:
        TypeError: if there are others than those of `Where`.
    """
    unknown = set(where) - set(Where.__annotations__)
    if unknown:
        raise TypeError(f"{sorted(unknown)} are no options; there are {sorted(Where.__annotations__)}")


def place_of(where: Where, name: str) -> Place | None:
    """Give the place that is meant, under some name if it has none; None where nothing is kept."""
    store = where.get("store")
    if store is None:
        return None
    own = where.get("name", name)
    return Place(Path(store), own, where.get("engine"), where.get("progress", True))


def part_of(where: Where, part: str) -> Where:
    """Give the place of a part, whose name follows that of the whole."""
    named = f"{where['name']}.{part}" if "name" in where else part
    return {**where, "name": named}
