"""The outcome of a trial: a table, and what is claimed of it."""

from typing import NamedTuple

import pandas as pd


class Outcome(NamedTuple):
    """What a trial found.

    Attributes:
        table: what was measured.
        claims: sentences that are claimed, and whether each holds.
    """

    table: pd.DataFrame
    claims: dict[str, bool]

    def text(self) -> str:
        """Write it as a section of a page."""
        table = self.table.to_markdown(floatfmt=".4g", index=False)
        claims = [
            f"- {'Holds' if holds else '**Does not hold**'}: {c}" for c, holds in self.claims.items()
        ]
        return "\n".join([table, "", *claims])
